"""The measurements behind `stats` that look at every mask: areas, tracks, changes over time.

All of it works on columns; `load_masks` gives the frame that the other functions take, sorted by
track (take, object, camera) and frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from egoexo_tools.arrays import Float32
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import FPS

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DRIFT_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300)
"""Upper ends of the times since a track's first visible frame; later ones count together."""
_GAP_STEPS = 1.5
_CAMERA_KEY = ["take_uid", "object_name", "camera"]
"""What names an object in one camera; a track of `runs.TRACK_COLUMNS` has two cameras."""


def load_masks(root: DatasetRoot, takes: pd.DataFrame) -> pd.DataFrame:
    """Every row of the masks manifest, without its run lengths.

    Columns: take_uid, object_name, camera, view, scenario, split (categories), track (a number
    from 0 up), frame_idx, visible, area, area_share, x and y of the box's centre in diagonals of
    the image (NaN where absent).
    """
    columns = [
        *_CAMERA_KEY,
        "view",
        "frame_idx",
        "visible",
        "area",
        "rle_height",
        "rle_width",
    ]
    table = read_manifest(root, "masks", columns=[*columns, "bbox_xywh"]).combine_chunks()
    boxes = _boxes(table.column("bbox_xywh"))
    masks = coded(table.select(columns)).to_pandas()
    height, width = masks.pop("rle_height"), masks.pop("rle_width")
    diagonal = np.hypot(height, width).astype(np.float32)
    masks["area_share"] = (masks["area"] / (height * width)).astype(np.float32)
    masks["x"] = (boxes[:, 0] + boxes[:, 2] / 2) / diagonal
    masks["y"] = (boxes[:, 1] + boxes[:, 3] / 2) / diagonal
    known = takes.drop_duplicates("take_uid").set_index("take_uid")
    for name in ("scenario", "split"):
        names = known[name].fillna("").reindex(masks["take_uid"].cat.categories).fillna("")
        # One look-up a take, not one a mask.
        by_take = pd.Categorical(names)
        masks[name] = by_take[masks["take_uid"].cat.codes.to_numpy()]
    # One up: null is -1.
    codes = [masks[name].cat.codes.to_numpy(np.int64) + 1 for name in _CAMERA_KEY]
    key = np.ravel_multi_index(codes, [len(masks[name].cat.categories) + 1 for name in _CAMERA_KEY])
    masks["track"] = np.unique(key, return_inverse=True)[1]
    in_order: pd.DataFrame = masks.sort_values(["track", "frame_idx"], ignore_index=True)
    return in_order


def coded(table: pa.Table) -> pa.Table:
    """The table with its text columns as dictionaries, which become categories in pandas."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = table.column(place).combine_chunks()
            table = table.set_column(place, field.name, column.dictionary_encode())
    return table


def tracks(masks: pd.DataFrame) -> pd.DataFrame:
    """A row a track: frames, visible_frames, seconds, gaps, longest_step_seconds, density."""
    if masks.empty:
        return pd.DataFrame(columns=[*_CAMERA_KEY, "view", "scenario", "split", *_TRACK_MEASURES])
    frame_idx, track = masks["frame_idx"].to_numpy(), masks["track"].to_numpy()
    distance = np.diff(frame_idx, append=0)
    inside = np.diff(track, append=-1) == 0  # the row after is of the same track
    step = _usual_step(distance[inside])
    grouped = masks.groupby("track")
    found = grouped[[*_CAMERA_KEY, "view", "scenario", "split"]].first()
    found["frames"] = grouped.size()
    found["visible_frames"] = grouped["visible"].sum()
    length = grouped["frame_idx"].last() - grouped["frame_idx"].first()
    found["seconds"] = length / FPS
    gap = inside & (distance > _GAP_STEPS * step)
    found["gaps"] = np.bincount(track[gap], minlength=len(found))
    longest = pd.Series(np.where(inside, distance, 0)).groupby(track).max()
    found["longest_step_seconds"] = longest / FPS
    found["density"] = found["frames"] / (length / step + 1)
    return found.reset_index(drop=True)


def _usual_step(distances: NDArray[np.integer[Any]]) -> int:
    """The most frequent of the distances between a track's rows, in frames; at a tie the least."""
    # No bincount: a single frame_idx of two thousand million would make it as long.
    values, counts = np.unique(distances, return_counts=True)
    return max(int(values[counts.argmax()]), 1) if len(values) else FPS


def objects(tracks: pd.DataFrame) -> pd.DataFrame:
    """A row an object of a take: take_uid, object_name, scenario, split, ego and exo cameras."""
    rows = tracks.assign(
        ego_cameras=(tracks["view"] == "ego").astype(np.int64),
        exo_cameras=(tracks["view"] == "exo").astype(np.int64),
    )
    grouped = rows.groupby(["take_uid", "object_name"], observed=True, sort=False)
    first = grouped[["scenario", "split"]].first()
    return first.join(grouped[["ego_cameras", "exo_cameras"]].sum()).reset_index()


def percentiles(rows: pd.DataFrame) -> pd.DataFrame:
    """(quantities, p5 to p95) of columns."""
    found = rows.astype(np.float64).quantile(list(QUANTILES)).T
    return found.set_axis([_quantile_name(quantile) for quantile in QUANTILES], axis=1)


def quantiles(rows: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """A row a group: its keys as text, count, and `<measure>_p5` to `_p95` of each measure."""
    grouped = rows.groupby(list(by), observed=True)
    found = grouped.size().rename("count").reset_index()
    for name in by:
        found[name] = found[name].astype(str)
    for measure in measures:
        values = grouped[measure].quantile(np.array(QUANTILES)).unstack()
        for quantile in QUANTILES if len(values) else ():
            found[f"{measure}_{_quantile_name(quantile)}"] = values[quantile].to_numpy()
    return found


def area_histogram(masks: pd.DataFrame, *, per_decade: int = 5) -> pd.DataFrame:
    """view, low, high (share of the image), masks: equal steps of the logarithm from 1e-6 to 1."""
    edges = np.linspace(-6, 0, 6 * per_decade + 1)
    parts = []
    visible = masks[masks["visible"]]
    for view, rows in visible.groupby("view", observed=True):
        values = np.clip(np.log10(rows["area_share"].to_numpy(np.float64)), edges[0], edges[-1])
        part = {"low": 10 ** edges[:-1], "high": 10 ** edges[1:]}
        counts = np.histogram(values, edges)[0]
        parts.append(pd.DataFrame({"view": str(view), **part, "masks": counts}))
    columns = ["view", "low", "high", "masks"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def steps(masks: pd.DataFrame) -> pd.DataFrame:
    """From each visible frame of a track to the next: view, scenario, displacement, size_change.

    Both are per second: diagonals of the image, and |log2| of the ratio of the areas.
    """
    visible = masks[masks["visible"]]
    track = visible["track"].to_numpy()
    same = track[1:] == track[:-1]
    after, before = visible.iloc[1:][same], visible.iloc[:-1][same]
    seconds = (after["frame_idx"].to_numpy() - before["frame_idx"].to_numpy()) / FPS
    # A damaged root may hold a frame twice.
    return _changes(before, after, np.maximum(seconds, 1 / FPS))


def drift(masks: pd.DataFrame) -> pd.DataFrame:
    """By view and time since a track's first visible frame: quantiles of what has changed."""
    visible = masks[masks["visible"]]
    track = visible["track"].to_numpy()
    starts = np.flatnonzero(np.diff(track, prepend=-1))
    first = np.repeat(starts, np.diff(np.append(starts, len(track))))
    before = visible.iloc[first]
    elapsed = (visible["frame_idx"].to_numpy() - before["frame_idx"].to_numpy()) / FPS
    later = elapsed > 0
    changes = _changes(before[later], visible[later], np.ones(int(later.sum())))
    bounds = np.array([*DRIFT_SECONDS, np.inf])
    changes["seconds"] = bounds[np.searchsorted(bounds, elapsed[later])]
    found = quantiles(changes, ["view", "seconds"], ["displacement", "size_change"])
    return found.assign(seconds=found["seconds"].astype(np.float64)).rename(
        columns={"seconds": "up_to_seconds"}
    )


_TRACK_MEASURES = (
    *("frames", "visible_frames", "seconds", "gaps", "longest_step_seconds", "density"),
)


def _changes(before: pd.DataFrame, after: pd.DataFrame, seconds: NDArray[Any]) -> pd.DataFrame:
    """Displacement and size change between rows, divided by seconds."""
    moved = np.hypot(
        after["x"].to_numpy() - before["x"].to_numpy(),
        after["y"].to_numpy() - before["y"].to_numpy(),
    )
    # The areas as shares: a camera's masks all have one size, but damaged roots exist.
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = np.log2(after["area_share"].to_numpy() / before["area_share"].to_numpy())
    return pd.DataFrame(
        {
            "view": after["view"].array,
            "scenario": after["scenario"].array,
            "displacement": (moved / seconds).astype(np.float32),
            "size_change": (np.abs(grown) / seconds).astype(np.float32),
        }
    )


def _boxes(column: pa.ChunkedArray) -> Float32:
    """(n, 4); NaN where there is none."""
    there = pc.is_valid(column).to_numpy(zero_copy_only=False)
    boxes = np.full((len(column), 4), np.nan, np.float32)
    flat = pc.list_flatten(column)
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.combine_chunks()
    boxes[there] = flat.to_numpy(zero_copy_only=False).reshape(-1, 4)
    return boxes


def _quantile_name(quantile: float) -> str:
    return "median" if quantile == 0.5 else f"p{round(quantile * 100)}"
