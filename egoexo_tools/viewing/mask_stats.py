"""The measurements of `stats` that use every mask: areas, tracks and changes over time.

All functions work on whole columns. `load_masks` returns the frame that the others take, sorted by
track and frame. A track is here an object of a take in one camera; a track of a run
(`runs.TRACK_COLUMNS`) has two cameras.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import FPS

QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
"""Name in column names → quantile."""
DRIFT_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300)
"""Upper ends of the times since a track's first visible frame; later times count together."""
GAP_STEPS = 1.5
"""A distance of more than this many usual steps between annotated frames is a gap."""
_TRACK_KEY = ["take_uid", "object_name", "camera"]
_TRACK_MEASURES = ("frames", "visible_frames", "seconds", "gaps", "longest_step_seconds", "density")


def load_masks(root: DatasetRoot, takes: pd.DataFrame) -> pd.DataFrame:
    """Every row of the masks manifest, without its run lengths.

    Columns: take_uid, object_name, camera, view, scenario, split (categories), track (a number
    from 0 up), frame_idx, visible, area, area_share, and the centre of the box as x and y, in
    diagonals of the image (NaN if absent).
    """
    columns = [*_TRACK_KEY, "view", "frame_idx", "visible", "area", "rle_height", "rle_width"]
    table = read_manifest(root, "masks", columns=[*columns, "bbox_xywh"]).combine_chunks()
    boxes = np.full((table.num_rows, 4), np.nan, np.float32)
    box_column = table.column("bbox_xywh").combine_chunks()
    coordinates = pc.list_flatten(box_column).to_numpy(zero_copy_only=False).reshape(-1, 4)
    boxes[box_column.is_valid().to_numpy(zero_copy_only=False)] = coordinates
    masks = encode_text_columns(table.select(columns)).to_pandas()
    height, width = masks.pop("rle_height"), masks.pop("rle_width")
    diagonal = np.hypot(height, width).astype(np.float32)
    masks["area_share"] = (masks["area"] / (height * width)).astype(np.float32)
    masks["x"] = (boxes[:, 0] + boxes[:, 2] / 2) / diagonal
    masks["y"] = (boxes[:, 1] + boxes[:, 3] / 2) / diagonal
    by_take = takes.drop_duplicates("take_uid").set_index("take_uid")
    for name in ("scenario", "split"):
        # Looked up once per take, not once per mask.
        values = by_take[name].fillna("").reindex(masks["take_uid"].cat.categories).fillna("")
        masks[name] = pd.Categorical(values)[masks["take_uid"].cat.codes.to_numpy()]
    # Shifted by one, because the code of null is -1.
    codes = [masks[name].cat.codes.to_numpy(np.int64) + 1 for name in _TRACK_KEY]
    key = np.ravel_multi_index(codes, [len(masks[name].cat.categories) + 1 for name in _TRACK_KEY])
    masks["track"] = np.unique(key, return_inverse=True)[1]
    in_order: pd.DataFrame = masks.sort_values(["track", "frame_idx"], ignore_index=True)
    return in_order


def encode_text_columns(table: pa.Table) -> pa.Table:
    """The table with its text columns as dictionaries, which pandas reads as categories."""
    for column, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = table.column(column).combine_chunks()
            table = table.set_column(column, field.name, texts.dictionary_encode())
    return table


def measure_camera_tracks(masks: pd.DataFrame) -> pd.DataFrame:
    """A row per track: frames, visible_frames, seconds, gaps, longest_step_seconds, density."""
    if masks.empty:
        return pd.DataFrame(columns=[*_TRACK_KEY, "view", "scenario", "split", *_TRACK_MEASURES])
    frame_idx, track = masks["frame_idx"].to_numpy(), masks["track"].to_numpy()
    distance = np.diff(frame_idx, append=0)
    inside = np.diff(track, append=-1) == 0  # the next row belongs to the same track
    # The most frequent distance, the smallest of several. bincount would need an array as long as
    # the largest distance, which a damaged frame_idx makes two thousand million.
    values, counts = np.unique(distance[inside], return_counts=True)
    step = max(int(values[counts.argmax()]), 1) if len(values) else FPS
    grouped = masks.groupby("track")
    rows = grouped[[*_TRACK_KEY, "view", "scenario", "split"]].first()
    rows["frames"] = grouped.size()
    rows["visible_frames"] = grouped["visible"].sum()
    length = grouped["frame_idx"].last() - grouped["frame_idx"].first()
    rows["seconds"] = length / FPS
    gap = inside & (distance > GAP_STEPS * step)
    rows["gaps"] = np.bincount(track[gap], minlength=len(rows))
    longest = pd.Series(np.where(inside, distance, 0)).groupby(track).max()
    rows["longest_step_seconds"] = longest / FPS
    rows["density"] = rows["frames"] / (length / step + 1)
    return rows.reset_index(drop=True)


def count_cameras(tracks: pd.DataFrame) -> pd.DataFrame:
    """A row per object of a take: take_uid, object_name, scenario, split, ego and exo cameras."""
    rows = tracks.assign(
        ego_cameras=(tracks["view"] == "ego").astype(np.int64),
        exo_cameras=(tracks["view"] == "exo").astype(np.int64),
    )
    grouped = rows.groupby(["take_uid", "object_name"], observed=True, sort=False)
    first = grouped[["scenario", "split"]].first()
    return first.join(grouped[["ego_cameras", "exo_cameras"]].sum()).reset_index()


def percentiles(rows: pd.DataFrame) -> pd.DataFrame:
    """(measures, p5 to p95) of the columns of `rows`."""
    values = rows.astype(np.float64).quantile(list(QUANTILES.values())).T
    return values.set_axis(list(QUANTILES), axis=1)


def group_quantiles(rows: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """A row per group: its keys as text, count, and `<measure>_p5` to `_p95` of each measure."""
    grouped = rows.groupby(list(by), observed=True)
    table = grouped.size().rename("count").reset_index()
    for name in by:
        table[name] = table[name].astype(str)
    for measure in measures:
        values = grouped[measure].quantile(np.array([*QUANTILES.values()])).unstack()
        for name, quantile in QUANTILES.items() if len(values) else ():
            table[f"{measure}_{name}"] = values[quantile].to_numpy()
    return table


def area_histogram(masks: pd.DataFrame) -> pd.DataFrame:
    """view, low, high (share of the image), masks; from 1e-6 to 1, five steps per decade."""
    edges = np.linspace(-6, 0, 6 * 5 + 1)
    parts = []
    visible = masks[masks["visible"]]
    for view, rows in visible.groupby("view", observed=True):
        values = np.clip(np.log10(rows["area_share"].to_numpy(np.float64)), edges[0], edges[-1])
        part = {"low": 10 ** edges[:-1], "high": 10 ** edges[1:]}
        counts = np.histogram(values, edges)[0]
        parts.append(pd.DataFrame({"view": str(view), **part, "masks": counts}))
    columns = ["view", "low", "high", "masks"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def measure_steps(masks: pd.DataFrame) -> pd.DataFrame:
    """From each visible frame of a track to the next: view, scenario, displacement, size_change.

    Both per second: in diagonals of the image, and |log2| of the ratio of the areas.
    """
    visible = masks[masks["visible"]]
    track = visible["track"].to_numpy()
    same = track[1:] == track[:-1]
    after, before = visible.iloc[1:][same], visible.iloc[:-1][same]
    seconds = (after["frame_idx"].to_numpy() - before["frame_idx"].to_numpy()) / FPS
    # A damaged root may contain a frame twice.
    return _measure_changes(before, after, np.maximum(seconds, 1 / FPS))


def measure_drift(masks: pd.DataFrame) -> pd.DataFrame:
    """Quantiles of the changes since a track's first visible frame, by view and time."""
    visible = masks[masks["visible"]]
    track = visible["track"].to_numpy()
    starts = np.flatnonzero(np.diff(track, prepend=-1))
    first = np.repeat(starts, np.diff(np.append(starts, len(track))))
    before = visible.iloc[first]
    elapsed = (visible["frame_idx"].to_numpy() - before["frame_idx"].to_numpy()) / FPS
    later = elapsed > 0
    changes = _measure_changes(before[later], visible[later], np.ones(int(later.sum())))
    bounds = np.array([*DRIFT_SECONDS, np.inf])
    changes["up_to_seconds"] = bounds[np.searchsorted(bounds, elapsed[later])]
    table = group_quantiles(changes, ["view", "up_to_seconds"], ["displacement", "size_change"])
    return table.astype({"up_to_seconds": np.float64})


def _measure_changes(
    before: pd.DataFrame, after: pd.DataFrame, seconds: NDArray[Any]
) -> pd.DataFrame:
    """Displacement and size change between rows, divided by seconds."""
    displacement = np.hypot(
        after["x"].to_numpy() - before["x"].to_numpy(),
        after["y"].to_numpy() - before["y"].to_numpy(),
    )
    # Areas as shares of the image: in a damaged root, masks of a camera can have several sizes.
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log2(after["area_share"].to_numpy() / before["area_share"].to_numpy())
    return pd.DataFrame(
        {
            "view": after["view"].array,
            "scenario": after["scenario"].array,
            "displacement": (displacement / seconds).astype(np.float32),
            "size_change": (np.abs(growth) / seconds).astype(np.float32),
        }
    )
