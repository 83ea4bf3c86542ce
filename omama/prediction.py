"""Predict the destination mask of every pair of a split, by O-MaMa or one of its baselines.

Combines `omama.matching`, which scores the proposals of a pair, with `omama.deciding`, which
chooses one of them with regard to the other objects and frames. Yields tables of the `predictions`
schema, which `omama.writing` writes. A pair whose destination frame has no proposals is predicted
absent, with an empty mask and confidence 0. Scoring is a separate step (`egoexo-tools evaluate`).
"""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from egoexo_tools.arrays import Int64
from egoexo_tools.errors import SettingsError
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_exclusions
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.running.progress import open_progress
from egoexo_tools.runs import DEFAULT_METHOD, run_name
from egoexo_tools.vocab import Direction, Split
from omama.dataset import Dataset
from omama.deciding.apply import (
    ChosenProposals,
    candidates_by_take,
    choose_most_similar,
    decide_takes,
)
from omama.deciding.decide import Mode
from omama.deciding.decision import decision_path, read_fitted_mode, resolve_decision
from omama.features.store import FeatureStore
from omama.matching.config import MatchingOptions
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import Matcher, MatchScores, load_matcher
from omama.matching.objective import explain_full_gpu
from omama.matching.samples import Bucket
from omama.tables.loading import load_dataset

logger = logging.getLogger(__name__)

TABLE_PAIRS = 4096
"""Pairs in a table: many pairs of a frame choose the same proposal, which a table resizes once."""


def predict(
    root: DatasetRoot,
    direction: Direction,
    split: Split,
    checkpoint: Path | None,
    *,
    options: MatchingOptions = MatchingOptions(),
    baseline: str | None = None,
) -> Iterator[pa.Table]:
    """Predict a split by a checkpoint, ours or the authors', or by a baseline of the matchers.

    Yields tables of the `predictions` schema. Raises DataError for a checkpoint of another
    direction or backbone, and for a stale cache.
    """
    if baseline is not None:
        checkpoint = None  # `omama predict --method knn --checkpoint F` is still k-NN
    dataset = load_dataset(root.require(), split=split, direction=direction)
    loaded = load_matcher(checkpoint, baseline, direction=direction, options=options)
    store = loaded.open_store(dataset, options.features)
    if loaded.needs_features:
        options = resolve_decision(root, direction, checkpoint, options)
    elif options.decision not in (None, Mode.BEST):
        # The other modes compare embeddings.
        raise SettingsError(
            f"{baseline} uses masks alone, --decide {options.decision} also needs features; leave "
            "--decide out"
        )
    mode = Mode(options.decision or Mode.BEST)
    name = options.run_name or run_name(direction, baseline or DEFAULT_METHOD)
    metadata = {
        "matcher": baseline or "model",
        "size": options.size,
        "precision": options.model_precision,
        "features": store.key.name,
    }
    total, absent = len(dataset.pairs), 0
    with open_progress(
        total=total, desc=f"predict {name}", unit="pair", quiet=options.quiet
    ) as progress:
        # Counted here, because takes are decided whole: some have many thousand pairs.
        def match(bucket: Bucket) -> MatchScores:
            progress.update(len(bucket.pair))
            return loaded.matcher(bucket)

        if mode is Mode.BEST:
            parts = _choose_most_similar(dataset, store, match, options.batch_pairs)
        else:
            path = decision_path(root, direction, checkpoint)
            fitted = read_fitted_mode(path, mode, direction=direction, features=store.key.name)
            takes = candidates_by_take(dataset, store, match, batch_pairs=options.batch_pairs)
            parts = (decide_takes(dataset, candidates, mode, fitted) for candidates in takes)
        for choices in parts:
            absent += int((choices.top[:, 0] < 0).sum())
            yield _table(dataset, choices, options.size).replace_schema_metadata(metadata)
    if absent:
        logger.warning("%d of %d pairs have no proposals: predicted absent", absent, total)
    write_exclusions(root, "predict", name, dataset.left_out)


predict_knn = partial(predict, baseline="knn")
"""By the nearest descriptor."""
predict_oracle = partial(predict, baseline="oracle")
"""By the ground truth: the upper bound that the proposals set."""
predict_random = partial(predict, baseline="random")
"""At random: the lower bound."""


def _choose_most_similar(
    dataset: Dataset, store: FeatureStore, matcher: Matcher, batch_pairs: int
) -> Iterator[ChosenProposals]:
    """The most similar proposal of every pair, about TABLE_PAIRS pairs at a time."""
    batches = frame_order(dataset.pairs, batch_size=batch_pairs)
    parts: list[ChosenProposals] = []
    for bucket in chain.from_iterable(load_batches(dataset.frames, dataset.pairs, batches, store)):
        with explain_full_gpu(batch_pairs):
            parts.append(choose_most_similar(bucket, matcher))
        if sum(len(part.pair) for part in parts) >= TABLE_PAIRS:
            yield ChosenProposals.join(parts)
            parts = []
    if parts:
        yield ChosenProposals.join(parts)


def _table(dataset: Dataset, choices: ChosenProposals, size: str) -> pa.Table:
    """A table of the `predictions` schema; a pair without proposals has an empty mask."""
    frames = dataset.frames
    frame = dataset.pairs.dest_frame[choices.pair]
    keys = ["source_height", "source_width"] if size == "official" else ["height", "width"]
    # The official size depends on the source video's size, not on that of the kept image.
    image_hw = frames.rows[keys].to_numpy(np.int64)
    if size == "official":
        image_hw = np.array([official_size((h, w)) for h, w in image_hw.tolist()]).reshape(-1, 2)
    is_absent = choices.top[:, 0] < 0
    proposal = np.where(is_absent, -1, frames.proposals.start[frame] + choices.top[:, 0])
    is_listed = choices.top >= 0
    ends = np.concatenate([[0], np.cumsum(is_listed.sum(axis=1))])
    return pa.table(
        {
            "pair_id": dataset.pairs.rows["pair_id"].to_numpy()[choices.pair],
            "proposal_idx": pa.array(choices.top[:, 0], pa.int32(), mask=is_absent),
            "similarity": pa.array(choices.similarity, pa.float32(), mask=is_absent),
            "confidence": pa.array(choices.confidence, pa.float32()),
            "rle_height": image_hw[frame, 0],
            "rle_width": image_hw[frame, 1],
            "rle_counts": _counts(frames.proposals.columns, proposal, image_hw[frame]),
            "top_proposal_idxs": pa.ListArray.from_arrays(
                pa.array(ends, pa.int32()), pa.array(choices.top[is_listed], pa.int32())
            ),
        }
    )


def _counts(proposals: MaskColumns, rows: Int64, hw: Int64) -> pa.LargeStringArray:
    """(P,) the counts of proposal rows[i], or of an empty mask where that is -1, at size hw[i]."""
    # Many pairs of a frame choose the same proposal: each is resized once.
    unique, position = np.unique(np.column_stack([hw, rows]), axis=0, return_inverse=True)
    height, width, row = unique.T
    return proposals.resize(row, height, width).counts.take(pa.array(position.reshape(-1)))
