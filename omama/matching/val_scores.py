"""Val scores of a model: IoU of the chosen proposals, and the calibration of visibility.

A model with a descriptor part can represent nearest neighbours exactly, with the mask part of the
descriptor as its own part and a trained part that does not count. `keep_better_knn` uses this.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object

from egoexo_tools.arrays import Float64
from omama.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from omama.confidence import Calibration, calibrate
from omama.dataset import UNANNOTATED, Dataset
from omama.features.store import FeatureStore
from omama.matching.loading import frame_order, load_batches
from omama.matching.model import OMama
from omama.matching.model_files import METHOD, load_model
from omama.matching.objective import (
    compare_bucket,
    descriptor_similarity,
    visibility_logit,
    without_object,
)
from omama.matching.samples import Bucket

logger = logging.getLogger(__name__)

_ZERO_SHARE_LOGIT = -60.0
"""Log odds of a share that is zero in float32."""


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
    """The result of a validation."""

    iou: float
    """Mean IoU of the most similar proposal over the visible pairs, at the proposals' size."""
    calibration: Calibration | None
    """None if val has no visible pair, or no proposal that shows an object."""
    knn_iou: float
    """The same for the proposal with the nearest descriptor, which needs no training."""


@torch.no_grad()
def score_val(
    model: OMama, val: Dataset, store: FeatureStore, settings: ValidationSettings
) -> Validation:
    """Compare every annotated val pair with all proposals of its frame; ranks share the batches."""
    pairs = val.pairs.take(val.pairs.state != UNANNOTATED)
    batches = frame_order(pairs, batch_size=settings.batch_pairs)[settings.rank :: settings.ranks]
    parts = [np.zeros((7, 0))]  # a rank may have no batch
    model.eval()
    for buckets in load_batches(val.frames, pairs, batches, store):
        parts += [_score_bucket(model, bucket.to(settings.device), settings) for bucket in buckets]
    model.train()
    if settings.ranks > 1:
        parts = gather_object(parts)
    iou, knn_iou, visible, *scores = np.concatenate(parts, axis=1)
    similarity, head, similarity_without, head_without = scores
    is_visible = visible > 0
    # Absent pairs are rare: each visible pair also counts as absent, without what shows its object.
    removed = is_visible & np.isfinite(similarity_without)
    candidates = {"similarity": np.concatenate([similarity, similarity_without[removed]])}
    if settings.trained_head:
        candidates["head"] = np.concatenate([head, head_without[removed]])
    labels = np.concatenate([is_visible, np.zeros(removed.sum(), np.bool_)])
    return Validation(
        iou=float(iou[is_visible].mean()) if is_visible.any() else 0.0,
        calibration=calibrate(candidates, labels),
        knn_iou=float(knn_iou[is_visible].mean()) if is_visible.any() else 0.0,
    )


def _score_bucket(model: OMama, bucket: Bucket, settings: ValidationSettings) -> Float64:
    """(7, B): IoU of the most similar proposal and of the one with the nearest descriptor, visible;
    the best similarity and the head's log odds, and both without the proposals that show the
    object."""
    with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
        matches = compare_bucket(model, bucket)
        scores = []
        for each in (matches, without_object(matches, bucket)):
            head = visibility_logit(model, each) if settings.trained_head else each.best
            scores += [each.best, head]
    ious = bucket.truth.ious
    iou = ious.gather(1, matches.best_row[:, None])[:, 0]
    # Measured in every validation: training should be better than this, which needs none.
    is_proposal = bucket.is_proposal[bucket.group]
    nearest = descriptor_similarity(bucket).masked_fill(~is_proposal, -torch.inf).argmax(dim=1)
    knn_iou = ious.gather(1, nearest[:, None])[:, 0]
    # Without proposals the best row is arbitrary.
    is_empty = ~torch.isfinite(matches.best)
    iou, knn_iou = iou.masked_fill(is_empty, 0.0), knn_iou.masked_fill(is_empty, 0.0)
    best, head, best_without, head_without = (score.float() for score in scores)
    head = head.masked_fill(is_empty, -torch.inf)
    values = [iou, knn_iou, bucket.truth.visible.float(), best, head, best_without, head_without]
    return np.asarray(torch.stack(values).double().cpu().numpy())


def keep_better_knn(path: Path, val: Dataset, store: FeatureStore) -> Checkpoint:
    """Replace a trained model by nearest neighbours where these have the greater val IoU.

    Rewrites the checkpoint `path` only then; returns what it holds now. The published model has no
    descriptor part, so its checkpoint stays as it is.
    """
    trained = load_checkpoint(path, method=METHOD)
    knn_iou = trained.state.start.get("knn", -1.0)
    if not trained.config["residual"] or (trained.val_iou or 0.0) >= knn_iou:
        return trained
    # The weights of the part that does not count are random; the seed makes the file reproducible.
    torch.manual_seed(trained.train_config["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    knn_model = make_knn_model(load_model(path)).to(device)
    settings = ValidationSettings(
        batch_pairs=trained.train_config["batch_pairs"],
        device=device,
        trained_head=False,
        bf16=trained.train_config["precision"] == "bf16",
    )
    validation = score_val(knn_model, val, store, settings)
    calibration = validation.calibration
    checkpoint = replace(
        trained,
        config=knn_model.config.to_dict(),
        weights=knn_model.state_dict(),
        val_iou=validation.iou,
        calibration=None if calibration is None else calibration.to_dict(),
        decision=None,
        step=0,
        epoch=0,
        state=replace(trained.state, average=None, optimizer=None),
    )
    save_checkpoint(checkpoint, path)
    logger.warning("%s holds nearest neighbours now, val IoU %.3f", path, validation.iou)
    return checkpoint


@torch.no_grad()
def make_knn_model(model: OMama) -> OMama:
    """A model like this one whose similarity is the cosine of the descriptors' mask parts."""
    width = model.config.feature_width
    knn_model = OMama(replace(model.config, own_channels=width))
    assert knn_model.descriptor_part is not None
    knn_model.descriptor_part.map.copy_(torch.eye(2 * width, width))
    knn_model.descriptor_part.logit.fill_(_ZERO_SHARE_LOGIT)
    return knn_model
