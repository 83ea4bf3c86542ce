"""The files of a feature cache, camera by camera: how they are written, and how they are read.

`<root>/features/<key>/<take_uid>.<camera>/` is a camera. It holds `tokens.npy` (F, C, h, w),
`masks.npy` (M, 2C) and `proposals.npy` (N, 2C) of F frames, float16 and memory-mapped, and
`index.npz`, written last: which frame owns which rows, how its masks lie to each other, a digest
of what each frame's features were made from, and one of the manifests. Frames that later pairs
need are added as `more-1/`, `more-2/`, ..., each with files of the same names: nothing that is
there is touched, but for the first index, which is replaced when the new files lie in place and
says how many there are. Of a frame that is in several, the last counts.

With int8, `tokens.npy` holds whole numbers and `scales.npy` (F, h, w) float32 what each token's
are multiplied by; with descriptors alone there are no tokens.
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
from omama.dataset import FrameTable, MasksByFrame
from omama.features.frame_features import FrameFeatures
from omama.features.mask_relations import MaskRelations

INDEX = "index.npz"
_LARGEST = 127
"""Of the whole numbers that stand for a token's values."""


class DamagedCache(Exception):
    """Files that cannot be read as what they are called."""


@dataclass(frozen=True)
class Files:
    """The frames that were written together."""

    index: Mapping[str, NDArray[Any]]
    arrays: Mapping[str, NDArray[Any]]
    table_start: Int64
    """(F + 1,) where each frame's (M, N) tables begin."""

    def frame(self, row: int) -> FrameFeatures:
        masks = slice(*self.index["mask_start"][row : row + 2].tolist())
        proposals = slice(*self.index["proposal_start"][row : row + 2].tolist())
        table = slice(*self.table_start[row : row + 2].tolist())
        size = (masks.stop - masks.start, proposals.stop - proposals.start)
        return FrameFeatures(
            tokens=self._tokens(row),
            masks=_tensor(self.arrays["masks"][masks]),
            proposals=_tensor(self.arrays["proposals"][proposals]),
            relations=MaskRelations(
                ious=self.index["ious"][table].reshape(size),
                best=self.index["best"][masks],
                near=self.index["near"][table].reshape(size),
            ),
        )

    def _tokens(self, row: int) -> Tensor:
        if "tokens" not in self.arrays:
            return torch.zeros(1, 1, 1)
        tokens = _tensor(self.arrays["tokens"][row])
        if "scales" not in self.arrays:
            return tokens
        return (tokens * _tensor(self.arrays["scales"][row])).half()


@dataclass(frozen=True)
class Part:
    """All files of one camera."""

    files: Sequence[Files]
    inputs: str
    """Hash of the manifests that it was last compared with."""

    @property
    def frame_idx(self) -> Int64:
        """Of every row, the files one after the other."""
        return np.concatenate([one.index["frame_idx"] for one in self.files])

    def rows(self, frame_idx: Int64) -> Int64:
        """(n, 2) the files and the row in them of each frame; -1 where it is not there."""
        known = {
            idx: (number, row)
            for number, one in enumerate(self.files)
            for row, idx in enumerate(one.index["frame_idx"].tolist())
        }
        found = [known.get(idx, (-1, -1)) for idx in frame_idx.tolist()]
        return np.array(found, np.int64).reshape(-1, 2)

    def digests(self, frame_idx: Int64) -> NDArray[np.bytes_]:
        """What the frames' features were made from, b"" where there are none."""
        rows = self.rows(frame_idx).tolist()
        known = [self.files[at].index["digests"][row] if at >= 0 else b"" for at, row in rows]
        return np.array(known, "S16")


def input_files(root: DatasetRoot, camera: TakeCamera) -> tuple[Path, ...]:
    """The manifest parts that a camera's features are made from."""
    name = ".".join(camera)
    parts = (root.part("frames", name), root.part("proposals", name))
    return (*parts, root.part("masks", camera[0]))


def frame_digests(frames: FrameTable, which: Iterable[int]) -> NDArray[np.bytes_]:
    """16 hex digits for each frame, which change with its picture's place, masks and proposals."""
    found = []
    for frame in which:
        row = frames.rows.iloc[frame]
        digest = hashlib.sha256(f"{row['path']} {row['height']} {row['width']}".encode())
        for masks in (frames.masks.of_frame(frame), frames.proposals.of_frame(frame)):
            first, last = int(masks.offsets[0]), int(masks.offsets[-1])
            for values in (masks.heights, masks.widths, masks.offsets - first, masks.boxes):
                digest.update(np.ascontiguousarray(values).tobytes())
            digest.update(masks.text[first:last].tobytes())
        found.append(digest.hexdigest()[:16].encode())
    return np.array(found, "S16")


def read_part(folder: Path) -> Part | None:
    """A camera's files, None where there are none; DamagedCache where they cannot be read."""
    if not (folder / INDEX).is_file():
        return None
    try:
        first = _read_files(folder)
        count = int(first.index.get("files", np.int64(1)))
        more = [_read_files(added_folder(folder, number)) for number in range(1, count)]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedCache(str(error)) from error
    return Part([first, *more], str(first.index["inputs"]))


def added_folder(folder: Path, number: int) -> Path:
    """Where the files that were added as the `number`-th lie; 0 is the camera's own folder."""
    return folder / f"more-{number}" if number else folder


def covered_frames(folder: Path) -> Int64 | None:
    """The frame_idxs that a camera has features of; None where it has none, or damaged ones."""
    try:
        indexes = [_read_index(folder)]
        count = int(indexes[0].get("files", np.int64(1)))
        indexes += [_read_index(added_folder(folder, number)) for number in range(1, count)]
        return np.unique(np.concatenate([index["frame_idx"] for index in indexes]))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def write_files(
    folder: Path,
    frames: FrameTable,
    which: Int64,
    features: Iterable[FrameFeatures],
    *,
    stored: str,
    about: Mapping[str, Any],
) -> None:
    """Write some frames' features, one after the other, and their index last."""
    relations: list[MaskRelations] = []
    starts = {
        name: _start(masks, which)
        for name, masks in (("masks", frames.masks), ("proposals", frames.proposals))
    }
    with ExitStack() as written:
        arrays: dict[str, Any] = {}
        for number, one in enumerate(features):
            if not arrays:
                sizes = _sizes(one, len(which), starts, stored)
                arrays = {
                    name: _open_array(
                        written.enter_context(atomic_path(folder / f"{name}.npy")), *size
                    )
                    for name, size in sizes.items()
                }
            _put(arrays, number, one, starts, frames.path(int(which[number])))
            relations.append(one.relations)
    write_index(
        folder,
        {
            "frame_idx": frames.rows["frame_idx"].to_numpy(np.int64)[which],
            "mask_start": starts["masks"],
            "proposal_start": starts["proposals"],
            "ious": np.concatenate([each.ious.ravel() for each in relations]),
            "near": np.concatenate([each.near.ravel() for each in relations]),
            "best": np.concatenate([each.best for each in relations]),
            "digests": frame_digests(frames, which.tolist()),
            **about,
        },
    )


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    with atomic_path(folder / INDEX) as partial, partial.open("wb") as file:
        np.savez(file, **index)


def bytes_of(
    tokens: int, width: int, masks: int, proposals: int, frames: int, *, stored: str
) -> int:
    """What frames of so many tokens each take, with all their masks and proposals.

    A token has `width` values of 2 bytes, or of 1 and a scale of 4; a mask 2 x width of 2 bytes.
    """
    a_token = {"fp16": 2 * width, "int8": width + 4, "descriptors": 0}[stored]
    return frames * tokens * a_token + (masks + proposals) * 2 * width * 2


def quantise(tokens: Float32) -> tuple[Int8, Float32]:
    """Tokens (C, h, w) → whole numbers of -127..127 and a scale (h, w) for each token."""
    scales = np.abs(tokens).max(axis=0) / _LARGEST
    with np.errstate(invalid="ignore", divide="ignore"):
        numbers = np.where(scales > 0, tokens / scales, 0)
    return np.rint(numbers).astype(np.int8), scales.astype(np.float32)


def _read_index(folder: Path) -> dict[str, NDArray[Any]]:
    with (folder / INDEX).open("rb") as opened, np.load(opened) as file:
        return {entry: file[entry] for entry in file.files}


def _read_files(folder: Path) -> Files:
    index = _read_index(folder)
    there = [name for name in ("tokens", "scales") if (folder / f"{name}.npy").exists()]
    if not there and str(index.get("stored", "fp16")) != "descriptors":
        raise DamagedCache(f"{folder / 'tokens.npy'} is missing")
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("masks", "proposals", *there)
    }
    sizes = np.diff(index["mask_start"]) * np.diff(index["proposal_start"])
    return Files(index, arrays, np.concatenate([[0], np.cumsum(sizes)]))


def _start(masks: MasksByFrame, which: Int64) -> Int64:
    counts = np.diff(masks.start)[which]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _sizes(
    features: FrameFeatures, frames: int, starts: Mapping[str, Int64], stored: str
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of each array."""
    tokens = tuple(features.tokens.shape)
    width = 2 * tokens[0]
    sizes: dict[str, tuple[tuple[int, ...], Any]] = {
        name: ((int(start[-1]), width), np.float16) for name, start in starts.items()
    }
    if stored != "descriptors":
        sizes["tokens"] = ((frames, *tokens), np.int8 if stored == "int8" else np.float16)
    if stored == "int8":
        sizes["scales"] = ((frames, *tokens[1:]), np.float32)
    return sizes


def _put(
    arrays: Mapping[str, Any],
    number: int,
    features: FrameFeatures,
    starts: Mapping[str, Int64],
    path: Path,
) -> None:
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
    if not torch.isfinite(half).all():  # where the features are: a CPU takes 5 ms a frame for it
        raise DataError(
            f"the features of {path} are not finite in float16; look at the "
            "weights file, or train with --on-the-fly"
        )
    return np.asarray(half.cpu().numpy())


def _open_array(path: Path, size: tuple[int, ...], kind: Any) -> Any:
    if not all(size):  # nothing to map
        with path.open("wb") as file:
            np.save(file, np.zeros(size, kind))
        return np.zeros(size, kind)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=size)
    with path.open("r+b") as file:
        # Room for all of it, or an error now: a map of a file that the disk then has no room for
        # ends the process (SIGBUS) in the middle of an assignment.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _tensor(values: NDArray[Any]) -> Tensor:
    """A copy in memory; the map itself is read-only, which torch does not know."""
    return torch.from_numpy(np.array(values))
