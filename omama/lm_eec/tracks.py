"""Tracks out of a root's tables: the frames of an object, its source masks, the pairs among them.

A track has all annotated frames of its object, also those that a sample of pairs leaves out: they
are what it remembers. Its *place* in time is a frame's number in that list, from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from egoexo_tools.arrays import Bool, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import Direction, Split
from omama.dataset import FrameTable
from omama.tables.parquet import load_frames

logger = logging.getLogger(__name__)

KEY = ["take_uid", "object_name", "source_camera", "dest_camera"]
_NO_FRAME = "the source or the destination frame is not in the frames manifest"


@dataclass(frozen=True)
class Track:
    """One object followed from a source camera into a destination camera."""

    direction: Direction
    object_name: str
    source_camera: str
    dest_camera: str
    frame_idxs: Int64
    """(T,) ascending."""
    source_frames: Int64
    """(T,) positions in the take's FrameTable."""
    dest_frames: Int64
    source_masks: Int64
    """(T,) rows of FrameTable.masks; -1 where the source does not see the object."""
    dest_masks: Int64
    """(T,) likewise of the destination, for training and validation."""
    dest_annotated: Bool
    """(T,) whether the destination was annotated there, visible or not."""
    wanted: Bool
    """(T,) the frames of which there is a pair."""

    def __len__(self) -> int:
        return len(self.frame_idxs)


@dataclass(frozen=True)
class TakeTracks:
    """All tracks of a take, of one direction or both."""

    take_uid: str
    frames: FrameTable
    tracks: tuple[Track, ...]
    unreached: pd.DataFrame
    """Rows of the pairs manifest that no track has a frame for: to be predicted absent."""
    left_out: tuple[dict[str, Any], ...]
    """Rows of exclusions: pairs without a picture."""


def load_tracks(
    root: DatasetRoot,
    split: Split,
    directions: Sequence[Direction],
    *,
    reference_behaviour: bool = False,
) -> Iterator[TakeTracks]:
    """The tracks of a split, take by take, in the takes' order.

    The frames of a track are its source's annotated ones; under `reference_behaviour` its
    destination's. A take without any frame in common is left out with a warning; DataError where
    all are, or where there are no pairs.
    """
    pairs = list_pairs(root, split, directions)
    found = 0
    for take_uid, rows in pairs.groupby("take_uid", sort=True):
        take = _take(root, str(take_uid), rows, reference_behaviour)
        if not take.tracks:
            logger.warning(
                "take %s: the cameras of its %d pairs have no frame in common; left out",
                take_uid,
                len(rows),
            )
        found += len(take.tracks)
        yield take
    if not found:
        raise DataError(
            f"{root.path} has no {split} take whose cameras have a frame in common; run"
            " egoexo-tools frames again"
        )


def list_pairs(root: DatasetRoot, split: Split, directions: Sequence[Direction]) -> pd.DataFrame:
    """The rows of the pairs manifest; DataError where there are none."""
    tables = [
        read_manifest(root, "pairs", units=[f"{split}.{direction}"]).to_pandas()
        for direction in directions
    ]
    rows: pd.DataFrame = pd.concat(tables, ignore_index=True)
    if rows.empty:
        raise DataError(
            f"{root.path} has no {split} pairs of {' and '.join(directions)}; look at `egoexo-tools"
            " stats` for the takes of that split, then run `egoexo-tools pairs` again"
        )
    return rows


def _take(
    root: DatasetRoot, take_uid: str, pairs: pd.DataFrame, reference_behaviour: bool
) -> TakeTracks:
    cameras = sorted({*pairs["source_camera"], *pairs["dest_camera"]})
    frames = load_frames(root, [(take_uid, camera) for camera in cameras], proposals=False)
    columns = ["object_name", "camera", "frame_idx"]
    annotated = read_manifest(root, "masks", units=[take_uid], columns=columns).to_pandas()
    seen = {
        (str(name), str(camera)): np.sort(rows.to_numpy(np.int64))
        for (name, camera), rows in annotated.groupby(["object_name", "camera"])["frame_idx"]
    }
    take = _TrackTables(take_uid, frames, _rows_by_key(frames), _masks_by_key(frames), seen)
    tracks = [
        take.track([str(name) for name in names], rows, reference_behaviour)
        for names, rows in pairs.groupby(["direction", *KEY[1:]], sort=True)
    ]
    return _with_the_rest(take, [track for track in tracks if len(track)], pairs)


@dataclass(frozen=True)
class _TrackTables:
    """What the tracks of a take are looked up in."""

    take_uid: str
    frames: FrameTable
    rows: dict[tuple[str, int], int]
    """(camera, frame_idx) → position in the FrameTable."""
    masks: dict[tuple[int, str], int]
    """(position, object_name) → row of its masks."""
    annotated: dict[tuple[str, str], Int64]
    """(object_name, camera) → frame_idxs, visible or not."""

    def track(self, names: list[str], pairs: pd.DataFrame, reference: bool) -> Track:
        """`names`: the direction and KEY but for the take."""
        direction, name, source, dest = names
        listed = self.annotated.get((name, dest if reference else source), np.empty(0, np.int64))
        both = [
            (idx, self.rows[source, idx], self.rows[dest, idx])
            for idx in listed.tolist()
            if (source, idx) in self.rows and (dest, idx) in self.rows
        ]
        idxs, sources, dests = np.array(both, np.int64).reshape(-1, 3).T
        return Track(
            Direction(direction), name, source, dest, idxs, sources, dests,
            source_masks=self._masks(sources, name),
            dest_masks=self._masks(dests, name),
            dest_annotated=np.isin(idxs, self.annotated.get((name, dest), [])),
            wanted=np.isin(idxs, pairs["frame_idx"].to_numpy()),
        )  # fmt: skip

    def _masks(self, frames: Int64, name: str) -> Int64:
        return np.array([self.masks.get((frame, name), -1) for frame in frames.tolist()], np.int64)


def _rows_by_key(frames: FrameTable) -> dict[tuple[str, int], int]:
    keys = zip(frames.rows["camera"], frames.rows["frame_idx"].tolist(), strict=True)
    return {(str(camera), idx): row for row, (camera, idx) in enumerate(keys)}


def _masks_by_key(frames: FrameTable) -> dict[tuple[int, str], int]:
    frame = np.repeat(np.arange(len(frames)), np.diff(frames.masks.start)).tolist()
    return {key: row for row, key in enumerate(zip(frame, frames.masks.names, strict=True))}


def _with_the_rest(take: _TrackTables, tracks: list[Track], pairs: pd.DataFrame) -> TakeTracks:
    """The take, and the pairs that none of its tracks reaches: without a picture, or merely not
    in a list that is the destination's."""
    reached = {
        (track.source_camera, track.dest_camera, idx, track.object_name)
        for track in tracks
        for idx in track.frame_idxs[track.wanted].tolist()
    }
    rest = [
        key not in reached
        for key in zip(
            pairs["source_camera"], pairs["dest_camera"], pairs["frame_idx"].tolist(),
            pairs["object_name"], strict=True,
        )
    ]  # fmt: skip
    unreached = pairs[rest]
    pictured = [
        (source, idx) in take.rows and (dest, idx) in take.rows
        for source, dest, idx in zip(
            unreached["source_camera"], unreached["dest_camera"],
            unreached["frame_idx"].tolist(), strict=True,
        )
    ]  # fmt: skip
    left_out = tuple(
        {
            "take_uid": row.take_uid,
            "camera": row.dest_camera,
            "object_name": row.object_name,
            "frame_idx": row.frame_idx,
            "reason": f"{row.pair_id}: {_NO_FRAME}",
        }
        for row in unreached[~np.array(pictured, np.bool_)].itertuples()
    )
    kept = unreached[np.array(pictured, np.bool_)]
    return TakeTracks(take.take_uid, take.frames, tuple(tracks), kept, left_out)
