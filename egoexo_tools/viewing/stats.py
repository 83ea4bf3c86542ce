"""Counts and measures what a root holds: one table a subject, for a terminal, Parquet or a page.

Reads the takes, masks, pairs and exclusions manifests, only the columns that are needed and no
run lengths, so that two million masks fit into a few hundred megabytes. Areas and displacements
are in native pixels (of the video as shipped) and in shares of the image or of its diagonal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path
from egoexo_tools.manifests import read_manifest
from egoexo_tools.text_table import text_table
from egoexo_tools.viewing import mask_stats
from egoexo_tools.vocab import Direction, Split

_MOST_LINES = 24
"""Of a table in the terminal; Parquet and the page have all of it."""


@dataclass(frozen=True)
class StatsTable:
    """One subject."""

    title: str
    note: str
    """Units, and how it is counted."""
    rows: pd.DataFrame
    """What Parquet holds."""
    shown: pd.DataFrame
    """What the terminal and the page show: the same, or a summary of it."""


def collect(root: DatasetRoot) -> dict[str, StatsTable]:
    """Every table, by name. Needs takes and masks; without pairs their tables are missing.

    Raises DataError where `root` is not a dataset root.
    """
    takes = read_manifest(root.require(), "takes").to_pandas()
    masks = mask_stats.load_masks(root, takes)
    pairs = _load_pairs(root, takes)
    tracks = mask_stats.tracks(masks)
    objects = mask_stats.objects(tracks)
    found = {
        "splits": _splits(takes, masks, objects, pairs),
        "scenarios": _scenarios(takes, masks, objects, pairs),
        "takes": _takes(takes, masks, objects),
        "coverage": _coverage(objects),
        "tracks": _tracks(tracks),
        "areas": _areas(masks),
        "area_histogram": _histogram(masks),
        "steps": _steps(masks),
        "drift": _drift(masks),
        "visibility": _visibility(masks),
        "exclusions": _exclusions(root),
    }
    if pairs is not None:
        found["pairs"] = _pair_states(pairs)
    return found


def format_stats(tables: Mapping[str, StatsTable]) -> str:
    """All tables for a terminal; histograms only have their place on the page."""
    parts = []
    for name, table in tables.items():
        if name == "area_histogram":
            continue
        shown = table.shown.head(_MOST_LINES)
        header = [str(column).replace("_", " ") for column in shown.columns]
        lines = [[format_value(value) for value in row] for row in shown.itertuples(index=False)]
        text = text_table(header, lines) if lines else "none"
        more = len(table.shown) - len(shown)
        rest = f"\n... and {more} more rows" if more else ""
        parts.append(f"{table.title}\n{table.note}\n{text}{rest}")
    return "\n\n".join(parts)


def write_parquet(tables: Mapping[str, StatsTable], folder: Path) -> list[Path]:
    """Write `<folder>/<name>.parquet` for every table; returns the paths."""
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        with atomic_path(path) as partial:
            pq.write_table(pa.Table.from_pandas(table.rows, preserve_index=False), partial)
        paths.append(path)
    return paths


def format_value(value: Any) -> str:
    """A cell for people: thousands apart, three significant digits, empty for none.

    Infinity is only in the last row of the drift, as the end of its time: "later".
    """
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and np.isinf(value):
        return "later" if value > 0 else ""
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    return str(value)


def _load_pairs(root: DatasetRoot, takes: pd.DataFrame) -> pd.DataFrame | None:
    columns = ["take_uid", "split", "direction", "dest_state"]
    try:
        table = read_manifest(root, "pairs", columns=columns)
    except DataError:
        if any(root.table("pairs").glob("*.parquet")):
            raise
        return None  # not listed yet
    pairs: pd.DataFrame = mask_stats.coded(table).to_pandas()
    scenario = takes.drop_duplicates("take_uid").set_index("take_uid")["scenario"]
    pairs["scenario"] = pairs["take_uid"].map(scenario.fillna("").to_dict()).astype(str)
    return pairs


def _splits(
    takes: pd.DataFrame, masks: pd.DataFrame, objects: pd.DataFrame, pairs: pd.DataFrame | None
) -> StatsTable:
    rows = _sums("split", takes, masks, objects, pairs, order=list(Split))
    everything = rows.drop(columns="split").sum().to_frame().T.assign(split="all")
    both = pd.concat([rows, everything.astype(rows.dtypes.to_dict())], ignore_index=True)
    return _table("Splits", "What the root holds.", both)


def _scenarios(
    takes: pd.DataFrame, masks: pd.DataFrame, objects: pd.DataFrame, pairs: pd.DataFrame | None
) -> StatsTable:
    order = sorted(takes["scenario"].fillna("").unique())
    rows = _sums("scenario", takes, masks, objects, pairs, order=order)
    return _table(
        "Scenarios", "What they hold.", rows.sort_values("takes", ascending=False, kind="stable")
    )


def _sums(
    by: str,
    takes: pd.DataFrame,
    masks: pd.DataFrame,
    objects: pd.DataFrame,
    pairs: pd.DataFrame | None,
    *,
    order: Sequence[str],
) -> pd.DataFrame:
    """Takes, hours, objects, masks and pairs by a column of the takes."""
    of_take = takes.assign(**{by: takes[by].fillna("")}).groupby(by)
    columns: dict[str, Any] = {
        "takes": of_take.size(),
        "hours": of_take["duration_seconds"].sum() / 3600,
        "objects": objects.groupby(by, observed=True).size(),
        "masks": masks.groupby(by, observed=True)["visible"].sum(),
        "absent": (~masks["visible"]).groupby(masks[by], observed=True).sum(),
    }
    if pairs is not None:
        for direction in Direction:
            chosen = pairs[pairs["direction"] == direction]
            columns[f"{direction}_pairs"] = chosen.groupby(by, observed=True).size()
    plain = {name: pd.Series(dict(column.items())) for name, column in columns.items()}
    rows = pd.DataFrame(plain).reindex(list(order)).fillna(0)
    whole = {name: np.int64 for name in rows.columns if name != "hours"}
    return rows.astype(whole).rename_axis(by).reset_index()


def _takes(takes: pd.DataFrame, masks: pd.DataFrame, objects: pd.DataFrame) -> StatsTable:
    """A row a take; shown are the percentiles over takes."""
    key = takes["take_uid"]
    counts = {
        "objects": objects.groupby("take_uid", observed=True).size(),
        "cameras": masks.groupby("take_uid", observed=True)["camera"].nunique(),
        "masks": masks.groupby("take_uid", observed=True)["visible"].sum(),
    }
    columns = ["take_uid", "take_name", "scenario", "university", "split", "duration_seconds"]
    rows = takes[[*columns, "frames_annotated"]].copy()
    for name, count in counts.items():
        rows[name] = key.map(dict(count.items())).fillna(0).astype(np.int64)
    measures = ["objects", "cameras", "masks", "frames_annotated", "duration_seconds"]
    shown = mask_stats.percentiles(rows[measures]).rename_axis("of a take").reset_index()
    return StatsTable("Takes", "Percentiles over takes.", rows, shown)


def _coverage(objects: pd.DataFrame) -> StatsTable:
    keys = ["ego_cameras", "exo_cameras"]
    rows = objects.groupby(keys).size().rename("objects").reset_index()
    rows["share"] = rows["objects"] / max(len(objects), 1)
    note = "Cameras in which an object is annotated; without one of the two views it has no pairs."
    return _table("Cameras of an object", note, rows)


def _tracks(tracks: pd.DataFrame) -> StatsTable:
    """A row a track; shown are percentiles by view."""
    measures = ["frames", "visible_frames", "density", "longest_step_seconds", "seconds"]
    parts = []
    for view, group in tracks.groupby("view", observed=True):
        part = mask_stats.percentiles(group[measures]).rename_axis("of a track").reset_index()
        part.insert(0, "view", str(view))
        parts.append(part)
    shown = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    gaps = float((tracks["gaps"] > 0).mean()) if len(tracks) else 0.0
    note = (
        f"An object in a camera. {len(tracks):,} tracks, {gaps:.1%} with gaps. Density: annotated "
        "frames as a share of what the root's usual step gives from first to last; a gap is more "
        "than one and a half steps."
    )
    return StatsTable("Tracks", note, tracks, shown)


def _areas(masks: pd.DataFrame) -> StatsTable:
    visible = masks[masks["visible"]]
    everywhere = visible.assign(scenario="all")
    both = [
        mask_stats.quantiles(rows, ["view", "scenario"], ["area", "area_share"])
        for rows in (everywhere, visible)
    ]
    note = "Of visible masks: native pixels, and share of the image; 5th to 95th percentile."
    return _quantile_table("Mask area", note, pd.concat(both, ignore_index=True))


def _histogram(masks: pd.DataFrame) -> StatsTable:
    rows = mask_stats.area_histogram(masks)
    return _table("Mask area, histogram", "By the logarithm of the share of the image.", rows)


def _steps(masks: pd.DataFrame) -> StatsTable:
    steps = mask_stats.steps(masks)
    both = [
        mask_stats.quantiles(rows, ["view", "scenario"], ["displacement", "size_change"])
        for rows in (steps.assign(scenario="all"), steps)
    ]
    note = (
        "From one visible frame of a track to the next, per second: displacement of the box's "
        "centre as a share of the image's diagonal; size change as |log2| of the areas' ratio."
    )
    return _quantile_table("Change over time", note, pd.concat(both, ignore_index=True))


def _drift(masks: pd.DataFrame) -> StatsTable:
    rows = mask_stats.drift(masks)
    note = "Against the track's first visible frame, by the time since; in the same units."
    return _quantile_table("Drift from the first frame", note, rows)


def _visibility(masks: pd.DataFrame) -> StatsTable:
    parts = []
    for rows in (masks.assign(scenario="all"), masks):
        grouped = rows.groupby(["view", "scenario"], observed=True)["visible"]
        parts.append(grouped.agg(["size", "sum"]).reset_index())
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.rename(columns={"size": "annotated", "sum": "visible"})
    rows["share"] = rows["visible"] / rows["annotated"]
    note = "Annotated frames of objects, and in how many the object can be seen."
    return _table("Visibility", note, rows.astype({"view": str, "scenario": str}))


def _pair_states(pairs: pd.DataFrame) -> StatsTable:
    counts = pairs.groupby(["direction", "split", "dest_state"], observed=True).size()
    wide = counts.unstack(fill_value=0).reindex(
        columns=["visible", "absent", "unannotated"], fill_value=0
    )
    rows = pd.DataFrame(wide.to_numpy(), columns=list(wide.columns))
    for place, name in enumerate(wide.index.names):
        rows.insert(place, str(name), [str(value) for value in wide.index.get_level_values(place)])
    note = "What the destination view has at the source's frame."
    return _table("Pairs", note, rows)


def _exclusions(root: DatasetRoot) -> StatsTable:
    found = read_manifest(root, "exclusions", columns=["stage", "reason"]).to_pandas()
    rows = found.groupby(["stage", "reason"]).size().rename("rows").reset_index()
    rows = rows.sort_values(["rows", "stage", "reason"], ascending=[False, True, True])
    return _table("Exclusions", "What the stages left out, and why.", rows)


def _table(title: str, note: str, rows: pd.DataFrame) -> StatsTable:
    rows = rows.reset_index(drop=True)
    return StatsTable(title, note, rows, rows)


def _quantile_table(title: str, note: str, rows: pd.DataFrame) -> StatsTable:
    """Shown without the quartiles, which would not fit into a terminal."""
    shown = rows.drop(columns=[name for name in rows.columns if name.endswith(("_p25", "_p75"))])
    return StatsTable(title, note, rows, shown)
