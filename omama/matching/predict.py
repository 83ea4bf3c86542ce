"""Predict the destination mask of every pair of a split: O-MaMa's line in METHODS, and its
baselines'.

Yields tables of the `predictions` schema, which `omama.writing` writes. A pair whose frame has no
proposals is predicted absent, with an empty mask and confidence 0, and counted. Scoring is
another step (`egoexo-tools evaluate`), which needs no model.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeAlias

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
from omama.dataset import Dataset, load_dataset
from omama.deciding.apply import decide_take, take_by_take
from omama.deciding.candidates import Candidates
from omama.deciding.choosing import fitted_mode, resolve_decision
from omama.deciding.chosen_proposals import ChosenProposals, choose_best, join
from omama.deciding.decide import Mode
from omama.features.store import FeatureStore, MasksOnly, open_store
from omama.matching.config import MatchingOptions
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import NEEDS_FEATURES, LoadedMatcher, Matcher, load_matcher
from omama.matching.objective import memory_advice

logger = logging.getLogger(__name__)

Decider: TypeAlias = Callable[[Dataset, Candidates], ChosenProposals]
TABLE_PAIRS = 4096
"""Of one table: many pairs of a frame choose the same proposal, which is resized once a table."""


def predict(
    root: DatasetRoot,
    direction: Direction,
    split: Split,
    checkpoint: Path | None,
    *,
    options: MatchingOptions = MatchingOptions(),
    matcher: str | None = None,
) -> Iterator[pa.Table]:
    """Predict a split by a checkpoint, ours or the authors', or by a matcher that learns nothing.

    Yields tables of the `predictions` schema. Raises DataError for a checkpoint of another
    direction or backbone, and for a stale cache.
    """
    if matcher is not None:
        checkpoint = None  # `omama predict --method knn --checkpoint F` is still k-NN
    dataset = load_dataset(root.require(), split=split, direction=direction)
    chosen = load_matcher(checkpoint, matcher, direction=direction, options=options)
    store = _open_store(dataset, chosen, matcher, options)
    mode = _mode(root, direction, checkpoint, matcher, options)
    decider = None
    if mode is not Mode.BEST:
        fitted = fitted_mode(root, direction, checkpoint, mode, store.key.name)
        decider = partial(decide_take, mode=mode, fitted=fitted)
    name = options.run_name or run_name(direction, matcher or DEFAULT_METHOD)
    about = {
        "matcher": matcher or "model",
        "size": options.size,
        "precision": options.model_precision,
        "features": store.key.name,
    }
    absent = 0
    for found in _find_all(dataset, store, chosen.matcher, options, name=name, decider=decider):
        absent += int((found.top[:, 0] < 0).sum())
        yield _table(dataset, found, options.size).replace_schema_metadata(about)
    if absent:
        logger.warning(
            "%d of %d pairs have no proposals: predicted absent", absent, len(dataset.pairs)
        )
    write_exclusions(root, "predict", name, dataset.left_out)


predict_knn = partial(predict, matcher="knn")
"""By the nearest descriptor."""
predict_oracle = partial(predict, matcher="oracle")
"""By the ground truth: the ceiling that the proposals set."""
predict_random = partial(predict, matcher="random")
"""By chance: the floor."""


def _open_store(
    dataset: Dataset, chosen: LoadedMatcher, matcher: str | None, options: MatchingOptions
) -> FeatureStore:
    if matcher is not None and matcher not in NEEDS_FEATURES:
        return MasksOnly(dataset.frames)
    store = open_store(
        dataset.frames,
        backbone=chosen.backbone,
        weights=options.features.weights,
        cached=options.features.cached,
        feature_precision=chosen.feature_precision,
        pairs=dataset.pairs,
        tokens=matcher is None,
    )
    chosen.check(store.key)
    return store


def _mode(
    root: DatasetRoot,
    direction: Direction,
    checkpoint: Path | None,
    matcher: str | None,
    options: MatchingOptions,
) -> Mode:
    if matcher is None or matcher in NEEDS_FEATURES:
        return Mode(resolve_decision(root, direction, checkpoint, options).decision or Mode.BEST)
    if options.decision not in (None, Mode.BEST):
        raise SettingsError(
            f"{matcher} looks at masks alone and has nothing to decide by {options.decision} "
            "with; leave --decide out"
        )
    return Mode.BEST


def _find_all(
    dataset: Dataset,
    store: FeatureStore,
    matcher: Matcher,
    options: MatchingOptions,
    *,
    name: str,
    decider: Decider | None,
) -> Iterator[ChosenProposals]:
    """Every pair of the dataset, in the order in which frames come; takes whole, to be decided."""
    total, quiet = len(dataset.pairs), options.quiet
    with open_progress(total=total, desc=f"predict {name}", unit="pair", quiet=quiet) as bar:
        if decider is None:
            yield from _match_all(dataset, store, matcher, options.batch_pairs, bar.update)
            return
        for held in take_by_take(
            dataset, store, matcher, batch_pairs=options.batch_pairs, say=bar.update
        ):
            yield decider(dataset, held)


def _match_all(
    dataset: Dataset,
    store: FeatureStore,
    matcher: Matcher,
    batch_pairs: int,
    say: Callable[[int], object],
) -> Iterator[ChosenProposals]:
    """By the most similar candidate, TABLE_PAIRS or so at a time."""
    batches = frame_order(dataset.pairs, batch_size=batch_pairs)
    loaded = load_batches(dataset.frames, dataset.pairs, batches, store)
    parts: list[ChosenProposals] = []
    for bucket in chain.from_iterable(loaded):
        with memory_advice(batch_pairs):
            parts.append(choose_best(bucket, matcher))
        say(len(parts[-1].pair))
        if sum(len(part.pair) for part in parts) >= TABLE_PAIRS:
            yield join(parts)
            parts = []
    if parts:
        yield join(parts)


def _table(dataset: Dataset, found: ChosenProposals, size: str) -> pa.Table:
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


def _counts(proposals: MaskColumns, rows: Int64, hw: Int64) -> pa.LargeStringArray:
    """(P,) the counts of proposal rows[i], or of an empty mask where that is -1, at size hw[i]."""
    # Many pairs of a frame choose the same proposal: each is resized once.
    wanted, wanted_of = np.unique(np.column_stack([hw, rows]), axis=0, return_inverse=True)
    height, width, row = wanted.T
    return proposals.resize(row, height, width).counts.take(pa.array(wanted_of.reshape(-1)))
