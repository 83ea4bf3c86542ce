"""Counts and measures what a root contains: one table per subject, for terminal, Parquet and page.

Reads the takes, masks, pairs and exclusions manifests; only the necessary columns and no run
lengths, so that two million masks need a few hundred megabytes. Areas and displacements are in
native pixels (of the video as shipped) and in shares of the image or of its diagonal.
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
"""Rows of a table in the terminal; Parquet files and the page have more."""


@dataclass(frozen=True)
class StatsTable:
    """The table of one subject."""

    title: str
    note: str
    """Units, and how it is counted."""
    rows: pd.DataFrame
    """The rows for Parquet."""
    summary: pd.DataFrame
    """The rows for terminal and page: the same, or a summary of them."""


def collect(root: DatasetRoot) -> dict[str, StatsTable]:
    """Every table, by name; without the pairs manifest, its table is left out.

    Raises DataError if `root` is not a dataset root.
    """
    takes = read_manifest(root.require(), "takes").to_pandas()
    masks = mask_stats.load_masks(root, takes)
    visible = masks[masks["visible"]]
    pairs = _load_pairs(root, takes)
    tracks = mask_stats.measure_camera_tracks(masks)
    objects = mask_stats.count_cameras(tracks)
    splits = _count_by("split", takes, masks, objects, pairs, order=list(Split))
    # Sums of counts are counts: the total keeps the types of the columns.
    total = splits.drop(columns="split").sum().to_frame().T.assign(split="all")
    total = total.astype(splits.dtypes.to_dict())
    names = sorted(takes["scenario"].fillna("").unique())
    scenarios = _count_by("scenario", takes, masks, objects, pairs, order=names)
    by_cameras = objects.groupby(["ego_cameras", "exo_cameras"])
    coverage: pd.DataFrame = by_cameras.size().rename("objects").reset_index()
    coverage["share"] = coverage["objects"] / max(len(objects), 1)
    exclusions = read_manifest(root, "exclusions", columns=["stage", "reason"]).to_pandas()
    by_reason = exclusions.groupby(["stage", "reason"]).size().rename("rows").reset_index()
    tables = {
        "splits": _table("Splits", "Contents of the root.", pd.concat([splits, total])),
        "scenarios": _table(
            "Scenarios",
            "Contents of the root.",
            scenarios.sort_values("takes", ascending=False, kind="stable"),
        ),
        "takes": _takes_table(takes, masks, objects),
        "coverage": _table(
            "Cameras of an object",
            "Cameras in which an object is annotated; an object in one view alone has no pairs.",
            coverage,
        ),
        "tracks": _tracks_table(tracks),
        "areas": _quantile_table(
            "Mask area",
            "Visible masks: native pixels, and share of the image; 5th to 95th percentile.",
            _scenario_quantiles(visible, ["area", "area_share"]),
        ),
        "area_histogram": _table(
            "Mask area, histogram",
            "By the logarithm of the share of the image.",
            mask_stats.area_histogram(masks),
        ),
        "steps": _quantile_table(
            "Change over time",
            "From one visible frame of a track to the next, per second: displacement of the box's "
            "centre as a share of the image diagonal; size change as |log2| of the ratio of areas.",
            _scenario_quantiles(mask_stats.measure_steps(masks), ["displacement", "size_change"]),
        ),
        "drift": _quantile_table(
            "Drift from the first frame",
            "Change since the track's first visible frame, by elapsed time; in the same units.",
            mask_stats.measure_drift(masks),
        ),
        "visibility": _visibility_table(masks),
        "exclusions": _table(
            "Exclusions",
            "Data that the stages left out, by reason.",
            by_reason.sort_values(["rows", "stage", "reason"], ascending=[False, True, True]),
        ),
    }
    if pairs is not None:
        tables["pairs"] = _pairs_table(pairs)
    return tables


def format_stats(tables: Mapping[str, StatsTable]) -> str:
    """All tables for a terminal, except the histogram, which is drawn on the page."""
    parts = []
    for name, table in tables.items():
        if name == "area_histogram":
            continue
        rows = table.summary.head(_MOST_LINES)
        header = [str(column).replace("_", " ") for column in rows.columns]
        lines = [[format_value(value) for value in row] for row in rows.itertuples(index=False)]
        text = text_table(header, lines) if lines else "none"
        more = len(table.summary) - len(rows)
        more_text = f"\n... and {more} more rows" if more else ""
        parts.append(f"{table.title}\n{table.note}\n{text}{more_text}")
    return "\n\n".join(parts)


def write_parquet(tables: Mapping[str, StatsTable], folder: Path) -> None:
    """Write `<folder>/<name>.parquet` for every table."""
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.parquet") as partial:
            pq.write_table(pa.Table.from_pandas(table.rows, preserve_index=False), partial)


def format_value(value: Any) -> str:
    """A cell for readers: thousands separated, three significant digits, empty for missing values.

    Infinity occurs only as the end of the last interval of the drift: "later".
    """
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        number = float(value)
        if not np.isfinite(number):
            return "later" if number > 0 else ""
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    return "" if value is None else str(value)


def _load_pairs(root: DatasetRoot, takes: pd.DataFrame) -> pd.DataFrame | None:
    columns = ["take_uid", "split", "direction", "dest_state"]
    try:
        table = read_manifest(root, "pairs", columns=columns)
    except DataError:
        if any(root.table("pairs").glob("*.parquet")):
            raise  # the parts exist, but cannot be read
        return None  # the stage has not run yet
    pairs: pd.DataFrame = mask_stats.encode_text_columns(table).to_pandas()
    scenario = takes.drop_duplicates("take_uid").set_index("take_uid")["scenario"]
    pairs["scenario"] = pairs["take_uid"].map(scenario.fillna("").to_dict()).astype(str)
    return pairs


def _count_by(
    by: str,
    takes: pd.DataFrame,
    masks: pd.DataFrame,
    objects: pd.DataFrame,
    pairs: pd.DataFrame | None,
    *,
    order: Sequence[str],
) -> pd.DataFrame:
    """Takes, hours, objects, masks and pairs by a column of the takes."""
    takes_by = takes.assign(**{by: takes[by].fillna("")}).groupby(by)
    columns: dict[str, Any] = {
        "takes": takes_by.size(),
        "hours": takes_by["duration_seconds"].sum() / 3600,
        "objects": objects.groupby(by, observed=True).size(),
        "masks": masks.groupby(by, observed=True)["visible"].sum(),
        "absent": (~masks["visible"]).groupby(masks[by], observed=True).sum(),
    }
    if pairs is not None:
        for direction in Direction:
            in_direction = pairs[pairs["direction"] == direction]
            columns[f"{direction}_pairs"] = in_direction.groupby(by, observed=True).size()
    # Without the categories of the indexes, which differ between the columns.
    plain = {name: pd.Series(dict(column.items())) for name, column in columns.items()}
    rows = pd.DataFrame(plain).reindex(list(order)).fillna(0)
    counts = {name: np.int64 for name in rows.columns if name != "hours"}
    return rows.astype(counts).rename_axis(by).reset_index()


def _takes_table(takes: pd.DataFrame, masks: pd.DataFrame, objects: pd.DataFrame) -> StatsTable:
    counts = {
        "objects": objects.groupby("take_uid", observed=True).size(),
        "cameras": masks.groupby("take_uid", observed=True)["camera"].nunique(),
        "masks": masks.groupby("take_uid", observed=True)["visible"].sum(),
    }
    columns = ["take_uid", "take_name", "scenario", "university", "split", "duration_seconds"]
    rows = takes[[*columns, "frames_annotated"]].copy()
    # Takes without masks have no group and count 0.
    for name, count in counts.items():
        rows[name] = takes["take_uid"].map(dict(count.items())).fillna(0).astype(np.int64)
    measures = ["objects", "cameras", "masks", "frames_annotated", "duration_seconds"]
    summary = mask_stats.percentiles(rows[measures]).rename_axis("of a take").reset_index()
    return StatsTable("Takes", "Percentiles over takes.", rows, summary)


def _tracks_table(tracks: pd.DataFrame) -> StatsTable:
    measures = ["frames", "visible_frames", "density", "longest_step_seconds", "seconds"]
    parts = []
    for view, rows in tracks.groupby("view", observed=True):
        part = mask_stats.percentiles(rows[measures]).rename_axis("of a track").reset_index()
        part.insert(0, "view", str(view))
        parts.append(part)
    summary = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    gaps = float((tracks["gaps"] > 0).mean()) if len(tracks) else 0.0
    note = (
        f"A track is an object in a camera. {len(tracks):,} tracks, {gaps:.1%} with gaps. Density: "
        "annotated frames as a share of those at the root's usual step from first to last frame; a "
        f"gap is longer than {mask_stats.GAP_STEPS} steps."
    )
    return StatsTable("Tracks", note, tracks, summary)


def _visibility_table(masks: pd.DataFrame) -> StatsTable:
    parts = []
    for rows in (masks.assign(scenario="all"), masks):
        grouped = rows.groupby(["view", "scenario"], observed=True)["visible"]
        parts.append(grouped.agg(annotated="size", visible="sum").reset_index())
    rows = pd.concat(parts, ignore_index=True)
    rows["share"] = rows["visible"] / rows["annotated"]
    note = "Annotated frames of objects, and those in which the object is visible."
    return _table("Visibility", note, rows.astype({"view": str, "scenario": str}))


def _pairs_table(pairs: pd.DataFrame) -> StatsTable:
    counts = pairs.groupby(["direction", "split", "dest_state"], observed=True).size()
    states = ["visible", "absent", "unannotated"]
    wide = counts.unstack(fill_value=0).reindex(columns=states, fill_value=0)
    rows = pd.DataFrame(wide.to_numpy(), columns=states)
    for column, name in enumerate(wide.index.names):
        values = [str(value) for value in wide.index.get_level_values(column)]
        rows.insert(column, str(name), values)
    return _table("Pairs", "State of the object in the destination frame.", rows)


def _scenario_quantiles(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Quantiles by view over all scenarios, then by view and scenario."""
    return pd.concat(
        [
            mask_stats.group_quantiles(part, ["view", "scenario"], measures)
            for part in (rows.assign(scenario="all"), rows)
        ],
        ignore_index=True,
    )


def _table(title: str, note: str, rows: pd.DataFrame) -> StatsTable:
    rows = rows.reset_index(drop=True)
    return StatsTable(title, note, rows, rows)


def _quantile_table(title: str, note: str, rows: pd.DataFrame) -> StatsTable:
    # With the quartiles, the rows would not fit into a terminal.
    quartiles = [name for name in rows.columns if name.endswith(("_p25", "_p75"))]
    return StatsTable(title, note, rows, rows.drop(columns=quartiles))
