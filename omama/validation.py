"""How good a model is on val: IoU of the chosen proposals, and where visibility is decided."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from omama.data import UNANNOTATED, Dataset
from omama.loading import FeatureStore, load_batches
from omama.model import OMama
from omama.objective import Matches, match, visibility_logit
from omama.samples import Bucket
from omama.schedule import frame_order
from omama.visibility import Calibration, calibrate


@dataclass(frozen=True)
class Validation:
    """What one validation found."""

    iou: float
    """Mean over visible pairs of the IoU of the most similar proposal, at the proposals' size."""
    calibration: Calibration | None
    """None where val has only visible or only absent pairs."""


@torch.no_grad()
def validate(
    model: OMama,
    val: Dataset,
    store: FeatureStore,
    *,
    batch_pairs: int,
    accelerator: Accelerator,
    trained_head: bool,
    bf16: bool,
) -> Validation:
    """Every annotated val pair against all proposals of its frame; ranks share the batches."""
    pairs = val.pairs.take(val.pairs.state != UNANNOTATED)
    batches = frame_order(pairs, batch_size=batch_pairs)
    own = batches[accelerator.process_index :: accelerator.num_processes]
    device = accelerator.device
    readers = 0 if device.type == "cpu" and store.is_cache else 4
    model.eval()
    found = []
    for loaded in load_batches(val.frames, pairs, own, store, readers=readers):
        for cpu_bucket in loaded:
            bucket = cpu_bucket.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                matches = match(model, bucket)
                logit = visibility_logit(model, matches) if trained_head else matches.best
            found.append(_values(bucket, matches, logit))
    model.train()
    everything = gather_object(found)
    iou, visible, similarity, head = np.concatenate(everything, axis=1)
    seen = visible > 0
    scores = {"similarity": similarity, **({"head": head} if trained_head else {})}
    return Validation(
        iou=float(iou[seen].mean()) if seen.any() else 0.0, calibration=calibrate(scores, seen)
    )


def _values(bucket: Bucket, matches: Matches, logit: torch.Tensor) -> np.ndarray:
    """(4, B): IoU of the chosen proposal, visible, best similarity, the head's log odds."""
    iou = bucket.ious.gather(1, matches.best_row[:, None])[:, 0]
    none = ~torch.isfinite(matches.best)  # no proposals: whatever was picked does not count
    iou, logit = iou.masked_fill(none, 0.0), logit.masked_fill(none, -torch.inf)
    values = torch.stack([iou, bucket.visible.float(), matches.best.float(), logit.float()])
    return np.asarray(values.double().cpu().numpy())
