"""The files of a feature cache, camera by camera: how they are written and read.

`<root>/features/<key>/<take_uid>.<camera>/` holds one camera. Its files are `tokens.npy`
(F, C, h, w), `masks.npy` (M, 2C) and `proposals.npy` (N, 2C) of F frames, float16 and mapped into
memory, and `index.npz`, which is written last: the rows of each frame, the relations between its
masks, a digest of the inputs of each frame and one of the manifests. Frames that later pairs need
are added as `added_folder` 1, 2, ..., with files of the same names. Existing files are not changed,
except that the first index is replaced when the new files are complete: it holds their number. If
several folders contain a frame, the last one counts.

With int8, `tokens.npy` holds integers and `scales.npy` (F, h, w) the float32 factor of each token.
With descriptors only, there is neither.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.arrays import Float16, Float32, Int8, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path
from omama.dataset import FrameTable
from omama.features.frame_features import FrameFeatures
from omama.features.mask_relations import MaskRelations

INDEX = "index.npz"
_LARGEST = 127
"""Largest integer that stands for a token's value."""
_READ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)
"""What NumPy raises for a file that is damaged or not its own."""


class DamagedCache(Exception):
    """A file of the cache cannot be read."""


@dataclass(frozen=True)
class CachedFrames:
    """Frames that were written together."""

    index: Mapping[str, NDArray[Any]]
    arrays: Mapping[str, NDArray[Any]]
    table_start: Int64
    """(F + 1,) where the (M, N) tables of each frame begin."""

    def frame(self, row: int) -> FrameFeatures:
        masks = slice(*self.index["mask_start"][row : row + 2].tolist())
        proposals = slice(*self.index["proposal_start"][row : row + 2].tolist())
        table = slice(*self.table_start[row : row + 2].tolist())
        size = (masks.stop - masks.start, proposals.stop - proposals.start)
        tokens = torch.zeros(1, 1, 1)  # in a cache with descriptors only
        if "tokens" in self.arrays:
            tokens = _tensor(self.arrays["tokens"][row])
        if "scales" in self.arrays:
            tokens = (tokens * _tensor(self.arrays["scales"][row])).half()
        return FrameFeatures(
            tokens=tokens,
            masks=_tensor(self.arrays["masks"][masks]),
            proposals=_tensor(self.arrays["proposals"][proposals]),
            relations=MaskRelations(
                ious=self.index["ious"][table].reshape(size),
                best=self.index["best"][masks],
                near=self.index["near"][table].reshape(size),
            ),
        )


@dataclass(frozen=True)
class CameraFeatures:
    """All cached frames of one camera."""

    files: Sequence[CachedFrames]
    inputs: str
    """Hash of the manifests that the features were last compared with."""

    @property
    def frame_idx(self) -> Int64:
        """frame_idx of every row, over all files in order; a replaced frame occurs twice."""
        return np.concatenate([frames.index["frame_idx"] for frames in self.files])

    def rows(self, frame_idx: Int64) -> Int64:
        """(n, 2) position in `files` and row in it of each frame; -1 if it is not cached."""
        # Later files overwrite earlier entries: they hold the newer features of a frame.
        row_by_idx = {
            idx: (number, row)
            for number, frames in enumerate(self.files)
            for row, idx in enumerate(frames.index["frame_idx"].tolist())
        }
        rows = [row_by_idx.get(idx, (-1, -1)) for idx in frame_idx.tolist()]
        return np.array(rows, np.int64).reshape(-1, 2)

    def digests(self, frame_idx: Int64) -> NDArray[np.bytes_]:
        """`frame_digests` of the inputs that each frame was made from; b"" if it is not cached."""
        rows = self.rows(frame_idx).tolist()
        digests = [self.files[at].index["digests"][row] if at >= 0 else b"" for at, row in rows]
        return np.array(digests, "S16")


def input_files(root: DatasetRoot, camera: TakeCamera) -> tuple[Path, ...]:
    """The manifest parts that a camera's features are made from."""
    name = ".".join(camera)
    parts = (root.part("frames", name), root.part("proposals", name))
    return (*parts, root.part("masks", camera[0]))


def frame_digests(frames: FrameTable, positions: Iterable[int]) -> NDArray[np.bytes_]:
    """16 hex digits for each frame: a hash of its picture, size, masks and proposals."""
    digests = []
    for frame in positions:
        row = frames.rows.iloc[frame]
        names = ("path", "digest", "height", "width")
        digest = hashlib.sha256(" ".join(str(row[name]) for name in names).encode())
        for masks in (frames.masks.of_frame(frame), frames.proposals.of_frame(frame)):
            first, last = int(masks.offsets[0]), int(masks.offsets[-1])
            # Offsets from the frame's first text: frames before it may change.
            for values in (masks.heights, masks.widths, masks.offsets - first, masks.boxes):
                digest.update(np.ascontiguousarray(values).tobytes())
            digest.update(masks.text[first:last].tobytes())
        digests.append(digest.hexdigest()[:16].encode())
    return np.array(digests, "S16")


def read_camera(folder: Path) -> CameraFeatures | None:
    """The features of a camera, None if there are none. Raises DamagedCache."""
    if not (folder / INDEX).is_file():
        return None
    try:
        files = [_read_frames(path, index) for path, index in _read_indexes(folder)]
    except _READ_ERRORS as error:
        raise DamagedCache(str(error)) from error
    return CameraFeatures(files, str(files[0].index["inputs"]))


def added_folder(folder: Path, number: int) -> Path:
    """Folder of the `number`-th added files; 0 is the camera's own folder."""
    return folder / f"more-{number}" if number else folder


def covered_frames(folder: Path) -> Int64 | None:
    """frame_idx of the frames that are cached; None if there are none, or if files are damaged."""
    try:
        indexes = [index["frame_idx"] for _, index in _read_indexes(folder)]
    except _READ_ERRORS:
        return None
    return np.unique(np.concatenate(indexes))


def write_files(
    folder: Path,
    frames: FrameTable,
    positions: Int64,
    features: Iterable[FrameFeatures],
    *,
    storage: str,
    provenance: Mapping[str, Any],
) -> None:
    """Write the features of the frames at `positions`, one after the other, and their index last.

    `storage` is one of STORED; `provenance` are further entries of the index.
    """
    starts = {
        name: np.concatenate([[0], np.cumsum(np.diff(masks.start)[positions])]).astype(np.int64)
        for name, masks in (("masks", frames.masks), ("proposals", frames.proposals))
    }
    relations: list[MaskRelations] = []
    with ExitStack() as partial_files:
        arrays: dict[str, Any] = {}
        for number, frame in enumerate(features):
            # The first frame's features determine the arrays' shapes.
            if not arrays:
                sizes = _array_sizes(frame, len(positions), starts, storage)
                for name, size in sizes.items():
                    path = partial_files.enter_context(atomic_path(folder / f"{name}.npy"))
                    arrays[name] = _open_array(path, *size)
            _put(arrays, number, frame, starts, frames.path(int(positions[number])))
            relations.append(frame.relations)
    write_index(
        folder,
        {
            "frame_idx": frames.rows["frame_idx"].to_numpy(np.int64)[positions],
            "mask_start": starts["masks"],
            "proposal_start": starts["proposals"],
            "ious": np.concatenate([each.ious.ravel() for each in relations]),
            "near": np.concatenate([each.near.ravel() for each in relations]),
            "best": np.concatenate([each.best for each in relations]),
            "digests": frame_digests(frames, positions.tolist()),
            **provenance,
        },
    )


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    with atomic_path(folder / INDEX) as partial, partial.open("wb") as file:
        np.savez(file, **index)


def bytes_of(
    tokens: int, width: int, masks: int, proposals: int, frames: int, *, storage: str
) -> int:
    """Bytes of `frames` frames with `tokens` tokens each, with all their masks and proposals.

    A token has `width` values of 2 bytes, or of 1 byte and a scale of 4; a mask 2 x width values
    of 2 bytes.
    """
    token_bytes = {"fp16": 2 * width, "int8": width + 4, "descriptors": 0}[storage]
    return frames * tokens * token_bytes + (masks + proposals) * 2 * width * 2


def quantise(tokens: Float32) -> tuple[Int8, Float32]:
    """Tokens (C, h, w) → integers in -127..127 and a scale (h, w) for each token."""
    scales = np.abs(tokens).max(axis=0) / _LARGEST  # (h, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        numbers = np.where(scales > 0, tokens / scales, 0)
    return np.rint(numbers).astype(np.int8), scales.astype(np.float32)


def _read_indexes(folder: Path) -> list[tuple[Path, dict[str, NDArray[Any]]]]:
    """Folder and index of all files of a camera, the first files first."""
    indexes: list[tuple[Path, dict[str, NDArray[Any]]]] = []
    count = 1
    while len(indexes) < count:
        path = added_folder(folder, len(indexes))
        with (path / INDEX).open("rb") as file, np.load(file) as entries:
            indexes.append((path, {name: entries[name] for name in entries.files}))
        # Only the first index of a camera with added files counts them.
        count = int(indexes[0][1].get("files", np.int64(1)))
    return indexes


def _read_frames(folder: Path, index: Mapping[str, NDArray[Any]]) -> CachedFrames:
    names = [name for name in ("tokens", "scales") if (folder / f"{name}.npy").exists()]
    if not names and str(index.get("stored", "fp16")) != "descriptors":
        raise DamagedCache(f"{folder / 'tokens.npy'} is missing")
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("masks", "proposals", *names)
    }
    sizes = np.diff(index["mask_start"]) * np.diff(index["proposal_start"])
    return CachedFrames(index, arrays, np.concatenate([[0], np.cumsum(sizes)]))


def _array_sizes(
    features: FrameFeatures, frames: int, starts: Mapping[str, Int64], storage: str
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of each array."""
    tokens = tuple(features.tokens.shape)
    width = 2 * tokens[0]
    sizes: dict[str, tuple[tuple[int, ...], Any]] = {
        name: ((int(start[-1]), width), np.float16) for name, start in starts.items()
    }
    if storage != "descriptors":
        sizes["tokens"] = ((frames, *tokens), np.int8 if storage == "int8" else np.float16)
    if storage == "int8":
        sizes["scales"] = ((frames, *tokens[1:]), np.float32)
    return sizes


def _put(
    arrays: Mapping[str, Any],
    number: int,
    features: FrameFeatures,
    starts: Mapping[str, Int64],
    path: Path,
) -> None:
    """Copy the features of the `number`-th frame into the arrays; `path` is for messages."""
    if "tokens" in arrays and features.tokens.shape != arrays["tokens"].shape[1:]:
        raise DataError(
            f"{path} has another size than the frames before it; run "
            "`egoexo-tools frames --overwrite` for that take"
        )
    half = _half(features.tokens, path)
    if "scales" in arrays:
        exact = features.tokens.float().cpu().numpy()
        arrays["tokens"][number], arrays["scales"][number] = quantise(exact)
    elif "tokens" in arrays:
        arrays["tokens"][number] = half
    for name, values in (("masks", features.masks), ("proposals", features.proposals)):
        first, last = starts[name][number : number + 2].tolist()
        arrays[name][first:last] = _half(values, path)


def _half(values: Tensor, path: Path) -> Float16:
    half = values.to(torch.float16)
    # Checked on the device that holds the features: a CPU takes 5 ms a frame for it.
    if not torch.isfinite(half).all():
        raise DataError(
            f"the features of {path} are not finite in float16; look at the "
            "weights file, or train with --on-the-fly"
        )
    return np.asarray(half.cpu().numpy())


def _open_array(path: Path, size: tuple[int, ...], dtype: Any) -> Any:
    if not all(size):  # an empty file cannot be mapped
        with path.open("wb") as file:
            np.save(file, np.zeros(size, dtype))
        return np.zeros(size, dtype)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=size)
    with path.open("r+b") as file:
        # Reserve all bytes, or raise now. If the disk is full when a mapped page is first written,
        # the kernel ends the process (SIGBUS) in the middle of an assignment.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _tensor(values: NDArray[Any]) -> Tensor:
    """A copy in RAM: the map is read-only, and torch has no read-only tensors."""
    return torch.from_numpy(np.array(values))
