"""How good a model is on val: IoU of the chosen proposals, where visibility is decided, and what is
kept where nearest neighbours are better."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from egoexo_tools.arrays import Float64
from omama.checkpoint import load_checkpoint, save_checkpoint
from omama.confidence import Calibration, calibrate
from omama.dataset import UNANNOTATED, Dataset, Pairs
from omama.features.store import FeatureStore
from omama.matching.loading import frame_order, load_batches
from omama.matching.model import OMama
from omama.matching.model_files import METHOD
from omama.matching.objective import (
    Matches,
    compare_bucket,
    descriptor_similarity,
    visibility_logit,
    without_object,
)
from omama.matching.samples import Bucket

_NOTHING = -60.0
"""Log odds of a share that rounds to nothing."""


@dataclass(frozen=True)
class ValidationSettings:
    """What a run's validations have in common."""

    batch_pairs: int
    accelerator: Accelerator
    trained_head: bool
    bf16: bool


@dataclass(frozen=True)
class Validation:
    """What one validation found."""

    iou: float
    """Mean over visible pairs of the IoU of the most similar proposal, at the proposals' size."""
    calibration: Calibration | None
    """None where val has no visible pair, or no proposal that shows an object."""
    knn_iou: float
    """The same IoU of the nearest descriptor, which needs no training."""


def score_val(
    model: OMama, val: Dataset, store: FeatureStore, how: ValidationSettings
) -> Validation:
    """Every annotated val pair against all proposals of its frame; ranks share the batches."""
    pairs = val.pairs.take(val.pairs.state != UNANNOTATED)
    iou, knn_iou, visible, *scores = _scores(model, val, pairs, store, how)
    similarity, head, similarity_without, head_without = scores
    seen = visible > 0
    gone = seen & np.isfinite(similarity_without)
    known = {"similarity": np.concatenate([similarity, similarity_without[gone]])}
    if how.trained_head:
        known["head"] = np.concatenate([head, head_without[gone]])
    return Validation(
        iou=float(iou[seen].mean()) if seen.any() else 0.0,
        calibration=calibrate(known, np.concatenate([seen, np.zeros(gone.sum(), np.bool_)])),
        knn_iou=float(knn_iou[seen].mean()) if seen.any() else 0.0,
    )


@torch.no_grad()
def _scores(
    model: OMama, data: Dataset, pairs: Pairs, store: FeatureStore, how: ValidationSettings
) -> Float64:
    """(7, P) of all ranks: see `_values`."""
    accelerator, device = how.accelerator, how.accelerator.device
    batches = frame_order(pairs, batch_size=how.batch_pairs)
    own = batches[accelerator.process_index :: accelerator.num_processes]
    model.eval()
    found = [np.zeros((7, 0))]  # a rank may have no batch at all
    for loaded in load_batches(data.frames, pairs, own, store):
        for cpu_bucket in loaded:
            bucket = cpu_bucket.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=how.bf16):
                matches = compare_bucket(model, bucket)
                scores = _visible_scores(model, matches, how)
                scores += _visible_scores(model, without_object(matches, bucket), how)
            found.append(_values(bucket, matches, scores))
    model.train()
    return np.concatenate(gather_object(found), axis=1)


def _visible_scores(model: OMama, matches: Matches, how: ValidationSettings) -> list[torch.Tensor]:
    """(B,) each: the best similarity, and the head's log odds where it was trained."""
    return [matches.best, visibility_logit(model, matches) if how.trained_head else matches.best]


def _values(bucket: Bucket, matches: Matches, scores: Sequence[torch.Tensor]) -> np.ndarray:
    """(7, B): IoU of the chosen proposal, IoU of the one whose descriptor is nearest, visible; the
    best similarity and the head's log odds, and both without what shows the object."""
    ious = bucket.truth.ious
    iou = ious.gather(1, matches.best_row[:, None])[:, 0]
    nearest = descriptor_similarity(bucket).masked_fill(
        ~bucket.is_proposal[bucket.group], -torch.inf
    )
    knn_iou = ious.gather(1, nearest.argmax(dim=1)[:, None])[:, 0]
    none = ~torch.isfinite(matches.best)  # no proposals: whatever was picked does not count
    iou, knn_iou = iou.masked_fill(none, 0.0), knn_iou.masked_fill(none, 0.0)
    best, head, best_without, head_without = (score.float() for score in scores)
    head = head.masked_fill(none, -torch.inf)
    values = [iou, knn_iou, bucket.truth.visible.float(), best, head, best_without, head_without]
    return np.asarray(torch.stack(values).double().cpu().numpy())


# A model with a descriptor part can hold nearest neighbours exactly: its own part is the mask part
# of the descriptor as it is, and the trained part does not count.


@torch.no_grad()
def nearest_model(model: OMama) -> OMama:
    """The same model, but its similarity is the cosine of the descriptors' mask parts."""
    width = model.config.feature_width
    found = OMama(replace(model.config, own_channels=width))
    assert found.descriptor_part is not None
    found.descriptor_part.map.copy_(torch.eye(2 * width, width))
    found.descriptor_part.logit.fill_(_NOTHING)
    return found


def save_knn_checkpoint(
    best: Path, model: OMama, val: Dataset, store: FeatureStore, how: ValidationSettings
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
