"""Which frames the chosen pairs use: what proposals and features are needed for.

Reads the pairs manifest. A root whose pairs are not listed yet has none chosen: there all frames
are needed.
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


@dataclass(frozen=True)
class NeededFrames:
    """Frames by camera."""

    by_camera: Mapping[TakeCamera, Int64] | None
    """frame_idxs, ascending; None: all of every camera."""

    @property
    def is_all(self) -> bool:
        return self.by_camera is None

    def of(self, camera: TakeCamera, there: Int64) -> Int64:
        """Those of the frames of a camera that are `there`, ascending."""
        if self.by_camera is None:
            return there
        return np.intersect1d(there, self.by_camera.get(camera, there[:0]))


ALL_FRAMES = NeededFrames(None)


def needed_frames(
    root: DatasetRoot,
    *,
    sides: Sequence[str] = SIDES,
    directions: Sequence[Direction] = tuple(Direction),
) -> NeededFrames:
    """The frames that the pairs of some directions have at their source or destination side.

    ALL_FRAMES where the root has no pairs yet, in whatever direction.
    """
    parts = {path.stem for path in root.table("pairs").glob("*.parquet")}
    columns = ["take_uid", "frame_idx", *(f"{side}_camera" for side in SIDES)]
    wanted = {f"{split}.{direction}" for split in Split for direction in directions}
    if not parts or not read_manifest(root, "pairs", columns=["split"]).num_rows:
        return ALL_FRAMES
    if not parts & wanted:
        return NeededFrames({})
    pairs = read_manifest(root, "pairs", columns=columns, units=parts & wanted)
    ends = pa.concat_tables(
        pa.table([pairs["take_uid"], pairs[f"{side}_camera"], pairs["frame_idx"]], names=_KEY)
        for side in sides
    )
    return NeededFrames(frames_by_camera(ends.group_by(_KEY).aggregate([])))


def existing_frames(root: DatasetRoot) -> Mapping[TakeCamera, Int64]:
    """The frames that were cut, by camera, ascending."""
    return frames_by_camera(read_manifest(root, "frames", columns=_KEY))


def frames_by_camera(rows: pa.Table) -> dict[TakeCamera, Int64]:
    """Rows of take_uid, camera, frame_idx → frame_idxs by camera, ascending."""
    table = rows.to_pandas().sort_values(_KEY)
    return {
        (str(take_uid), str(camera)): frames["frame_idx"].to_numpy(np.int64)
        for (take_uid, camera), frames in table.groupby(_KEY[:2], sort=False)
    }


_KEY = ["take_uid", "camera", "frame_idx"]
