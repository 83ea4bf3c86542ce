"""Scores the samples of one take under a protocol: sizes, metrics, ceilings, as one table.

Samples are scored in batches of one geometry (size of the predictions, of the truths, and at
which they are compared); a batch is one call of `metrics.score_masks`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from egoexo_tools.evaluation.align import Problems, Protocol, TakeSamples
from egoexo_tools.evaluation.metrics import (
    CONFIDENCE_THRESHOLD,
    METRICS,
    OFFICIAL_DIAGONAL,
    MaskScores,
    Rles,
    diagonal_of,
    official_size,
    score_masks,
)
from egoexo_tools.evaluation.predictions import VISIBLE_SHARE
from egoexo_tools.manifests import SCHEMAS, to_table
from egoexo_tools.masks.resizing import Size
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import OK

FLOATS = ("iou", "contour_accuracy", "location_error", "consistency", "truth_consistency")
AREAS = ("predicted_area", "truth_area")


@dataclass(frozen=True)
class Batch:
    """Samples of one geometry, by position in their TakeSamples, ascending."""

    samples: NDArray[np.int64]
    predicted_size: Size
    truth_size: Size
    size: Size
    """At which the masks are compared."""


def score_take(
    samples: TakeSamples, *, protocol: Protocol, resize: bool, problems: Problems
) -> tuple[pa.Table, list[Batch]]:
    """Rows of the `scores` schema for the samples that can be scored, and their batches.

    Broken masks and (official, without `resize`) masks of a wrong size are added to `problems`
    and left out; the batches still hold them.
    """
    columns = _empty_columns(len(samples))
    good = np.ones(len(samples), np.bool_)
    batches = []
    for batch in _batches(samples, protocol, resize):
        if _wrong_size(batch, samples, protocol, resize, good, problems):
            continue
        batches.append(batch)
        scores = _score_batch(batch, samples, protocol)
        _report_broken(batch, samples, scores, good, problems)
        for name in (*FLOATS, *AREAS):
            columns[name][batch.samples] = getattr(scores, name)
        columns["scored_height"][batch.samples] = batch.size[0]
        columns["scored_width"][batch.samples] = batch.size[1]
        _add_further_metrics(batch, samples, columns, good)
    return _table(samples, columns, protocol).filter(pa.array(good)), batches


def truth_rles(samples: TakeSamples, batch: Batch) -> Rles:
    return _rles([samples.truth[i][2] for i in batch.samples], batch.truth_size)


def _empty_columns(count: int) -> dict[str, NDArray[np.float64]]:
    names = {*FLOATS, *METRICS, *AREAS, "scored_height", "scored_width"}
    return {name: np.full(count, np.nan) for name in names}


def _batches(samples: TakeSamples, protocol: Protocol, resize: bool) -> Iterator[Batch]:
    predicted = np.array([mask[:2] for mask in samples.predicted], np.int64).reshape(-1, 2)
    truth = _filled_sizes(samples, predicted)
    geometry, inverse = np.unique(np.hstack([predicted, truth]), axis=0, return_inverse=True)
    for number, (p_height, p_width, t_height, t_width) in enumerate(geometry.tolist()):
        predicted_size, truth_size = (p_height, p_width), (t_height, t_width)
        size = predicted_size
        if protocol is Protocol.OFFICIAL and resize:
            size = official_size(truth_size)
        members = np.flatnonzero(inverse.reshape(-1) == number)
        yield Batch(members, predicted_size, truth_size, size)


def _filled_sizes(samples: TakeSamples, predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Size of each truth; where there is none, that of its track's nearest, else the prediction's.

    So that a track stays in one batch, and consistency over time sees absent frames too.
    """
    truth = np.array([mask[:2] for mask in samples.truth], np.float64).reshape(-1, 2)
    truth[truth[:, 0] == 0] = np.nan
    tracks = pd.DataFrame(truth).groupby(track_ids(samples))
    filled = tracks.ffill().fillna(tracks.bfill()).fillna(pd.DataFrame(predicted))
    return filled.to_numpy().astype(np.int64)


def track_ids(samples: TakeSamples) -> NDArray[np.int64]:
    """A number for each (object, source, dest); samples of a track lie together."""
    keys = list(
        zip(samples.object_names, samples.source_cameras, samples.dest_cameras, strict=True)
    )
    starts = [i > 0 and keys[i] != keys[i - 1] for i in range(len(keys))]
    return np.cumsum(np.array(starts, np.int64))


def _wrong_size(
    batch: Batch,
    samples: TakeSamples,
    protocol: Protocol,
    resize: bool,
    good: NDArray[np.bool_],
    problems: Problems,
) -> bool:
    """Official without resizing: the visible samples of a batch of another size do not count."""
    wanted = official_size(batch.truth_size)
    if protocol is not Protocol.OFFICIAL or resize or batch.predicted_size == wanted:
        return False
    visible = _visible(batch, samples)
    for sample in batch.samples[visible]:
        came = "x".join(map(str, batch.predicted_size))
        due = "x".join(map(str, wanted))
        problems.add("wrong_size", f"{samples.name(sample)} is {came}, not {due}")
    good[batch.samples[visible]] = False
    # Nobody looks at the mask of an absent object, so its size is free.
    return bool(visible.all())


def _score_batch(batch: Batch, samples: TakeSamples, protocol: Protocol) -> MaskScores:
    tracks = track_ids(samples)[batch.samples]
    follows = np.zeros(len(batch.samples), np.bool_)
    follows[1:] = (np.diff(batch.samples) == 1) & (tracks[1:] == tracks[:-1])
    return score_masks(
        _rles([samples.predicted[i][2] for i in batch.samples], batch.predicted_size),
        truth_rles(samples, batch),
        size=batch.size,
        diagonal=diagonal_of(batch.size) if protocol is Protocol.OMAMA else OFFICIAL_DIAGONAL,
        visible=_visible(batch, samples),
        follows=follows,
    )


def _report_broken(
    batch: Batch,
    samples: TakeSamples,
    scores: MaskScores,
    good: NDArray[np.bool_],
    problems: Problems,
) -> None:
    for kind, codes in (
        ("bad_mask", scores.predicted_problem),
        ("bad_truth", scores.truth_problem),
    ):
        for sample in batch.samples[codes != OK]:
            problems.add(kind, samples.name(sample))
            good[sample] = False


def _add_further_metrics(
    batch: Batch,
    samples: TakeSamples,
    columns: dict[str, NDArray[np.float64]],
    good: NDArray[np.bool_],
) -> None:
    """Metrics of METRICS that the compiled loop does not know, one sample at a time."""
    further = [name for name in METRICS if name not in FLOATS]
    if not further:
        return
    for sample in batch.samples[_visible(batch, samples) & good[batch.samples]]:
        predicted = MaskRle(*samples.predicted[sample]).decode_at(*batch.size)
        truth = MaskRle(*samples.truth[sample]).decode_at(*batch.size)
        for name in further:
            columns[name][sample] = METRICS[name](predicted, truth)


def _visible(batch: Batch, samples: TakeSamples) -> NDArray[np.bool_]:
    return np.array([samples.truth[i][0] > 0 for i in batch.samples], np.bool_)


def _rles(counts: list[str], size: Size) -> Rles:
    return Rles(size, pa.array(counts, pa.large_string()))


def _table(
    samples: TakeSamples, columns: dict[str, NDArray[np.float64]], protocol: Protocol
) -> pa.Table:
    visible = np.array([mask[0] > 0 for mask in samples.truth], np.bool_)
    if protocol is Protocol.LM_EEC:
        visible &= ~(columns["truth_area"] == 0)
        for name in METRICS:
            columns[name][~visible] = np.nan
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
    return to_table("scores", rows)


def _confidences(
    samples: TakeSamples, columns: dict[str, NDArray[np.float64]], protocol: Protocol
) -> NDArray[np.float64]:
    """As given; LM-EEC's rule under its protocol, and where none was given."""
    pixels = columns["scored_height"] * columns["scored_width"]
    covered = (columns["predicted_area"] > VISIBLE_SHARE * pixels).astype(np.float64)
    given = np.array(samples.confidences, np.float64)
    if protocol is Protocol.LM_EEC:
        return covered
    return np.where(np.isnan(given), covered, given)


def _nullable(name: str, values: NDArray[np.float64]) -> pa.Array:
    type_ = SCHEMAS["scores"].field(name).type
    return pa.array(values, pa.float64(), from_pandas=True).cast(type_)
