"""Training and prediction of object correspondence between ego and exo views.

METHODS lists the methods; `train` and `predict` take a method's name. All other names are imported
from their own module: `from omama.features.registry import BACKBONES`.
"""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from omama.checkpoint import Checkpoint as Checkpoint
    from omama.checkpoint import load_checkpoint as load_checkpoint
    from omama.config import Features as Features
    from omama.dataset import Dataset as Dataset
    from omama.loop import Loop as Loop
    from omama.methods import METHODS as METHODS
    from omama.methods import Method as Method
    from omama.methods import predict as predict
    from omama.methods import train as train
    from omama.pipeline import PipelineOptions as PipelineOptions
    from omama.pipeline import run_pipeline as run_pipeline
    from omama.tables.loading import load_dataset as load_dataset
    from omama.task import LoopConfig as LoopConfig
    from omama.task import Task as Task
    from omama.writing import predict_run as predict_run
    from omama.writing import write_run as write_run
else:
    __getattr__, __dir__, __all__ = lazy.exports(
        __name__,
        {
            "checkpoint": ("Checkpoint", "load_checkpoint"),
            "config": ("Features",),
            "dataset": ("Dataset",),
            "loop": ("Loop",),
            "methods": ("METHODS", "Method", "predict", "train"),
            "pipeline": ("PipelineOptions", "run_pipeline"),
            "tables.loading": ("load_dataset",),
            "task": ("LoopConfig", "Task"),
            "writing": ("predict_run", "write_run"),
        },
    )
