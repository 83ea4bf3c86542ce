"""From predictions to scores; knows no method. METRICS is where a new metric is entered."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.evaluation.compare import Comparison as Comparison
    from egoexo_tools.evaluation.compare import comparison_text as comparison_text
    from egoexo_tools.evaluation.evaluate import EvaluateOptions as EvaluateOptions
    from egoexo_tools.evaluation.evaluate import Evaluation as Evaluation
    from egoexo_tools.evaluation.evaluate import evaluate_run as evaluate_run
    from egoexo_tools.evaluation.ground_truth import GroundTruth as GroundTruth
    from egoexo_tools.evaluation.ground_truth import read_ground_truth as read_ground_truth
    from egoexo_tools.evaluation.ground_truth import write_ground_truth as write_ground_truth
    from egoexo_tools.importing.predictions import import_run as import_run
    from egoexo_tools.evaluation.metrics import METRICS as METRICS
    from egoexo_tools.evaluation.metrics import MaskScores as MaskScores
    from egoexo_tools.evaluation.metrics import Metric as Metric
    from egoexo_tools.evaluation.metrics import official_size as official_size
    from egoexo_tools.evaluation.metrics import score_masks as score_masks
    from egoexo_tools.evaluation.predictions import Predictions as Predictions
    from egoexo_tools.evaluation.predictions import read_predictions as read_predictions
    from egoexo_tools.evaluation.predictions import write_predictions as write_predictions
    from egoexo_tools.evaluation.score_files import read_scores as read_scores
    from egoexo_tools.evaluation.submission import submit as submit
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "compare": ("Comparison", "comparison_text"),
            "evaluate": ("EvaluateOptions", "Evaluation", "evaluate_run"),
            "ground_truth": ("GroundTruth", "read_ground_truth", "write_ground_truth"),
            "import_predictions": ("import_run",),
            "metrics": ("METRICS", "MaskScores", "Metric", "official_size", "score_masks"),
            "predictions": ("Predictions", "read_predictions", "write_predictions"),
            "score_files": ("read_scores",),
            "submission": ("submit",),
        },
    )
