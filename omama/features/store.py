"""Where the features of frames come from: the cache, the backbone as it goes, or masks alone.

A store gives features in two steps: `read` may run in a thread a few batches ahead (a picture
decoded, a memory map copied), `finish` runs in order in the thread that trains (the backbone).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.arrays import Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.running.inputs import FileDigests, hash_files
from omama.dataset import FrameTable, Pairs
from omama.features.cache_files import INDEX, DamagedCache, Part, input_files, read_part
from omama.features.frame_features import IMAGES_AT_ONCE, Extractor, FrameFeatures, RawFrame
from omama.features.frame_masks import mask_ious
from omama.features.key import STORED, FeatureKey, feature_key, make_extractor
from omama.features.mask_relations import MaskRelations
from omama.tables.mapped import open_digests


class FeatureStore(Protocol):
    """Where the features of a FrameTable's frames come from."""

    key: FeatureKey
    """What the features are of."""
    is_cache: bool

    def read(self, frames: Int64) -> list[Any]:
        """What a thread can prepare of these frames."""
        ...

    def finish(self, raw: Sequence[Any]) -> list[FrameFeatures]:
        """The rest, in the order of `read`."""
        ...


class LiveFeatures:
    """A FeatureStore that runs the backbone as it goes, and counts its passes."""

    is_cache = False

    def __init__(self, frames: FrameTable, extractor: Extractor) -> None:
        self.key = FeatureKey.of(extractor)
        self.passes = 0
        self._frames = frames
        self._extractor = extractor

    def read(self, frames: Int64) -> list[RawFrame]:
        return [self._extractor.read(self._frames, frame) for frame in frames.tolist()]

    def finish(self, raw: Sequence[RawFrame]) -> list[FrameFeatures]:
        self.passes += len(raw)
        chunks = [raw[at : at + IMAGES_AT_ONCE] for at in range(0, len(raw), IMAGES_AT_ONCE)]
        return [features for chunk in chunks for features in self._extractor(chunk)]


class MasksOnly:
    """A FeatureStore for matchers that look at masks alone: no picture is read."""

    key = FeatureKey(backbone="none", weights_hash="", patch_size=1, width=1)
    is_cache = False

    def __init__(self, frames: FrameTable) -> None:
        self._frames = frames

    def read(self, frames: Int64) -> list[FrameFeatures]:
        return [self._read(frame) for frame in frames.tolist()]

    def finish(self, raw: Sequence[FrameFeatures]) -> list[FrameFeatures]:
        return list(raw)

    def _read(self, frame: int) -> FrameFeatures:
        masks, proposals = (
            self._frames.masks.of_frame(frame),
            self._frames.proposals.of_frame(frame),
        )
        ious = mask_ious(masks, proposals)
        near = np.zeros(ious.shape, np.bool_)
        return FrameFeatures(
            tokens=torch.zeros(1, 1, 1),
            masks=torch.zeros(len(masks), 2),
            proposals=torch.zeros(len(proposals), 2),
            relations=MaskRelations(ious=ious, best=np.zeros(len(masks), np.int64), near=near),
        )


class CachedFeatures:
    """A FeatureStore that reads the cache of one backbone for the frames of a table."""

    is_cache = True

    def __init__(self, frames: FrameTable, key: FeatureKey, needed: Int64 | None = None) -> None:
        """Opens the parts of every camera in the table; DataError names one that does not fit, or
        lacks one of the `needed` frames (positions)."""
        self.key = key
        self._frames = frames
        rows = frames.rows
        cameras = rows.groupby(["take_uid", "camera"], sort=False).ngroup().to_numpy()
        first = np.unique(cameras, return_index=True)[1]
        self._camera: Int64 = cameras.astype(np.int64)
        self._row: Int64 = np.full((len(rows), 2), -1, np.int64)
        # A camera of which no frame is needed may lack all.
        used = set(np.unique(cameras if needed is None else cameras[needed]).tolist())
        known = open_digests(frames.root)
        # Only portrait cameras have squashed features of their own.
        plain = replace(key, squash_portrait=False)
        portrait = (rows["height"] > rows["width"]).to_numpy()[first].tolist()
        names = rows.iloc[first][["take_uid", "camera"]].itertuples(index=False)
        frame_idx = np.split(rows["frame_idx"].to_numpy(np.int64), first[1:])
        self._parts: list[Part | None] = []
        for camera, (take_uid, name) in enumerate(names):
            part = None
            if camera in used:
                own = key if portrait[camera] else plain
                part = _open_part(frames.root, own, (str(take_uid), str(name)), known)
                at = slice(first[camera], first[camera] + frame_idx[camera].size)
                self._row[at] = part.rows(frame_idx[camera])
            self._parts.append(part)
        self._check(np.arange(0) if needed is None else needed)

    def read(self, frames: Int64) -> list[FrameFeatures]:
        self._check(frames)
        return [self._read(frame) for frame in frames.tolist()]

    def finish(self, raw: Sequence[Any]) -> list[FrameFeatures]:
        return list(raw)

    def _read(self, frame: int) -> FrameFeatures:
        part = self._parts[self._camera[frame]]
        files, row = self._row[frame].tolist()
        assert part is not None  # its frame has a row
        found: FrameFeatures = part.files[files].frame(row)
        return found

    def _check(self, frames: Int64) -> None:
        """DataError where one of the frames is not in the cache."""
        missing = frames[self._row[frames, 0] < 0]
        if missing.size:
            raise DataError(
                f"the cached features {self.key.name} lack frame "
                f"{self._frames.name(int(missing[0]))}"
                + (f" and {missing.size - 1:,} more" if missing.size > 1 else "")
                + f"; run `omama features {self._frames.root.path} {self.key.command}`, which "
                "adds what the root's pairs use"
            )


def open_store(
    frames: FrameTable,
    *,
    backbone: str,
    weights: Path | None,
    cached: bool,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
    pairs: Pairs | None = None,
    tokens: bool = True,
) -> FeatureStore:
    """The cache of a backbone, or the backbone itself. DataError where the cache does not fit.

    Of several caches the most exact is taken; one of descriptors alone only where no `tokens` are
    needed. With `pairs` their frames must all be there.
    """
    how: dict[str, Any] = {
        "feature_precision": feature_precision,
        "squash_portrait": squash_portrait,
    }
    if not cached:
        return LiveFeatures(frames, make_extractor(backbone, weights, **how))
    needed = None
    if pairs is not None:
        needed = np.unique(np.concatenate([pairs.source_frame, pairs.dest_frame]))
    key = _stored_key(frames.root, feature_key(backbone, weights, **how), tokens=tokens)
    return CachedFeatures(frames, key, needed)


def _stored_key(root: DatasetRoot, key: FeatureKey, *, tokens: bool) -> FeatureKey:
    """The key of the cache that there is; `key` itself where there is none."""
    there = [
        each
        for each in (replace(key, stored=stored) for stored in STORED)
        # Only portrait cameras have squashed features; where none is, there are none.
        if any(root.features(replace(each, squash_portrait=False).name).glob(f"*/{INDEX}"))
    ]
    usable = [each for each in there if each.stored != "descriptors" or not tokens]
    if there and not usable:
        raise DataError(
            f"the cached features {there[0].name} are descriptors alone, which k-NN reads; a "
            f"trained matcher and its training need tokens: run `omama features {root.path} "
            f"{key.command}`"
        )
    return usable[0] if usable else key


def _open_part(root: DatasetRoot, key: FeatureKey, camera: TakeCamera, known: FileDigests) -> Part:
    name = ".".join(camera)
    folder = root.features(key.name) / path_component(name)
    again = f"run `omama features {root.path} {key.command}`"
    try:
        part = read_part(folder)
    except DamagedCache as error:
        raise DataError(f"the cached features in {folder} are damaged; {again}") from error
    if part is None:
        raise DataError(f"there are no cached features {key.name} of {name}; {again} first")
    if part.inputs != hash_files(input_files(root, camera), digests=known):
        raise DataError(
            f"the cached features {key.name} of {name} are older than its frames, masks or "
            f"proposals; {again}"
        )
    return part
