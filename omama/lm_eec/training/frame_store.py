"""The stage `squash`: stores every frame at the network's size, so that clips load quickly.

`<root>/features/squashed-<S>/<take_uid>.<camera>.arrow` holds a camera's frames, squashed to S x S,
as JPEG (quality 95, full colour resolution) in the frames manifest's order. Files are mapped into
memory for reading. `omama train --method lm-eec` runs the stage before training; a unit is a camera
at one size, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.arrays import Bytes
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from omama.lm_eec.pictures import read_squashed
from omama.tables.parquet import load_frames

STAGE = "squash"
_READERS = 8
_QUALITY = 95


def run_squash(
    root: DatasetRoot, cameras: Sequence[TakeCamera], *, size: int, run: RunOptions = RunOptions()
) -> StageSummary:
    """Store the frames of some cameras at size x size; existing, unchanged files are kept."""
    units = [
        Unit(
            (*camera, str(size)),
            inputs=(root.part("frames", f"{camera[0]}.{camera[1]}"),),
            outputs=(squashed_file(root, camera, size),),
        )
        for camera in sorted(set(cameras))
    ]
    work = partial(_work, root=root, size=size)
    return run_stage(root, STAGE, units, work, settings={}, options=run)


def squashed_file(root: DatasetRoot, camera: TakeCamera, size: int) -> Path:
    """Path of a camera's file."""
    name = path_component(f"{camera[0]}.{camera[1]}.arrow")
    return root.features(f"squashed-{size}") / name


def read_squashed_frame(path: Path, row: int) -> Bytes:
    """Frame `row` of a camera's file, (S, S, 3) RGB; DataError if it cannot be read."""
    try:
        column = _column(path)
        return np.asarray(Image.open(io.BytesIO(column[row].as_buffer())).convert("RGB"), np.uint8)
    except (OSError, pa.ArrowInvalid, IndexError) as error:
        raise DataError(
            f"frame {row} of {path} cannot be read ({error}); delete that file and train again"
        ) from error


def _work(unit: Unit, *, root: DatasetRoot, size: int) -> Mapping[str, int]:
    take_uid, camera, _ = unit.key
    frames = load_frames(root, [(take_uid, camera)], proposals=False)
    with ThreadPoolExecutor(_READERS) as readers:
        paths = [frames.path(row) for row in range(len(frames))]
        # PIL releases the GIL while it decodes, resizes and encodes.
        pictures = list(readers.map(partial(_encode_jpeg, size=size), paths))
    batch = pa.record_batch([pa.array(pictures, pa.binary())], names=["jpeg"])
    (path,) = unit.outputs
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial_path, pa.ipc.new_file(partial_path, batch.schema) as file:
        file.write_batch(batch)
    return {"frames": len(frames)}


def _encode_jpeg(path: Path, *, size: int) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(read_squashed(path, size))
    # Without chroma subsampling: at this size it would blur the colours of small objects.
    picture.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


@lru_cache(maxsize=512)  # an epoch reads each camera's file many times
def _column(path: Path) -> pa.BinaryArray:
    """Mapped, not read: a clip uses eight of a camera's hundreds of frames."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
