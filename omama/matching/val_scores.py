"""How good a model is on val: IoU of the chosen proposals, where visibility is decided, and what is
kept where nearest neighbours are better."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object

from egoexo_tools.arrays import Float64
from omama.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from omama.confidence import Calibration, calibrate
from omama.dataset import UNANNOTATED, Dataset, Pairs
from omama.features.store import FeatureStore
from omama.matching.loading import frame_order, load_batches
from omama.matching.model import OMama
from omama.matching.model_files import METHOD, load_model
from omama.matching.objective import (
    Matches,
    compare_bucket,
    descriptor_similarity,
    visibility_logit,
    without_object,
)
from omama.matching.samples import Bucket

logger = logging.getLogger(__name__)

_NOTHING = -60.0
"""Log odds of a share that rounds to nothing."""


@dataclass(frozen=True)
class ValidationSettings:
    """Settings that all validations of a run share."""

    batch_pairs: int
    device: torch.device
    trained_head: bool
    """Whether the visibility head is trained, so that its log odds are a score of visibility."""
    bf16: bool
    rank: int = 0
    ranks: int = 1
    """Each rank validates every `ranks`-th batch; all ranks then have the scores of all batches."""


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
    batches = frame_order(pairs, batch_size=how.batch_pairs)
    own = batches[how.rank :: how.ranks]
    model.eval()
    found = [np.zeros((7, 0))]  # a rank may have no batch at all
    for loaded in load_batches(data.frames, pairs, own, store):
        for cpu_bucket in loaded:
            bucket = cpu_bucket.to(how.device)
            with torch.autocast(how.device.type, torch.bfloat16, enabled=how.bf16):
                matches = compare_bucket(model, bucket)
                scores = _visible_scores(model, matches, how)
                scores += _visible_scores(model, without_object(matches, bucket), how)
            found.append(_values(bucket, matches, scores))
    model.train()
    if how.ranks > 1:
        found = gather_object(found)
    return np.concatenate(found, axis=1)


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


def keep_better_knn(path: Path, val: Dataset, store: FeatureStore) -> Checkpoint:
    """Replace a trained model by nearest neighbours where these have the greater val IoU.

    Rewrites the checkpoint `path` only then; returns what it holds now. The published model has no
    descriptor part, so its checkpoint stays as it is.
    """
    trained = load_checkpoint(path, method=METHOD)
    knn_iou = trained.state.start.get("knn", -1.0)
    if not trained.config["residual"] or (trained.val_iou or 0.0) >= knn_iou:
        return trained
    # The trained part of the model stays in the file, untrained; the seed makes it reproducible.
    torch.manual_seed(trained.train_config["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nearest = nearest_model(load_model(path)).to(device)
    settings = ValidationSettings(
        batch_pairs=trained.train_config["batch_pairs"],
        device=device,
        trained_head=False,
        bf16=trained.train_config["precision"] == "bf16",
    )
    validation = score_val(nearest, val, store, settings)
    calibration = validation.calibration.to_dict() if validation.calibration else None
    checkpoint = replace(
        trained,
        config=nearest.config.to_dict(),
        weights=nearest.state_dict(),
        val_iou=validation.iou,
        calibration=calibration,
        decision=None,
        step=0,
        epoch=0,
        state=replace(trained.state, average=None, optimizer=None),
    )
    save_checkpoint(checkpoint, path)
    logger.warning("%s holds nearest neighbours now, val IoU %.3f", path, validation.iou)
    return checkpoint
