"""Every protocol on one pair of files: one summary each, and one table of them.

The three protocols of whole prediction files (`evaluate`) come first, then those that score only
objects with a mask in both views (`both_visible`). A protocol that cannot score the files has the
reason in place of its numbers, so that one gap in a prediction file does not hide the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.both_visible import mean_overlap, score_relation, score_vggt
from egoexo_tools.evaluation.evaluate import (
    FILE_PROTOCOLS,
    EvaluateOptions,
    check_predictions,
    score_predictions,
)
from egoexo_tools.evaluation.ground_truth import read_ground_truth
from egoexo_tools.evaluation.metrics import METRICS, VISIBILITY_ACCURACY
from egoexo_tools.evaluation.predictions import read_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.text_table import text_table
from egoexo_tools.vocab import Protocol


@dataclass(frozen=True)
class ProtocolFacts:
    """What a reader needs to know about a protocol's numbers."""

    averaged: str
    """What the mean is over."""
    published: str
    """Whose published numbers are of this kind."""


FACTS: Mapping[Protocol, ProtocolFacts] = {
    Protocol.OFFICIAL: ProtocolFacts("visible samples", "benchmark server, O-MaMa, CCMP"),
    Protocol.OMAMA: ProtocolFacts("visible samples", "O-MaMa's own evaluation"),
    Protocol.LM_EEC: ProtocolFacts("predicted frames", "LM-EEC"),
    Protocol.BOTH_VISIBLE: ProtocolFacts("objects", "V2-SAM re-run, 40.24 / 46.38"),
    Protocol.BOTH_VISIBLE_FRAMES: ProtocolFacts(
        "objects of a pair, then pairs", "V2-SAM re-run, 44.93 / 51.42"
    ),
    Protocol.V2SAM_RELEASED: ProtocolFacts(
        "the first n objects of n pairs", "V2-SAM's program, 44.65 / 49.04"
    ),
    Protocol.OBJECTRELATOR: ProtocolFacts(
        "areas of a take, then takes", "ObjectRelator on val, 45.4 / 50.9"
    ),
    Protocol.VGGT_S: ProtocolFacts("samples", "VGGT-S (its table: every 20th sample)"),
}
BOTH_VISIBLE_PROTOCOLS = tuple(name for name in Protocol if name not in FILE_PROTOCOLS)


def evaluate_protocols(
    ground_truth: Path,
    predictions_path: Path,
    *,
    protocols: Sequence[Protocol] = tuple(Protocol),
    root: DatasetRoot | None = None,
    relation: Path | None = None,
    ranks: int = 1,
    options: EvaluateOptions = EvaluateOptions(),
    quiet: bool = False,
) -> dict[Protocol, dict[str, Any]]:
    """Protocol → summary, or {"error": reason} where the files do not fit it.

    `relation` is a relation file whose samples and order the both-visible protocols use; `ranks`
    the number of processes of V2-SAM's released metric. Without `options.partial` a missing
    prediction is an error in all protocols but omama and lm-eec. Raises DataError if a file cannot
    be read.
    """
    truth = read_ground_truth(ground_truth)
    predictions = read_predictions(predictions_path, direction=options.direction or truth.direction)
    check_predictions(predictions_path, truth.split)
    labels = {
        "direction": str(predictions.direction),
        "split": options.split or truth.split or "unstated",
    }
    summaries: dict[Protocol, dict[str, Any]] = {}
    overlaps = None
    for protocol in protocols:
        try:
            if protocol not in BOTH_VISIBLE_PROTOCOLS:
                summaries[protocol] = score_predictions(
                    truth, predictions, protocol=protocol, root=root, options=options, quiet=quiet
                ).summary
                continue
            if protocol is Protocol.VGGT_S:
                scores = score_vggt(truth, predictions)
            else:
                # Four protocols average the same samples.
                overlaps = overlaps or score_relation(truth, predictions, relation=relation)
                scores = overlaps
            if scores.problems.counts and not options.partial:
                raise DataError(
                    f"{predictions.path} does not fit {truth.path} under the {protocol} protocol:\n"
                    f"{scores.problems.text()}\n--partial scores the rest"
                )
            summaries[protocol] = {
                "protocol": str(protocol),
                **labels,
                **mean_overlap(scores, protocol, ranks=ranks),
                "coverage": {
                    "scored": len(scores.samples),
                    "complete": not scores.problems.counts,
                    "problems": scores.problems.to_json(),
                },
            }
        except DataError as error:
            summaries[protocol] = {"protocol": str(protocol), **labels, "error": str(error)}
    return summaries


def format_protocols(summaries: Mapping[Protocol, Mapping[str, Any]]) -> str:
    """One line per protocol: samples, mean over, IoU, Dice, contour, location, visibility, whose.

    Reasons of protocols without numbers follow below the table.
    """
    numbers = ("iou", "dice", *list(METRICS)[1:3], VISIBILITY_ACCURACY)
    header = ("protocol", "samples", "mean over", "IoU", "Dice", "contour", "location",
              "visibility", "published numbers of this kind")  # fmt: skip
    rows = []
    for protocol, summary in summaries.items():
        values = [summary.get(name) for name in numbers]
        samples = summary.get("samples_visible", summary.get("samples"))
        rows.append(
            (
                str(protocol),
                "" if samples is None else f"{samples:,}",
                FACTS[protocol].averaged,
                *("" if value is None else f"{value:.4f}" for value in values),
                FACTS[protocol].published,
            )
        )
    errors = [
        f"{protocol}: not computed. {summary['error']}"
        for protocol, summary in summaries.items()
        if "error" in summary
    ]
    return "\n\n".join([text_table(header, rows), *errors])
