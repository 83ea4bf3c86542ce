"""The stage `features`, and the reader of what it writes: features of every frame, on disk.

`<root>/features/<key>/<take_uid>.<camera>/` holds `tokens.npy` (F, C, h, w), `masks.npy` (M, 2C)
and `proposals.npy` (N, 2C), float16 and memory-mapped, and `index.npz`, written last: which frame
owns which rows, how its masks lie to each other, and a hash of the manifests that it was made
from. The key (see `omama.features.key`) names the backbone and a hash of its weights, precision,
preparation and format, so that features of two backbones lie side by side and none passes for
another's. Tokens that were made at another image size than training uses cost the known study 0.12
IoU: here a cache that does not fit is refused by name.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path, component, write_atomic
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.inputs import FileDigests, hash_files
from egoexo_tools.running.lock import in_turn
from egoexo_tools.running.stage import RunOptions, StageSummary, Unit, run_stage
from omama.dataset import Camera, FrameTable, load_frames
from omama.features.frame_features import READERS, Extractor, FrameFeatures, RawFrame
from omama.features.frame_shape import FrameShape
from omama.features.key import FeatureKey, make_extractor
from omama.tables.mapped import open_digests

Int: TypeAlias = NDArray[np.int64]
STAGE = "features"
IMAGES_AT_ONCE = 8
_ARRAYS = ("tokens", "masks", "proposals")


def run_features(
    root: DatasetRoot,
    *,
    backbone: str,
    weights: Path | None = None,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
    images_at_once: int = IMAGES_AT_ONCE,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Cache the features of every frame of a root, a (take, camera) a unit.

    `squash_portrait` also caches portrait cameras at the landscape size, which training with the
    reference's behaviour reads.
    """
    key = FeatureKey.of(make_extractor(backbone, weights, feature_precision=feature_precision))
    keys = {key.name: key}
    todo = units(root, key)
    if squash_portrait:
        squashed = replace(key, squash_portrait=True)
        keys[squashed.name] = squashed
        todo += [unit for unit in units(root, squashed) if _is_portrait(root, unit)]
    with in_turn(root.status_dir(STAGE)):
        for each in keys.values():
            path = root.features(each.name) / "settings.json"
            write_atomic(path, json.dumps(each.settings, indent=1) + "\n")
    work = partial(
        _work,
        root=root,
        keys=keys,
        weights=weights,
        images_at_once=images_at_once,
        threads=None if run.executor == "inline" else 1,
    )
    return run_stage(root, STAGE, todo, work, settings=key.settings, options=run)


def units(root: DatasetRoot, key: FeatureKey) -> list[Unit]:
    """A unit for each part of the frames manifest."""
    read_manifest(root.require(), "frames", columns=[])  # raises where there is none
    found = []
    for part in sorted(root.table("frames").glob("*.parquet")):
        take_uid, _, camera = part.stem.partition(".")
        output = root.features(key.name) / component(part.stem) / "index.npz"
        found.append(
            Unit((take_uid, camera, key.name), _inputs(root, (take_uid, camera)), (output,))
        )
    return found


def _work(
    unit: Unit,
    *,
    root: DatasetRoot,
    keys: Mapping[str, FeatureKey],
    weights: Path | None,
    images_at_once: int,
    threads: int | None,
) -> Mapping[str, int]:
    if threads is not None:
        torch.set_num_threads(threads)  # one process a core: more threads only get in the way
    take_uid, camera, name = unit.key
    key = keys[name]
    frames = load_frames(root, [(take_uid, camera)])
    folder = unit.outputs[0].parent
    unit.outputs[0].unlink(missing_ok=True)  # arrays without an index are nothing
    extractor = make_extractor(
        key.backbone,
        weights,
        feature_precision=key.feature_precision,
        squash_portrait=key.squash_portrait,
    )
    shapes = _write_arrays(folder, frames, extractor, images_at_once)
    with atomic_path(unit.outputs[0]) as partial_path, partial_path.open("wb") as file:
        np.savez(
            file,
            frame_idx=frames.rows["frame_idx"].to_numpy(np.int64),
            mask_start=frames.masks.start,
            proposal_start=frames.proposals.start,
            ious=np.concatenate([shape.ious.ravel() for shape in shapes]),
            near=np.concatenate([shape.near.ravel() for shape in shapes]),
            best=np.concatenate([shape.best for shape in shapes]),
            inputs=inputs_hash(root, (take_uid, camera)),
        )
    counts = {"masks": frames.masks.start[-1], "proposals": frames.proposals.start[-1]}
    return {"frames": len(frames), **{name: int(count) for name, count in counts.items()}}


def _is_portrait(root: DatasetRoot, unit: Unit) -> bool:
    sizes = read_manifest(
        root, "frames", columns=["height", "width"], units=[".".join(unit.key[:2])]
    ).to_pylist()
    return any(row["height"] > row["width"] for row in sizes)


def _write_arrays(
    folder: Path, frames: FrameTable, extractor: Extractor, images_at_once: int
) -> list[FrameShape]:
    """Fill the three arrays frame by frame; only one chunk of frames is in memory."""
    shapes: list[FrameShape] = []
    paths = [folder / f"{name}.npy" for name in _ARRAYS]
    with (
        atomic_path(paths[0]) as tokens,
        atomic_path(paths[1]) as masks,
        atomic_path(paths[2]) as proposals,
    ):
        arrays: list[Any] = []
        for features in extract_all(frames, extractor, images_at_once):
            if not arrays:
                sizes = [
                    (len(frames), *features.tokens.shape),
                    (int(frames.masks.start[-1]), 2 * extractor.width),
                    (int(frames.proposals.start[-1]), 2 * extractor.width),
                ]
                arrays = [
                    _open_array(path, size)
                    for path, size in zip((tokens, masks, proposals), sizes, strict=True)
                ]
            _put(arrays, frames, len(shapes), features)
            shapes.append(features.shape)
    return shapes


def extract_all(
    frames: FrameTable, extractor: Extractor, images_at_once: int
) -> Iterator[FrameFeatures]:
    """Features of every frame in order; pictures are read in threads, a chunk ahead."""
    with ThreadPoolExecutor(READERS) as pool:
        read = partial(extractor.read, frames)
        starts = range(0, len(frames), images_at_once)
        chunks = [range(at, min(at + images_at_once, len(frames))) for at in starts]
        waiting = [pool.submit(read, frame) for frame in (chunks[0] if chunks else ())]
        for number in range(len(chunks)):
            raws: list[RawFrame] = [future.result() for future in waiting]
            following = chunks[number + 1] if number + 1 < len(chunks) else ()
            waiting = [pool.submit(read, frame) for frame in following]
            yield from extractor(raws)


def _put(arrays: Sequence[Any], frames: FrameTable, frame: int, features: FrameFeatures) -> None:
    tokens, masks, proposals = arrays
    if features.tokens.shape != tokens.shape[1:]:
        raise DataError(
            f"{frames.path(frame)} has another size than the frames before it; run "
            "`egoexo-tools frames --overwrite` for that take"
        )
    tokens[frame] = _half(features.tokens, frames, frame)
    for array, rows, values in (
        (masks, frames.masks.start, features.masks),
        (proposals, frames.proposals.start, features.proposals),
    ):
        array[rows[frame] : rows[frame + 1]] = _half(values, frames, frame)


def _half(values: Tensor, frames: FrameTable, frame: int) -> NDArray[np.float16]:
    half = values.to(torch.float16).cpu()
    if not torch.isfinite(half).all():
        raise DataError(
            f"the features of {frames.path(frame)} are not finite in float16; look at the "
            "weights file, or train with --on-the-fly"
        )
    return np.asarray(half.numpy())


def _open_array(path: Path, size: tuple[int, ...]) -> Any:
    if not all(size):  # nothing to map
        with path.open("wb") as file:
            np.save(file, np.zeros(size, np.float16))
        return np.zeros(size, np.float16)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=size)


class CachedFeatures:
    """A FeatureStore that reads the cache of one backbone for the frames of a table."""

    is_cache = True

    def __init__(self, frames: FrameTable, key: FeatureKey) -> None:
        """Opens the parts of every camera in the table; DataError names one that does not fit."""
        self.key = key
        rows = frames.rows
        cameras = rows.groupby(["take_uid", "camera"], sort=False).ngroup().to_numpy()
        first = np.unique(cameras, return_index=True)[1]
        self._camera: Int = cameras.astype(np.int64)
        self._position: Int = np.arange(len(rows)) - first[cameras]
        known = open_digests(frames.root)
        # Only portrait cameras have squashed features of their own.
        plain = replace(key, squash_portrait=False)
        portrait = (rows["height"] > rows["width"]).to_numpy()[first].tolist()
        names = rows.iloc[first][["take_uid", "camera"]].itertuples(index=False)
        self._parts = [
            _open_part(frames, key if tall else plain, (str(take_uid), str(camera)), known)
            for tall, (take_uid, camera) in zip(portrait, names, strict=True)
        ]

    def read(self, frames: Int) -> list[FrameFeatures]:
        at = zip(self._camera[frames].tolist(), self._position[frames].tolist(), strict=True)
        return [self._parts[camera].frame(position) for camera, position in at]

    def finish(self, raw: Sequence[Any]) -> list[FrameFeatures]:
        return list(raw)


@dataclass(frozen=True)
class _Part:
    """One camera's arrays."""

    tokens: NDArray[np.float16]
    masks: NDArray[np.float16]
    proposals: NDArray[np.float16]
    index: Mapping[str, NDArray[Any]]
    pair_start: Int
    """(F + 1,) where each frame's (M, N) tables begin."""

    def frame(self, position: int) -> FrameFeatures:
        masks = slice(*self.index["mask_start"][position : position + 2].tolist())
        proposals = slice(*self.index["proposal_start"][position : position + 2].tolist())
        table = slice(*self.pair_start[position : position + 2].tolist())
        size = (masks.stop - masks.start, proposals.stop - proposals.start)
        return FrameFeatures(
            tokens=_tensor(self.tokens[position]),
            masks=_tensor(self.masks[masks]),
            proposals=_tensor(self.proposals[proposals]),
            shape=FrameShape(
                ious=self.index["ious"][table].reshape(size),
                best=self.index["best"][masks],
                near=self.index["near"][table].reshape(size),
            ),
        )


def _tensor(values: NDArray[np.float16]) -> Tensor:
    """A copy in memory; the map itself is read-only, which torch does not know."""
    return torch.from_numpy(np.array(values))


def _open_part(frames: FrameTable, key: FeatureKey, camera: Camera, known: FileDigests) -> _Part:
    name = ".".join(camera)
    folder = frames.root.features(key.name) / component(name)
    again = f"run `omama features {frames.root.path} {key.command}`"
    if not (folder / "index.npz").is_file():
        raise DataError(f"there are no cached features {key.name} of {name}; {again} first")
    try:
        with (folder / "index.npz").open("rb") as opened, np.load(opened) as file:
            index = {entry: file[entry] for entry in file.files}
        arrays = [np.load(folder / f"{array}.npy", mmap_mode="r") for array in _ARRAYS]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"the cached features in {folder} are damaged; {again}") from error
    if str(index["inputs"]) != inputs_hash(frames.root, camera, known=known):
        raise DataError(
            f"the cached features {key.name} of {name} are older than its frames, masks or "
            f"proposals; {again}"
        )
    sizes = np.diff(index["mask_start"]) * np.diff(index["proposal_start"])
    start = np.concatenate([[0], np.cumsum(sizes)])
    return _Part(arrays[0], arrays[1], arrays[2], index, start)


def inputs_hash(root: DatasetRoot, camera: Camera, *, known: FileDigests | None = None) -> str:
    """16 hex digits that change with the manifests that a camera's features are made from.

    `known` as in `hash_files`: the cameras of a take share their masks.
    """
    return hash_files(_inputs(root, camera), known=known)


def _inputs(root: DatasetRoot, camera: Camera) -> tuple[Path, ...]:
    name = ".".join(camera)
    parts = (root.part("frames", name), root.part("proposals", name))
    return (*parts, root.part("masks", camera[0]))
