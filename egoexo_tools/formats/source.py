"""What every exporter reads from a root, and how it places files in the export.

An exporter is a module with `units(root, out)`, `work(unit, root, out)` and `finish(root, out)`;
`work` returns its counts and the rows of what it left out, and why.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import mask_from_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.records import Unit

Done: TypeAlias = tuple[dict[str, int], list[Row]]
"""Counts, and exclusion rows (without the stage) of what was left out."""


@dataclass(frozen=True)
class Exporter:
    """One format: how its work is cut up, done, and closed."""

    units: Callable[[DatasetRoot, Path], list[Unit]]
    work: Callable[[Unit, DatasetRoot, Path], Done]
    finish: Callable[[DatasetRoot, Path], None]
    """Writes what needs all units (lists, cards); runs after every successful export."""


@dataclass(frozen=True)
class Take:
    """A take of the root and its cameras that have frames, ego first."""

    take_uid: str
    split: str
    cameras: tuple[str, ...]

    def parts(self, root: DatasetRoot) -> tuple[Path, ...]:
        """The manifest parts that hold the take, its masks and its frames."""
        own = [root.part(table, self.take_uid) for table in ("takes", "masks")]
        return (*own, *(root.part("frames", f"{self.take_uid}.{cam}") for cam in self.cameras))


def list_takes(root: DatasetRoot) -> list[Take]:
    """Every take with at least one frame, by split and take_uid."""
    takes = read_manifest(root.require(), "takes", columns=["take_uid", "split"]).to_pylist()
    frames = read_manifest(root, "frames", columns=["take_uid", "camera"]).to_pandas()
    cameras = frames.drop_duplicates().groupby("take_uid")["camera"]
    sorted_by_take = {take_uid: tuple(sorted(group)) for take_uid, group in cameras}
    return [
        Take(row["take_uid"], row["split"], sorted_by_take[row["take_uid"]])
        for row in sorted(takes, key=lambda row: (row["split"], row["take_uid"]))
        if row["take_uid"] in sorted_by_take
    ]


def read_take(root: DatasetRoot, take_uid: str) -> Take:
    """One of `list_takes`, read from its own parts only."""
    row = read_manifest(root, "takes", units=[take_uid]).to_pylist()[0]
    units = [path.stem for path in root.table("frames").glob("*.parquet")]
    cameras = (unit.removeprefix(f"{take_uid}.") for unit in units if unit.startswith(take_uid))
    return Take(take_uid, row["split"], tuple(sorted(cameras)))


def read_masks(root: DatasetRoot, take_uid: str) -> list[Row]:
    """The mask rows of a take, in the order of its annotation file."""
    rows: list[Row] = read_manifest(root, "masks", units=[take_uid]).to_pylist()
    return rows


def read_frames(root: DatasetRoot, take: Take) -> dict[tuple[str, int], Row]:
    """(camera, frame_idx) → the row of each frame of a take, in the order of both."""
    units = [f"{take.take_uid}.{camera}" for camera in take.cameras]
    rows = read_manifest(root, "frames", units=units).to_pylist()
    rows.sort(key=lambda row: (row["camera"], row["frame_idx"]))
    for row in rows:
        if Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
            raise DataError(f"{row['path']!r} in the frames manifest points outside {root.path}")
    return {(row["camera"], row["frame_idx"]): row for row in rows}


def with_frame(masks: Sequence[Row], frames: dict[tuple[str, int], Row]) -> tuple[list[Row], Any]:
    """Mask rows whose frame was extracted, and exclusion rows of the others."""
    kept, missing = [], []
    for row in masks:
        if (row["camera"], row["frame_idx"]) in frames:
            kept.append(row)
        else:
            missing.append(left_out(row, "its frame was not extracted"))
    return kept, missing


def left_out(row: Row, reason: str) -> Row:
    """An exclusion row for a take, camera, object or frame, whichever the row names."""
    keys = ("take_uid", "camera", "object_name", "frame_idx")
    return {**{key: row.get(key) for key in keys}, "reason": reason}


def rle_at(row: Row, height: int, width: int) -> MaskRle:
    """The mask of a manifest row at the size of its frame (nearest, as cv2 does)."""
    rle = mask_from_row(row)
    return rle if same_size(row, height, width) else MaskRle.encode(rle.decode_at(height, width))


def same_size(row: Row, height: int, width: int) -> bool:
    return bool((row["rle_height"], row["rle_width"]) == (height, width))


def link_or_copy(source: Path, dest: Path) -> None:
    """Put a file of the root into the export: a hard link where the disk allows, else a copy."""
    if not source.is_file():
        raise DataError(
            f"{source} is in the frames manifest but not on disk; run `egoexo-tools frames` again"
        )
    if dest.exists() and dest.samefile(source):
        return  # renaming one link of a file onto another would leave both
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = dest.with_name(dest.name + PARTIAL_SUFFIX)
    partial.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), partial)  # a link to a link would lead nowhere from here
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, partial)
    os.replace(partial, dest)


def is_in(rows: pd.DataFrame, others: pd.DataFrame, columns: list[str]) -> "pd.Series[bool]":
    """Which rows have their values of `columns` in `others`, in the order of `rows`."""
    found = rows[columns].merge(others[columns].drop_duplicates(), how="left", indicator=True)
    return pd.Series(found["_merge"].to_numpy() == "both", index=rows.index)
