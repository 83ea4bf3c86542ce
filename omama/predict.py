"""Predict the destination mask of every pair of a split, and write the files that are scored.

Writes `<root>/runs/<run_name>/predictions.parquet` and `predictions.json` (the official format).
A pair whose frame has no proposals is predicted absent, with an empty mask and confidence 0, and
counted. Scoring is another step (`omama evaluate`), which needs no model.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, component
from egoexo_tools.manifests import to_table, write_exclusions, write_table
from egoexo_tools.masks import MaskRle
from egoexo_tools.vocab import Direction, Split
from omama.data import Dataset, FrameTable, load_dataset
from omama.loading import FeatureStore, MasksOnly, load_batches, open_store
from omama.matchers import NEEDS_FEATURES, Matcher, load_matcher
from omama.metrics import official_size
from omama.objective import memory_advice
from omama.prediction_files import write_predictions
from omama.samples import Bucket
from omama.schedule import frame_order

logger = logging.getLogger(__name__)

Int: TypeAlias = NDArray[np.int64]
Row: TypeAlias = dict[str, Any]
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
    rows = list(_rows(dataset, store, chosen.matcher, size, batch_pairs, run_name, quiet))
    folder = root.runs / component(run_name)
    absent = sum(row["proposal_idx"] is None for row in rows)
    if absent:
        logger.warning("%d of %d pairs have no proposals: predicted absent", absent, len(rows))
    write_exclusions(root, "predict", folder.name, dataset.left_out)
    table = to_table("predictions", sorted(rows, key=lambda row: str(row["pair_id"])))
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


def _rows(
    dataset: Dataset,
    store: FeatureStore,
    matcher: Matcher,
    size: str,
    batch_pairs: int,
    run_name: str,
    quiet: bool,
) -> Iterator[Row]:
    """One row of the predictions table a pair, in the order in which frames come."""
    batches = frame_order(dataset.pairs, batch_size=batch_pairs)
    loaded = load_batches(
        dataset.frames, dataset.pairs, batches, store, readers=0 if store.is_cache else 4
    )
    bar = tqdm(total=len(dataset.pairs), desc=f"predict {run_name}", unit="pair", disable=quiet)
    with bar:
        for buckets in loaded:
            for bucket in buckets:
                with memory_advice(batch_pairs):
                    rows = predict_bucket(dataset, bucket, matcher, size)
                bar.update(len(rows))
                yield from rows


def predict_bucket(dataset: Dataset, bucket: Bucket, matcher: Matcher, size: str) -> list[Row]:
    """The rows of a bucket's pairs."""
    scored = matcher(bucket)
    similarity = scored.similarity.float().cpu()
    is_proposal = bucket.is_proposal[bucket.group].cpu()
    similarity = similarity.masked_fill(~is_proposal, -torch.inf)
    top = similarity.topk(min(TOP, similarity.shape[1]), dim=1)
    first = bucket.first_proposal[bucket.group].cpu()
    proposal_idxs = (top.indices - first[:, None]).numpy()
    frames = dataset.pairs.dest_frame[bucket.pair.cpu().numpy()]
    ids = dataset.pairs.rows["pair_id"].to_numpy()[bucket.pair.cpu().numpy()]
    return [
        _row(dataset.frames, int(frame), str(pair_id), idxs[values > -np.inf], values, sure, size)
        for pair_id, frame, idxs, values, sure in zip(
            ids, frames, proposal_idxs, top.values.numpy(), scored.confidence.tolist(), strict=True
        )
    ]


def _row(
    frames: FrameTable,
    frame: int,
    pair_id: str,
    proposal_idxs: Int,
    similarity: Sequence[float],
    confidence: float,
    size: str,
) -> Row:
    """The row of one pair; without proposals it says absent, with an empty mask."""
    keys = ("source_height", "source_width") if size == "official" else ("height", "width")
    height, width = (int(frames.rows[key].iloc[frame]) for key in keys)
    if size == "official":
        height, width = official_size((height, width))
    row: Row = {"pair_id": pair_id, "top_proposal_idxs": proposal_idxs.tolist()}
    if proposal_idxs.size:
        first = int(proposal_idxs[0])
        rle = frames.proposals.rle(int(frames.proposals.start[frame]) + first)
        row |= {"proposal_idx": first, "similarity": similarity[0], "confidence": confidence}
        if (rle.height, rle.width) != (height, width):
            rle = MaskRle.encode(rle.decode_at(height, width))
    else:
        rle = MaskRle.encode(np.zeros((height, width), np.bool_))
        row |= {"proposal_idx": None, "similarity": None, "confidence": 0.0}
    return row | {"rle_height": height, "rle_width": width, "rle_counts": rle.counts}
