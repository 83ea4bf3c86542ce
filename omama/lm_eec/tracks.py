"""Tracks of a root: an object's frames in a pair of cameras, its masks, and the pairs among them.

A track contains all annotated frames of its object, also frames that a sample of pairs leaves out:
LM-EEC remembers them. A *place* is a frame's position in the track, from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from egoexo_tools.aliases import Row
from egoexo_tools.arrays import Bool, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.pair_inputs import check_inputs
from egoexo_tools.vocab import Direction, Split
from omama.dataset import FrameTable
from omama.tables.parquet import load_frames

logger = logging.getLogger(__name__)

FRAME_FIELDS = (
    "frame_idxs", "source_frames", "dest_frames", "source_masks", "dest_masks", "dest_annotated",
    "has_pair",
)  # fmt: skip
"""Fields of a Track with one value per frame."""
_NO_FRAME = "the source or the destination frame is not in the frames manifest"


@dataclass(frozen=True)
class Track:
    """One object of a take, seen from a source camera in a destination camera, over T frames."""

    direction: Direction
    object_name: str
    source_camera: str
    dest_camera: str
    frame_idxs: Int64
    """(T,) ascending."""
    source_frames: Int64
    """(T,) positions in the take's FrameTable."""
    dest_frames: Int64
    """(T,) positions in the take's FrameTable."""
    source_masks: Int64
    """(T,) rows of FrameTable.masks; -1 where the object is not visible in the source."""
    dest_masks: Int64
    """(T,) rows of FrameTable.masks; -1 where the object is not visible in the destination."""
    dest_annotated: Bool
    """(T,) whether the destination is annotated, visible or not."""
    has_pair: Bool
    """(T,) whether the frame belongs to a pair, so that it is predicted."""

    def __len__(self) -> int:
        return len(self.frame_idxs)


@dataclass(frozen=True)
class TakeTracks:
    """All tracks of a take, of one direction or both."""

    take_uid: str
    frames: FrameTable
    tracks: tuple[Track, ...]
    unreached: pd.DataFrame
    """Rows of the pairs manifest that are in no track: they are predicted absent."""
    left_out: tuple[Row, ...]
    """Rows of exclusions: pairs without a picture."""


def load_tracks(
    root: DatasetRoot,
    split: Split,
    directions: Sequence[Direction],
    *,
    reference_behaviour: bool = False,
) -> Iterator[TakeTracks]:
    """The tracks of a split, take by take.

    A track's frames are those in which its source is annotated; with `reference_behaviour`, its
    destination. A take without common frames is left out with a warning. Raises DataError if no
    take has common frames, or if the split has no pairs.
    """
    pairs = read_pairs(root, split, directions)
    track_count = 0
    for take_uid, rows in pairs.groupby("take_uid", sort=True):
        take = _load_take(root, str(take_uid), rows, reference_behaviour)
        if not take.tracks:
            logger.warning(
                "take %s: the cameras of its %d pairs have no frame in common; left out",
                take_uid,
                len(rows),
            )
        track_count += len(take.tracks)
        yield take
    if not track_count:
        raise DataError(
            f"{root.path} has no {split} take whose cameras have a frame in common; run"
            " egoexo-tools frames again"
        )


def read_pairs(root: DatasetRoot, split: Split, directions: Sequence[Direction]) -> pd.DataFrame:
    """The split's rows of the pairs manifest; DataError if there are none."""
    for direction in directions:
        check_inputs(root, split, direction, proposals=False)
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


@dataclass(frozen=True)
class _TakeIndex:
    """Lookup tables of a take."""

    frames: dict[tuple[str, int], int]
    """(camera, frame_idx) → position in the FrameTable."""
    masks: dict[tuple[int, str], int]
    """(position in the FrameTable, object_name) → row of its masks."""
    annotated: dict[tuple[str, str], Int64]
    """(object_name, camera) → frame_idxs, ascending, visible or not."""

    def track(self, names: Sequence[str], pair_idxs: Int64, reference_behaviour: bool) -> Track:
        """The track with `names` (direction, object, source camera, destination camera)."""
        direction, name, source, dest = names
        listed_in = dest if reference_behaviour else source
        idxs = self.annotated.get((name, listed_in), np.empty(0, np.int64))
        # A frame needs pictures of both views; it may lack a mask, annotation or pair.
        in_both = [
            (idx, self.frames[source, idx], self.frames[dest, idx])
            for idx in idxs.tolist()
            if (source, idx) in self.frames and (dest, idx) in self.frames
        ]
        idxs, source_frames, dest_frames = np.array(in_both, np.int64).reshape(-1, 3).T
        source_masks, dest_masks = (
            np.array([self.masks.get((frame, name), -1) for frame in frames.tolist()], np.int64)
            for frames in (source_frames, dest_frames)
        )
        return Track(
            Direction(direction), name, source, dest, idxs, source_frames, dest_frames,
            source_masks, dest_masks,
            dest_annotated=np.isin(idxs, self.annotated.get((name, dest), [])),
            has_pair=np.isin(idxs, pair_idxs),
        )  # fmt: skip


def _load_take(
    root: DatasetRoot, take_uid: str, pairs: pd.DataFrame, reference_behaviour: bool
) -> TakeTracks:
    cameras = sorted({*pairs["source_camera"], *pairs["dest_camera"]})
    frames = load_frames(root, [(take_uid, camera) for camera in cameras], proposals=False)
    columns = ["object_name", "camera", "frame_idx"]
    annotated = read_manifest(root, "masks", units=[take_uid], columns=columns).to_pandas()
    # Dictionaries, because a take has thousands of lookups by name and DataFrames are slow at them.
    frame_keys = zip(frames.rows["camera"], frames.rows["frame_idx"].tolist(), strict=True)
    mask_keys = zip(frames.masks.frames.tolist(), frames.masks.names, strict=True)
    index = _TakeIndex(
        frames={(str(camera), idx): row for row, (camera, idx) in enumerate(frame_keys)},
        masks={key: row for row, key in enumerate(mask_keys)},
        annotated={
            (str(name), str(camera)): np.sort(rows.to_numpy(np.int64))
            for (name, camera), rows in annotated.groupby(["object_name", "camera"])["frame_idx"]
        },
    )
    key = ["direction", "object_name", "source_camera", "dest_camera"]
    tracks = [
        index.track(
            [str(name) for name in names], rows["frame_idx"].to_numpy(), reference_behaviour
        )
        for names, rows in pairs.groupby(key, sort=True)
    ]
    predicted = {
        (track.source_camera, track.dest_camera, track.object_name, idx)
        for track in tracks
        for idx in track.frame_idxs[track.has_pair].tolist()
    }
    pair_keys = zip(
        pairs["source_camera"], pairs["dest_camera"], pairs["object_name"],
        pairs["frame_idx"].tolist(), strict=True,
    )  # fmt: skip
    unreached = pairs[[pair_key not in predicted for pair_key in pair_keys]]
    # A pair with both pictures is unreached if it is not in the destination's list of frames.
    has_pictures = np.array(
        [
            (pair.source_camera, pair.frame_idx) in index.frames
            and (pair.dest_camera, pair.frame_idx) in index.frames
            for pair in unreached.itertuples()
        ],
        np.bool_,
    )
    left_out = tuple(
        {
            "take_uid": pair.take_uid,
            "camera": pair.dest_camera,
            "object_name": pair.object_name,
            "frame_idx": pair.frame_idx,
            "reason": f"{pair.pair_id}: {_NO_FRAME}",
        }
        for pair in unreached[~has_pictures].itertuples()
    )
    tracks = [track for track in tracks if len(track)]
    return TakeTracks(take_uid, frames, tuple(tracks), unreached[has_pictures], left_out)
