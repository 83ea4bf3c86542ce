"""What every exporter reads from a root, and how it places files in the export.

An exporter is a module with `units(root, out)`, `work(unit, root, out)` and `finish(root, out)`;
`work` returns its counts, and exclusion rows for what the format cannot hold.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path, note_write
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import mask_from_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.pictures import check_pictures
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Split

ExportResult: TypeAlias = tuple[dict[str, int], list[Row]]
"""Counts, and exclusion rows (without the stage) of what was left out."""
FrameRows: TypeAlias = dict[tuple[str, int], Row]
"""(camera, frame_idx) → row of the frames manifest."""


@dataclass(frozen=True)
class Exporter:
    """The three functions of a format."""

    units: Callable[[DatasetRoot, Path], list[Unit]]
    work: Callable[[Unit, DatasetRoot, Path], ExportResult]
    finish: Callable[[DatasetRoot, Path], None]
    """Writes what needs all units (lists, cards); runs after every successful export."""


@dataclass(frozen=True)
class Take:
    """A take of the root and its cameras with frames, ego first."""

    take_uid: str
    split: str
    cameras: tuple[str, ...]

    def parts(self, root: DatasetRoot) -> tuple[Path, ...]:
        """The manifest parts of the take, its masks and its frames."""
        parts = [root.part(table, self.take_uid) for table in ("takes", "masks")]
        return (*parts, *(root.part("frames", f"{self.take_uid}.{cam}") for cam in self.cameras))


def list_takes(root: DatasetRoot) -> list[Take]:
    """Every take with at least one frame, by split and take_uid."""
    takes = read_manifest(root.require(), "takes", columns=["take_uid", "split"]).to_pylist()
    frames = read_manifest(root, "frames", columns=["take_uid", "camera"]).to_pandas()
    groups = frames.drop_duplicates().groupby("take_uid")["camera"]
    # "aria..." sorts before "cam..." and "gp...": ego first.
    cameras_of = {take_uid: tuple(sorted(cameras)) for take_uid, cameras in groups}
    return [
        Take(row["take_uid"], row["split"], cameras_of[row["take_uid"]])
        for row in sorted(takes, key=lambda row: (row["split"], row["take_uid"]))
        if row["take_uid"] in cameras_of
    ]


def take_units(root: DatasetRoot, outputs: Callable[[Take], tuple[Path, ...]]) -> list[Unit]:
    """One unit per take, with the files that `outputs` gives for it."""
    return [
        Unit(("take", take.take_uid), take.parts(root), outputs(take)) for take in list_takes(root)
    ]


def parts_by_split(root: DatasetRoot) -> dict[Split, tuple[Path, ...]]:
    """The manifest parts of the takes of each split that has takes."""
    parts: dict[Split, tuple[Path, ...]] = {}
    for take in list_takes(root):
        parts[Split(take.split)] = (*parts.get(Split(take.split), ()), *take.parts(root))
    return parts


def read_take(root: DatasetRoot, take_uid: str) -> Take:
    """One take of `list_takes`, read from its own manifest parts only."""
    row = read_manifest(root, "takes", units=[take_uid]).to_pylist()[0]
    # The names of the parts are enough: `list_takes` reads the frames of the whole root.
    units = [path.stem for path in root.table("frames").glob("*.parquet")]
    cameras = (unit.removeprefix(f"{take_uid}.") for unit in units if unit.startswith(take_uid))
    return Take(take_uid, row["split"], tuple(sorted(cameras)))


def read_masks(root: DatasetRoot, take_uid: str) -> list[Row]:
    """The mask rows of a take, in the order of its annotation file."""
    rows: list[Row] = read_manifest(root, "masks", units=[take_uid]).to_pylist()
    return rows


def read_frames(root: DatasetRoot, take: Take) -> FrameRows:
    """The frame rows of a take, ordered by camera and frame_idx; their pictures are unchanged."""
    units = [f"{take.take_uid}.{camera}" for camera in take.cameras]
    rows = read_manifest(root, "frames", units=units).to_pylist()
    rows.sort(key=lambda row: (row["camera"], row["frame_idx"]))
    for row in rows:
        # A manifest may come from elsewhere, and the file that it names is copied into the export.
        if Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
            raise DataError(f"{row['path']!r} in the frames manifest points outside {root.path}")
    check_pictures(root, *units)
    return {(row["camera"], row["frame_idx"]): row for row in rows}


def read_extracted(root: DatasetRoot, take: Take) -> tuple[FrameRows, list[Row], list[Row]]:
    """The frames of a take, the masks of these frames, and exclusion rows of the other masks."""
    frames = read_frames(root, take)
    masks, excluded = [], []
    for row in read_masks(root, take.take_uid):
        if (row["camera"], row["frame_idx"]) in frames:
            masks.append(row)
        else:
            excluded.append(exclusion(row, "its frame was not extracted"))
    return frames, masks, excluded


def exclusion(row: Row, reason: str) -> Row:
    """An exclusion row for the take, camera, object or frame that `row` names."""
    keys = ("take_uid", "camera", "object_name", "frame_idx")
    return {**{key: row.get(key) for key in keys}, "reason": reason}


def mask_at_size(row: Row, height: int, width: int) -> MaskRle:
    """The mask of a manifest row, resized to height x width pixels (nearest, as in cv2)."""
    rle = mask_from_row(row)
    if (rle.height, rle.width) == (height, width):
        return rle
    return MaskRle.encode(rle.decode_at(height, width))


def link_or_copy(source: Path, dest: Path) -> None:
    """Place a file of the root in the export, as a hard link where the disk supports it."""
    if not source.is_file():
        raise DataError(
            f"{source} is in the frames manifest but not on disk; run `egoexo-tools frames` again"
        )
    if dest.exists() and dest.samefile(source):
        note_write(dest)
        return  # renaming one link of a file onto another would leave both
    # A link cannot replace an existing file, so it is made next to it and then renamed.
    with atomic_path(dest) as partial:
        partial.unlink()
        try:
            os.link(source.resolve(), partial)  # a link to a relative symlink would point nowhere
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)


def is_in(rows: pd.DataFrame, reference: pd.DataFrame, columns: list[str]) -> "pd.Series[bool]":
    """Which rows have their values of `columns` in `reference`, in the order of `rows`."""
    unique = reference[columns].drop_duplicates()
    merged = rows[columns].merge(unique, how="left", indicator=True)
    return pd.Series(merged["_merge"].to_numpy() == "both", index=rows.index)
