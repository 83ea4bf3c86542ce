"""The frames that the pairs use: proposals and features are made for these only.

Reads the pairs manifest. In a root without pairs, all frames are needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.arrays import Int64
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import Direction, Split

SIDES = ("source", "dest")
_KEY = ["take_uid", "camera", "frame_idx"]


@dataclass(frozen=True)
class NeededFrames:
    """The needed frames of each camera."""

    by_camera: Mapping[TakeCamera, Int64] | None
    """frame_idxs, ascending; None: all frames of every camera."""

    @property
    def is_all(self) -> bool:
        return self.by_camera is None

    def of(self, camera: TakeCamera, frame_idxs: Int64) -> Int64:
        """The needed ones among a camera's frames, ascending."""
        if self.by_camera is None:
            return frame_idxs
        return np.intersect1d(frame_idxs, self.by_camera.get(camera, frame_idxs[:0]))


ALL_FRAMES = NeededFrames(None)


def needed_frames(
    root: DatasetRoot,
    *,
    sides: Sequence[str] = SIDES,
    directions: Sequence[Direction] = tuple(Direction),
) -> NeededFrames:
    """The source or destination frames (`sides`) of the pairs in `directions`.

    ALL_FRAMES where the root has no pairs in any direction.
    """
    parts = {path.stem for path in root.table("pairs").glob("*.parquet")}
    parts_of_directions = parts & {f"{split}.{d}" for split in Split for d in directions}
    # Splits without pairs have parts without rows.
    if not parts or not read_manifest(root, "pairs", columns=["split"]).num_rows:
        return ALL_FRAMES
    if not parts_of_directions:
        return NeededFrames({})
    columns = ["take_uid", "frame_idx", *(f"{side}_camera" for side in SIDES)]
    pairs = read_manifest(root, "pairs", columns=columns, units=parts_of_directions)
    ends = pa.concat_tables(
        pa.table([pairs["take_uid"], pairs[f"{side}_camera"], pairs["frame_idx"]], names=_KEY)
        for side in sides
    )
    # Many pairs share a frame; Arrow drops the repeated rows before pandas gets them.
    return NeededFrames(_by_camera(ends.group_by(_KEY).aggregate([])))


def existing_frames(root: DatasetRoot) -> Mapping[TakeCamera, Int64]:
    """The frames in the frames manifest by camera, ascending."""
    return _by_camera(read_manifest(root, "frames", columns=_KEY))


def _by_camera(rows: pa.Table) -> dict[TakeCamera, Int64]:
    """Rows of _KEY → frame_idxs by camera, ascending."""
    table = rows.to_pandas().sort_values(_KEY)
    return {
        (str(take_uid), str(camera)): frames["frame_idx"].to_numpy(np.int64)
        for (take_uid, camera), frames in table.groupby(_KEY[:2], sort=False)
    }
