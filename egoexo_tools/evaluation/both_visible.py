"""The protocols that score only objects with a mask in both views.

A sample needs three areas: of the predicted mask, of the true one, and of both. Each protocol is
a mean of their ratios:

- `both-visible`: over objects, at 1024 x 1024;
- `both-visible-frames`: over the objects of a pair, then over pairs, at 1024 x 1024;
- `v2sam-released`: V2-SAM's released metric, which keeps the first n of the objects of n pairs;
- `objectrelator`: sum of intersections over sum of unions of a take, then over takes;
- `vggt-s`: over every object, exo camera and frame with a mask in both views.

The last two compare masks at half of an ego frame and a quarter of an exo frame. docs/metrics.md
says whose published numbers are of which kind.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from egoexo_tools.arrays import Float64, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.align import Problems, parse_prediction
from egoexo_tools.evaluation.ground_truth import GroundTruth
from egoexo_tools.evaluation.metric_loops import PREDICTED, TRUTH, overlaps, resized_masks
from egoexo_tools.evaluation.predictions import Predictions
from egoexo_tools.evaluation.relation_pairs import (
    RelationPair,
    read_relation,
    relation_pairs,
    vggt_samples,
)
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import Size
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import OK
from egoexo_tools.parsing.names import match_names
from egoexo_tools.running.executors import available_cores
from egoexo_tools.vocab import Direction, Protocol

SAM_SIZE: Size = (1024, 1024)
"""The input of SAM 2, at which V2-SAM compares masks, whatever their aspect ratio."""
_PairSelector = Callable[[str, Mapping[str, Any], Direction], list[RelationPair]]


@dataclass(frozen=True)
class OverlapScores:
    """The samples of pairs, pair by pair, with their areas at two sizes."""

    samples: pd.DataFrame
    """pair (int), take_uid, object_name, source_camera, dest_camera, destination frame_idx."""
    at_sam_size: Int64
    """(3, n) areas of intersection, prediction and truth at 1024 x 1024."""
    at_own_size: Int64
    """(3, n) the same at the size of the small truth."""
    problems: Problems


def score_relation(
    truth: GroundTruth, predictions: Predictions, *, relation: Path | None = None
) -> OverlapScores:
    """Measure the pairs of `relation_pairs`, or those of a relation file, in its order."""
    if relation is None:
        return _score_takes(truth, predictions, relation_pairs)
    names = {take_uid: list(truth.read_take(take_uid)["masks"]) for take_uid in truth.take_uids}
    pairs = read_relation(relation, names)
    by_take: dict[str, list[RelationPair]] = {}
    for pair in pairs:
        by_take.setdefault(pair.take_uid, []).append(pair)
    scores = _score_takes(truth, predictions, lambda take_uid, *_: by_take.get(take_uid, []))
    # Back to the order of the file, on which v2sam-released depends.
    file_order = {id(pair): place for place, pair in enumerate(pairs)}
    places = [file_order[id(pair)] for take in truth.take_uids for pair in by_take.get(take, ())]
    samples = scores.samples.assign(pair=np.array(places, np.int64)[scores.samples["pair"]])
    order = np.argsort(samples["pair"].to_numpy(), kind="stable")
    return OverlapScores(
        samples.iloc[order].reset_index(drop=True),
        scores.at_sam_size[:, order],
        scores.at_own_size[:, order],
        scores.problems,
    )


def score_vggt(truth: GroundTruth, predictions: Predictions) -> OverlapScores:
    """Measure VGGT-S's samples, by take, object, camera and frame."""
    return _score_takes(truth, predictions, vggt_samples)


def mean_overlap(scores: OverlapScores, protocol: Protocol, *, ranks: int = 1) -> dict[str, Any]:
    """IoU, Dice (None where the protocol has none) and counts of a both-visible protocol."""
    samples = scores.samples
    summary: dict[str, Any] = {
        "dice": None,
        "samples": len(samples),
        "pairs": int(samples["pair"].nunique()),
        "takes": int(samples["take_uid"].nunique()),
    }
    if protocol is Protocol.OBJECTRELATOR:
        common, predicted, true = scores.at_own_size
        sums = pd.DataFrame({"common": common, "union": predicted + true - common})
        by_take = sums.groupby(samples["take_uid"].to_numpy(), sort=False).sum()
        ratios = by_take["common"] / (by_take["union"] + 1e-10)
        return {**summary, "iou": float(ratios.mean()), "iou_by_take": ratios.to_dict()}
    if protocol is Protocol.VGGT_S:
        ious = intersection_over_union(scores.at_own_size)
        # Their sum is divided by the count + 1e-6.
        return {**summary, "iou": float(ious.sum() / (len(ious) + 1e-6))}
    for name, function in (("iou", intersection_over_union), ("dice", dice)):
        values: Float64 = function(scores.at_sam_size)
        if protocol is Protocol.BOTH_VISIBLE_FRAMES:
            means = pd.Series(values).groupby(samples["pair"].to_numpy()).mean()
            values = np.asarray(means, np.float64)
        elif protocol is Protocol.V2SAM_RELEASED:
            groups = pd.Series(values).groupby(samples["pair"].to_numpy())
            values = np.array(released_values([list(group) for _, group in groups], ranks))
        summary[name] = float(values.mean())
    return summary


def intersection_over_union(areas: Int64) -> Float64:
    """(n,) I / (U + 1e-6), 0 where both masks are empty; `areas` (3, n) as in OverlapScores."""
    common, predicted, truth = areas
    ratios: Float64 = common / (predicted + truth - common + 1e-6)
    return ratios


def dice(areas: Int64) -> Float64:
    """(n,) 2 I / (|P| + |G| + 1e-6)."""
    common, predicted, truth = areas
    ratios: Float64 = 2 * common / (predicted + truth + 1e-6)
    return ratios


def released_values(values_by_pair: Sequence[Sequence[float]], ranks: int) -> list[float]:
    """The values that V2-SAM's released metric averages when `ranks` processes evaluate.

    Process r evaluates the pairs r, r + ranks, ... (the first pairs again, until all processes have
    as many) and lists the values of their objects. The lists are dealt out one value each in turn
    and cut to as many values as there are pairs, since the metric takes the length of the dataset.
    """
    count = len(values_by_pair)
    order = [*range(count), *range(-count % ranks)]
    lists = [
        list(chain.from_iterable(values_by_pair[pair] for pair in order[rank::ranks]))
        for rank in range(ranks)
    ]
    dealt = chain.from_iterable(zip_longest(*lists))
    return [value for value in dealt if value is not None][:count]


def _score_takes(
    truth: GroundTruth, predictions: Predictions, select: _PairSelector
) -> OverlapScores:
    def score(take_uid: str) -> OverlapScores:
        pairs = select(take_uid, truth.read_take(take_uid), predictions.direction)
        return _score_pairs(take_uid, pairs, predictions)

    with ThreadPoolExecutor(available_cores()) as pool:
        takes = list(pool.map(score, truth.take_uids))
    problems = Problems()
    first_pair = 0
    tables = []
    for take in takes:
        problems.update(take.problems)
        tables.append(take.samples.assign(pair=take.samples["pair"] + first_pair))
        first_pair += take.samples.attrs["pairs"]
    samples = pd.concat(tables, ignore_index=True)
    if samples.empty and not problems.counts:
        raise DataError(f"{truth.path} has no object with a mask in both views")
    return OverlapScores(
        samples,
        np.concatenate([take.at_sam_size for take in takes], axis=1),
        np.concatenate([take.at_own_size for take in takes], axis=1),
        problems,
    )


def _score_pairs(
    take_uid: str, pairs: Sequence[RelationPair], predictions: Predictions
) -> OverlapScores:
    problems = Problems()
    rows: list[tuple[Any, ...]] = []
    masks: list[tuple[MaskRle, MaskRle]] = []
    has_take = take_uid in predictions.take_uids
    by_name = predictions.read_take(take_uid) if pairs and has_take else {}
    if pairs and not has_take:
        problems.add("missing_take", take_uid)
    names = sorted({name for pair in pairs for name in pair.object_names})
    matches = match_names(by_name, names)
    by_object = {matches.get(name, name): value for name, value in by_name.items()}
    for number, pair in enumerate(pairs if has_take else ()):
        cameras = f"{pair.source_camera}_{pair.dest_camera}"
        for name, true_mask in zip(pair.object_names, pair.truths, strict=True):
            frame = pair.source_frame_idx
            where = f"take {take_uid}, {name!r}, {cameras}, frame {frame}"
            tracks = by_object.get(name)
            entries = tracks.get(cameras) if isinstance(tracks, dict) else None
            if not isinstance(entries, dict) or str(frame) not in entries:
                problems.add("missing_frame", where)
                continue
            prediction = parse_prediction(entries[str(frame)], where, problems)
            if prediction is not None:
                rows.append(
                    (number, take_uid, name, pair.source_camera, pair.dest_camera,
                     pair.dest_frame_idx)
                )  # fmt: skip
                masks.append((prediction[0], true_mask))
    columns = ["pair", "take_uid", "object_name", "source_camera", "dest_camera", "frame_idx"]
    samples = pd.DataFrame(rows, columns=columns).astype({"pair": "int64"})
    samples.attrs["pairs"] = len(pairs)
    predicted, true = (MaskColumns.from_rles([pair[side] for pair in masks]) for side in (0, 1))
    areas = {}
    for name, size in (("at_sam_size", SAM_SIZE), ("at_own_size", None)):
        areas[name], codes = _measure(predicted, true, size)
        for side, kind in ((PREDICTED, "bad_mask"), (TRUTH, "bad_truth")):
            # The same masks at both sizes: they are reported once.
            for row in np.flatnonzero(codes[side] != OK) if size else ():
                problems.add(kind, " ".join(map(str, rows[row][1:])))
    return OverlapScores(samples, areas["at_sam_size"], areas["at_own_size"], problems)


def _measure(predicted: MaskColumns, truth: MaskColumns, size: Size | None) -> tuple[Int64, Any]:
    """Areas (3, n) and problem codes (2, n) at `size`, or at the truths' own sizes."""
    areas = np.zeros((3, len(truth)), np.int64)
    codes = np.zeros((2, len(truth)), np.uint8)
    sides = np.stack([predicted.heights, predicted.widths, truth.heights, truth.widths], axis=1)
    combinations, group = np.unique(sides, axis=0, return_inverse=True)
    for number, (*_, height, width) in enumerate(combinations.tolist()):
        rows = np.flatnonzero(group.reshape(-1) == number)
        target = size or (height, width)
        part_areas, part_codes = (
            np.zeros((3, rows.size), np.int64),
            np.zeros((2, rows.size), np.uint8),
        )
        overlaps(
            resized_masks(predicted.take(rows), target, exact=True),
            resized_masks(truth.take(rows), target, exact=True),
            target,
            part_areas,
            part_codes,
        )
        areas[:, rows], codes[:, rows] = part_areas, part_codes
    return areas, codes
