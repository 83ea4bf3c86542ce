"""Scores the samples of one take under a protocol: sizes, metrics, confidences, as one table.

Samples are scored in groups of equal sizes (of the predictions, of the truths, and at which they
are compared); a group is one call of `metrics.score_masks`. The ceilings' columns stay empty here:
`ceilings` fills them in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from egoexo_tools.arrays import Bool, Float64, Int64
from egoexo_tools.evaluation.align import Problems, Protocol, TakeSamples
from egoexo_tools.evaluation.metrics import (
    CONFIDENCE_THRESHOLD,
    METRICS,
    OFFICIAL_DIAGONAL,
    MaskScores,
    diagonal_of,
    official_size,
    score_masks,
)
from egoexo_tools.evaluation.predictions import VISIBLE_SHARE
from egoexo_tools.evaluation.score_files import scores_schema
from egoexo_tools.manifests import to_table
from egoexo_tools.masks.resizing import Size
from egoexo_tools.masks.rle_loops import OK

FLOATS = ("iou", "contour_accuracy", "location_error", "consistency", "truth_consistency")
AREAS = ("predicted_area", "truth_area")


@dataclass(frozen=True)
class SizeGroup:
    """Samples whose masks have the same sizes: what one call of the compiled loops takes."""

    rows: Int64
    """(k,) positions in their TakeSamples, ascending."""
    predicted_size: Size
    truth_size: Size
    size: Size
    """At which the masks are compared."""


def score_take(
    samples: TakeSamples, *, protocol: Protocol, resize: bool, problems: Problems
) -> tuple[pa.Table, list[SizeGroup]]:
    """Rows of the `scores` schema for the samples that can be scored, and their groups.

    Broken masks and (official, without `resize`) masks of a wrong size are added to `problems`
    and left out; the groups still hold them.
    """
    columns = _empty_columns(len(samples))
    good = np.ones(len(samples), np.bool_)
    groups = []
    for group in _size_groups(samples, protocol, resize):
        if _wrong_size(group, samples, protocol, resize, good, problems):
            continue
        groups.append(group)
        scores = _score_batch(group, samples, protocol)
        _report_broken(group, samples, scores, good, problems)
        for name in (*FLOATS, *AREAS):
            columns[name][group.rows] = getattr(scores, name)
        columns["scored_height"][group.rows] = group.size[0]
        columns["scored_width"][group.rows] = group.size[1]
        _add_further_metrics(group, samples, columns, good)
    return _table(samples, columns, protocol).filter(pa.array(good)), groups


def _empty_columns(count: int) -> dict[str, Float64]:
    names = {*FLOATS, *METRICS, *AREAS, "scored_height", "scored_width"}
    return {name: np.full(count, np.nan) for name in names}


def _size_groups(samples: TakeSamples, protocol: Protocol, resize: bool) -> Iterator[SizeGroup]:
    predicted = np.stack([samples.predicted.heights, samples.predicted.widths], axis=1)
    sizes = np.hstack([predicted, _filled_sizes(samples, predicted)])
    # A take has few combinations, and each is one call: the loops draw into the same buffers.
    found, group = np.unique(sizes, axis=0, return_inverse=True)
    for number, (p_height, p_width, t_height, t_width) in enumerate(found.tolist()):
        predicted_size, truth_size = (p_height, p_width), (t_height, t_width)
        size = predicted_size
        if protocol is Protocol.OFFICIAL and resize:
            size = official_size(truth_size)
        rows = np.flatnonzero(group.reshape(-1) == number)
        yield SizeGroup(rows, predicted_size, truth_size, size)


def _filled_sizes(samples: TakeSamples, predicted: Int64) -> Int64:
    """Size of each truth; where there is none, that of its track's nearest, else the prediction's.

    So that a track stays in one group, and consistency over time sees absent frames too.
    """
    truth = np.stack([samples.truth.heights, samples.truth.widths], axis=1).astype(np.float64)
    truth[~samples.visible] = np.nan
    tracks = pd.DataFrame(truth).groupby(track_ids(samples))
    filled = tracks.ffill().fillna(tracks.bfill()).fillna(pd.DataFrame(predicted))
    return filled.to_numpy().astype(np.int64)


def track_ids(samples: TakeSamples) -> Int64:
    """A number for each (object, source, dest); samples of a track lie together."""
    keys = list(
        zip(samples.object_names, samples.source_cameras, samples.dest_cameras, strict=True)
    )
    starts = [i > 0 and keys[i] != keys[i - 1] for i in range(len(keys))]
    return np.cumsum(np.array(starts, np.int64))


def _wrong_size(
    group: SizeGroup,
    samples: TakeSamples,
    protocol: Protocol,
    resize: bool,
    good: Bool,
    problems: Problems,
) -> bool:
    """Official without resizing: the visible samples of a group of another size do not count."""
    wanted = official_size(group.truth_size)
    if protocol is not Protocol.OFFICIAL or resize or group.predicted_size == wanted:
        return False
    visible = samples.visible[group.rows]
    for sample in group.rows[visible]:
        came = "x".join(map(str, group.predicted_size))
        due = "x".join(map(str, wanted))
        problems.add("wrong_size", f"{samples.name(sample)} is {came}, not {due}")
    good[group.rows[visible]] = False
    # Nobody looks at the mask of an absent object, so its size is free.
    return bool(visible.all())


def _score_batch(group: SizeGroup, samples: TakeSamples, protocol: Protocol) -> MaskScores:
    tracks = track_ids(samples)[group.rows]
    follows = np.zeros(len(group.rows), np.bool_)
    # Rows that are no neighbours had a sample of another size between them: the one before in this
    # group is then not the one before in time.
    follows[1:] = (np.diff(group.rows) == 1) & (tracks[1:] == tracks[:-1])
    return score_masks(
        samples.predicted.take(group.rows),
        samples.truth.take(group.rows),
        size=group.size,
        # 679 pixels in the official protocol, whatever the image's shape; O-MaMa takes its own.
        diagonal=diagonal_of(group.size) if protocol is Protocol.OMAMA else OFFICIAL_DIAGONAL,
        visible=samples.visible[group.rows],
        follows=follows,
    )


def _report_broken(
    group: SizeGroup,
    samples: TakeSamples,
    scores: MaskScores,
    good: Bool,
    problems: Problems,
) -> None:
    for kind, codes in (
        ("bad_mask", scores.predicted_problem),
        ("bad_truth", scores.truth_problem),
    ):
        for sample in group.rows[codes != OK]:
            problems.add(kind, samples.name(sample))
            good[sample] = False


def _add_further_metrics(
    group: SizeGroup,
    samples: TakeSamples,
    columns: dict[str, Float64],
    good: Bool,
) -> None:
    """Metrics of METRICS that the compiled loop does not know, one sample at a time."""
    further = [name for name in METRICS if name not in FLOATS]
    if not further:
        return
    for sample in group.rows[samples.visible[group.rows] & good[group.rows]]:
        predicted = samples.predicted.rle(sample).decode_at(*group.size)
        truth = samples.truth.rle(sample).decode_at(*group.size)
        for name in further:
            columns[name][sample] = METRICS[name].function(predicted, truth)


def _table(samples: TakeSamples, columns: dict[str, Float64], protocol: Protocol) -> pa.Table:
    visible = samples.visible
    if protocol is Protocol.LM_EEC:
        # Its evaluator asks the pixels, not the file: an empty true mask is an absent object.
        visible &= ~(columns["truth_area"] == 0)
        for name in METRICS:
            columns[name][~visible] = np.nan
    # An absent object has no pixels, and a null would mean that nobody knows.
    columns["truth_area"] = np.where(visible, columns["truth_area"], 0)
    rows = {
        "pair_id": samples.pair_ids(),
        "take_uid": [samples.take_uid] * len(samples),
        "object_name": samples.object_names,
        "source_camera": samples.source_cameras,
        "dest_camera": samples.dest_cameras,
        "frame_idx": samples.frame_idxs,
        "visible": visible,
        "confidence": (confidence := _confidences(samples, columns, protocol)),
        "predicted_visible": confidence > CONFIDENCE_THRESHOLD,
        **{name: _nullable(name, values) for name, values in columns.items()},
    }
    return to_table("scores", rows, schema=scores_schema())


def _confidences(samples: TakeSamples, columns: dict[str, Float64], protocol: Protocol) -> Float64:
    """As given; LM-EEC's rule under its protocol, and where none was given."""
    pixels = columns["scored_height"] * columns["scored_width"]
    covered = (columns["predicted_area"] > VISIBLE_SHARE * pixels).astype(np.float64)
    given = samples.confidences
    if protocol is Protocol.LM_EEC:
        return covered
    return np.where(np.isnan(given), covered, given)


def _nullable(name: str, values: Float64) -> pa.Array:
    type_ = scores_schema().field(name).type
    return pa.array(values, pa.float64(), from_pandas=True).cast(type_)
