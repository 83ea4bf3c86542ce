"""Scores the samples of one take under a protocol: sizes, metrics and confidences, as one table.

Samples with equal sizes (of the predictions, of the truths, of the comparison) form a group, and
each group is one call of `metrics.score_masks`. The ceiling columns stay empty; `ceilings` fills
them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from egoexo_tools.arrays import Bool, Float64, Int64
from egoexo_tools.evaluation import metrics
from egoexo_tools.evaluation.align import Problems, TakeSamples
from egoexo_tools.evaluation.metrics import METRICS, official_size
from egoexo_tools.evaluation.predictions import VISIBLE_SHARE
from egoexo_tools.evaluation.score_files import scores_schema
from egoexo_tools.manifests import to_table
from egoexo_tools.masks.resizing import Size
from egoexo_tools.masks.rle_loops import OK
from egoexo_tools.vocab import Protocol

FLOATS = ("iou", "contour_accuracy", "location_error", "consistency", "truth_consistency")
AREAS = ("predicted_area", "truth_area")


@dataclass(frozen=True)
class SizeGroup:
    """Samples whose masks have the same sizes, for one call of the compiled loops."""

    rows: Int64
    """(k,) indices into the TakeSamples, ascending."""
    predicted_size: Size
    truth_size: Size
    size: Size
    """The size at which the masks are compared."""


def score_take(
    samples: TakeSamples, *, protocol: Protocol, resize: bool, problems: Problems
) -> tuple[pa.Table, list[SizeGroup]]:
    """Rows of the `scores` schema for the samples that can be scored, and their groups.

    Broken masks, and under the official protocol without `resize` masks of a wrong size, are added
    to `problems` and left out of the rows; the groups still contain them.
    """
    names = (*FLOATS, *METRICS, *AREAS, "scored_height", "scored_width")
    columns = {name: np.full(len(samples), np.nan) for name in names}
    valid = np.ones(len(samples), np.bool_)
    tracks = _number_tracks(samples)
    groups = []
    for group in _size_groups(samples, tracks, protocol, resize):
        rows = group.rows
        official = official_size(group.truth_size)
        if protocol is Protocol.OFFICIAL and not resize and group.predicted_size != official:
            # The mask of an absent object is not compared, so its size does not matter.
            wrong_rows = rows[samples.visible[rows]]
            for sample in wrong_rows:
                sizes = ["x".join(map(str, size)) for size in (group.predicted_size, official)]
                text = f"{samples.describe(sample)} is {sizes[0]}, not {sizes[1]}"
                problems.add("wrong_size", text)
            valid[wrong_rows] = False
            if len(wrong_rows) == len(rows):
                continue
        groups.append(group)
        follows = np.zeros(len(rows), np.bool_)
        # Rows that are not adjacent are separated by a sample of another size: the preceding mask
        # of the group is then not the preceding mask of the track.
        follows[1:] = (np.diff(rows) == 1) & (np.diff(tracks[rows]) == 0)
        scores = metrics.score_masks(
            samples.predicted.take(rows),
            samples.truth.take(rows),
            size=group.size,
            # O-MaMa's evaluator uses the diagonal of the image; the official one always uses that
            # of 480 x 480.
            diagonal=metrics.diagonal_of(group.size)
            if protocol is Protocol.OMAMA
            else metrics.OFFICIAL_DIAGONAL,
            visible=samples.visible[rows],
            follows=follows,
        )
        for kind, codes in (
            ("bad_mask", scores.predicted_problem),
            ("bad_truth", scores.truth_problem),
        ):
            for sample in rows[codes != OK]:
                problems.add(kind, samples.describe(sample))
                valid[sample] = False
        for name in (*FLOATS, *AREAS):
            columns[name][rows] = getattr(scores, name)
        columns["scored_height"][rows], columns["scored_width"][rows] = group.size
        # The compiled loops do not know metrics that were added to METRICS.
        added = [name for name in METRICS if name not in FLOATS]
        for sample in rows[samples.visible[rows] & valid[rows]] if added else ():
            predicted = samples.predicted.rle(sample).decode_at(*group.size)
            truth = samples.truth.rle(sample).decode_at(*group.size)
            for name in added:
                columns[name][sample] = METRICS[name].function(predicted, truth)
    return _build_table(samples, columns, protocol).filter(pa.array(valid)), groups


def _number_tracks(samples: TakeSamples) -> Int64:
    """(n,) a number for each track; the samples of a track are adjacent."""
    keys = list(
        zip(samples.object_names, samples.source_cameras, samples.dest_cameras, strict=True)
    )
    starts = [i > 0 and keys[i] != keys[i - 1] for i in range(len(keys))]
    return np.cumsum(np.array(starts, np.int64))


def _size_groups(
    samples: TakeSamples, tracks: Int64, protocol: Protocol, resize: bool
) -> Iterator[SizeGroup]:
    predicted = np.stack([samples.predicted.heights, samples.predicted.widths], axis=1)
    truth = np.stack([samples.truth.heights, samples.truth.widths], axis=1).astype(np.float64)
    # An absent truth gets the size of the nearest truth in its track, so that a track stays in one
    # group and its consistency includes absent frames.
    truth[~samples.visible] = np.nan
    by_track = pd.DataFrame(truth).groupby(tracks)
    filled = by_track.ffill().fillna(by_track.bfill()).fillna(pd.DataFrame(predicted))
    sizes = np.hstack([predicted, filled.to_numpy().astype(np.int64)])
    # A take has few combinations of sizes, and each is one call: the loops reuse their buffers.
    combinations, group = np.unique(sizes, axis=0, return_inverse=True)
    for number, (p_height, p_width, t_height, t_width) in enumerate(combinations.tolist()):
        predicted_size, truth_size = (p_height, p_width), (t_height, t_width)
        size = predicted_size
        if protocol is Protocol.OFFICIAL and resize:
            size = official_size(truth_size)
        rows = np.flatnonzero(group.reshape(-1) == number)
        yield SizeGroup(rows, predicted_size, truth_size, size)


def _build_table(samples: TakeSamples, columns: dict[str, Float64], protocol: Protocol) -> pa.Table:
    visible: Bool = samples.visible
    pixels = columns["scored_height"] * columns["scored_width"]
    confidences = (columns["predicted_area"] > VISIBLE_SHARE * pixels).astype(np.float64)
    if protocol is Protocol.LM_EEC:
        # LM-EEC's evaluator looks at the pixels: an empty true mask is an absent object.
        visible &= ~(columns["truth_area"] == 0)
        for name in METRICS:
            columns[name][~visible] = np.nan
    else:
        not_given = np.isnan(samples.confidences)
        confidences = np.where(not_given, confidences, samples.confidences)
    # An absent object has no pixels; null would mean an unknown area.
    columns["truth_area"] = np.where(visible, columns["truth_area"], 0)
    schema = scores_schema()
    rows = {
        "pair_id": samples.pair_ids(),
        "take_uid": [samples.take_uid] * len(samples),
        "object_name": samples.object_names,
        "source_camera": samples.source_cameras,
        "dest_camera": samples.dest_cameras,
        "frame_idx": samples.frame_idxs,
        "visible": visible,
        "confidence": confidences,
        "predicted_visible": confidences > metrics.CONFIDENCE_THRESHOLD,
        **{
            name: pa.array(values, pa.float64(), from_pandas=True).cast(schema.field(name).type)
            for name, values in columns.items()
        },
    }
    return to_table("scores", rows, schema=schema)
