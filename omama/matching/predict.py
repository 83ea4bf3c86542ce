"""Predict the destination mask of every pair of a split, and write the files that are scored.

Writes `<root>/runs/<run_name>/predictions.parquet` and `predictions.json` (the official format).
A pair whose frame has no proposals is predicted absent, with an empty mask and confidence 0, and
counted. Scoring is another step (`egoexo-tools evaluate`), which needs no model.
"""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from egoexo_tools.errors import SettingsError
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.evaluation.predictions import write_predictions
from egoexo_tools.layout import DatasetRoot, component
from egoexo_tools.manifests import to_table, write_exclusions, write_table
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.running.progress import open_progress
from egoexo_tools.vocab import Direction, Split
from omama.dataset import Dataset, load_dataset
from omama.features.store import FeatureStore, MasksOnly, open_store
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import NEEDS_FEATURES, Matcher, load_matcher
from omama.matching.objective import memory_advice
from omama.matching.samples import Bucket

logger = logging.getLogger(__name__)

Int: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
BATCH_PAIRS = 64
TOP = 5
SIZES = ("official", "image")


def predict_split(
    root: DatasetRoot,
    *,
    direction: Direction,
    split: Split,
    run_name: str,
    checkpoint: Path | None = None,
    matcher: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    precision: str = "fp32",
    feature_precision: str | None = None,
    reference_behaviour: bool = False,
    cached: bool = True,
    size: str = "official",
    batch_pairs: int = BATCH_PAIRS,
    quiet: bool = False,
) -> Path:
    """Predict a split by a checkpoint (ours or the authors') or by a baseline; returns the JSON.

    `size`: masks at the official evaluator's size (long side 480) or at the kept image's.
    `backbone` and `feature_precision` are the checkpoint's own if not given; `precision` is the
    model's. `reference_behaviour` adds position embeddings to portrait frames as the authors'
    code does. Raises DataError for a checkpoint of another direction or backbone, and for a stale
    cache.
    """
    if (checkpoint is None) == (matcher is None):
        raise SettingsError("give either a checkpoint or a matcher (knn, oracle, random)")
    if size not in SIZES:
        raise SettingsError(f"size={size!r}; use {' or '.join(SIZES)}")
    dataset = load_dataset(root.require(), split=split, direction=direction)
    chosen = load_matcher(
        checkpoint,
        matcher,
        direction=direction,
        backbone=backbone,
        precision=precision,
        feature_precision=feature_precision,
        reference_behaviour=reference_behaviour,
    )
    if matcher is not None and matcher not in NEEDS_FEATURES:
        store: FeatureStore = MasksOnly(dataset.frames)
    else:
        store = open_store(
            dataset.frames,
            backbone=chosen.backbone,
            weights=weights,
            cached=cached,
            precision=chosen.feature_precision,
        )
        chosen.check(store.key)
    found = _match_all(dataset, store, chosen.matcher, batch_pairs, run_name, quiet)
    folder = root.runs / component(run_name)
    absent = int((found.top[:, 0] < 0).sum())
    if absent:
        logger.warning(
            "%d of %d pairs have no proposals: predicted absent", absent, len(found.pair)
        )
    write_exclusions(root, "predict", folder.name, dataset.left_out)
    table = to_table("predictions", _table(dataset, found, size)).sort_by("pair_id")
    metadata = {
        "run": run_name,
        "checkpoint": str(checkpoint or ""),
        "matcher": matcher or "model",
        "split": str(split),
        "direction": str(direction),
        "size": size,
        "precision": precision,
        "features": store.key.name,
        "pairs_without_proposals": str(absent),
    }
    write_table(folder / "predictions.parquet", "predictions", table, metadata=metadata)
    write_predictions(folder / "predictions.json", table, direction=direction)
    return folder / "predictions.json"


@dataclass(frozen=True)
class Found:
    """What a matcher says of P pairs."""

    pair: Int
    """(P,) positions in `Pairs`."""
    top: Int
    """(P, TOP) proposal_idx in the destination frame, the best first; -1 where there are fewer."""
    similarity: Floats
    """(P,) of the best."""
    confidence: Floats
    """(P,) in 0..1; 0 where there are no proposals."""


def _match_all(
    dataset: Dataset,
    store: FeatureStore,
    matcher: Matcher,
    batch_pairs: int,
    run_name: str,
    quiet: bool,
) -> Found:
    """Every pair of the dataset, in the order in which frames come."""
    batches = frame_order(dataset.pairs, batch_size=batch_pairs)
    loaded = load_batches(dataset.frames, dataset.pairs, batches, store)
    parts = [Found(np.empty(0, np.int64), np.empty((0, TOP), np.int64), np.empty(0), np.empty(0))]
    with open_progress(
        total=len(dataset.pairs), desc=f"predict {run_name}", unit="pair", quiet=quiet
    ) as bar:
        for buckets in loaded:
            for bucket in buckets:
                with memory_advice(batch_pairs):
                    parts.append(match_bucket(bucket, matcher))
                bar.update(len(parts[-1].pair))
    columns = ([getattr(part, column.name) for part in parts] for column in fields(Found))
    return Found(*map(np.concatenate, columns))


def match_bucket(bucket: Bucket, matcher: Matcher) -> Found:
    """The best proposals of a bucket's pairs."""
    scored = matcher(bucket)
    similarity = scored.similarity.float().cpu()
    is_proposal = bucket.is_proposal[bucket.group].cpu()
    best = similarity.masked_fill(~is_proposal, -torch.inf).topk(min(TOP, similarity.shape[1]), 1)
    proposal_idxs = best.indices - bucket.first_proposal[bucket.group].cpu()[:, None]
    top = np.full((len(similarity), TOP), -1)
    top[:, : proposal_idxs.shape[1]] = proposal_idxs.where(best.values > -torch.inf, -1).numpy()
    confidence = scored.confidence.double().cpu().numpy()
    return Found(
        pair=bucket.pair.cpu().numpy(),
        top=top,
        similarity=best.values[:, 0].double().numpy(),
        confidence=np.where(top[:, 0] < 0, 0.0, confidence),
    )


def _table(dataset: Dataset, found: Found, size: str) -> pa.Table:
    """The predictions table; a pair without proposals has an empty mask."""
    frames = dataset.frames
    frame = dataset.pairs.dest_frame[found.pair]
    keys = ["source_height", "source_width"] if size == "official" else ["height", "width"]
    image_hw = frames.rows[keys].to_numpy(np.int64)
    if size == "official":
        image_hw = np.array([official_size((h, w)) for h, w in image_hw.tolist()]).reshape(-1, 2)
    is_absent = found.top[:, 0] < 0
    proposal = np.where(is_absent, -1, frames.proposals.start[frame] + found.top[:, 0])
    is_listed = found.top >= 0
    ends = np.concatenate([[0], np.cumsum(is_listed.sum(axis=1))])
    return pa.table(
        {
            "pair_id": dataset.pairs.rows["pair_id"].to_numpy()[found.pair],
            "proposal_idx": pa.array(found.top[:, 0], pa.int32(), mask=is_absent),
            "similarity": pa.array(found.similarity, pa.float32(), mask=is_absent),
            "confidence": pa.array(found.confidence, pa.float32()),
            "rle_height": image_hw[frame, 0],
            "rle_width": image_hw[frame, 1],
            "rle_counts": _counts(frames.proposals.columns, proposal, image_hw[frame]),
            "top_proposal_idxs": pa.ListArray.from_arrays(
                pa.array(ends, pa.int32()), pa.array(found.top[is_listed], pa.int32())
            ),
        }
    )


def _counts(proposals: MaskColumns, rows: Int, hw: Int) -> pa.LargeStringArray:
    """(P,) the counts of proposal rows[i], or of an empty mask where that is -1, at size hw[i]."""
    # Many pairs of a frame choose the same proposal: each is resized once.
    wanted, wanted_of = np.unique(np.column_stack([hw, rows]), axis=0, return_inverse=True)
    height, width, row = wanted.T
    return proposals.resized(row, height, width).counts.take(pa.array(wanted_of.reshape(-1)))
