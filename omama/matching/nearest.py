"""Nearest neighbours as a model: what a run keeps whose training never came up to them.

A model with a descriptor part can hold k-NN exactly: its own part is the mask part of the
descriptor as it is, and the trained part does not count. So a checkpoint is never below k-NN on
val, where it is of a kind with a place for that.
"""

from dataclasses import replace
from pathlib import Path

import torch

from omama.checkpoint import load_checkpoint, save_checkpoint
from omama.dataset import Dataset
from omama.features.store import FeatureStore
from omama.matching.model import OMama
from omama.matching.model_files import METHOD
from omama.matching.val_scores import HowToValidate, score_val

_NOTHING = -60.0
"""Log odds of a share that rounds to nothing."""


@torch.no_grad()
def nearest_model(model: OMama) -> OMama:
    """The same model, but its similarity is the cosine of the descriptors' mask parts."""
    width = model.config.feature_width
    found = OMama(replace(model.config, own_channels=width))
    assert found.descriptor_part is not None
    found.descriptor_part.map.copy_(torch.eye(2 * width, width))
    found.descriptor_part.logit.fill_(_NOTHING)
    return found


def keep_nearest(
    best: Path, model: OMama, val: Dataset, store: FeatureStore, how: HowToValidate
) -> float:
    """Put nearest neighbours into a run's best checkpoint; returns their val IoU.

    All ranks call it, the first one writes.
    """
    nearest = nearest_model(model).to(how.accelerator.device)
    scored = score_val(nearest, val, store, replace(how, trained_head=False))
    if how.accelerator.is_main_process:
        kept = load_checkpoint(best, method=METHOD)
        calibration = scored.calibration.to_dict() if scored.calibration else None
        save_checkpoint(
            replace(
                kept,
                config=nearest.config.to_dict(),
                weights=nearest.state_dict(),
                val_iou=scored.iou,
                calibration=calibration,
                decision=None,
                step=0,
                epoch=0,
                state=replace(kept.state, average=None, optimizer=None),
            ),
            best,
        )
    how.accelerator.wait_for_everyone()
    return scored.iou
