"""The stage `features`: a frozen backbone's features of the frames that the pairs use, on disk.

`omama/features/cache_files.py` says what lies in `<root>/features/<key>/` and reads it. The key
(see `omama.features.key`) names the backbone and a hash of its weights, precision, preparation and
format, so that features of two backbones lie side by side and none passes for another's. Tokens
that were made at another image size than training uses cost the known study 0.12 IoU: here a cache
that does not fit is refused by name. What is there and was made from the same masks and proposals
stays; frames that new pairs need are added.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoexo_tools.arrays import Int64
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot, path_component, write_atomic
from egoexo_tools.manifests import read_manifest
from egoexo_tools.needed_frames import ALL_FRAMES, existing_frames, needed_frames
from egoexo_tools.running.disk_cost import (
    CostEstimate,
    TimedBatch,
    check_disk_space,
    concurrent_units,
    measure_sample,
    time_batch,
)
from egoexo_tools.running.executors import TaskSubmitter
from egoexo_tools.running.inputs import hash_files
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.progress import print_line
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from omama.dataset import FrameTable, load_frames
from omama.features import cache_files
from omama.features.cache_files import DamagedCache, Part, input_files
from omama.features.frame_features import (
    IMAGES_AT_ONCE,
    READERS,
    Extractor,
    FrameFeatures,
    RawFrame,
)
from omama.features.images import token_grid
from omama.features.key import FeatureKey, feature_key, make_extractor
from omama.features.registry import CACHE_PRECISIONS

STAGE = "features"
CURES = (
    "choose fewer pairs (`egoexo-tools pairs --fraction`), give --cache-precision int8 (half), "
    "or --descriptors-only (a fifteenth, for k-NN), or a larger disk"
)


@dataclass(frozen=True)
class CacheOptions:
    """What to keep, of which frames."""

    all_frames: bool = False
    """Of every frame, not only of those that the root's pairs use."""
    precision: str = "fp16"
    """One of CACHE_PRECISIONS: bytes of a token's values."""
    descriptors_only: bool = False
    """No tokens, only what k-NN compares."""

    @property
    def stored(self) -> str:
        """As FeatureKey has it; SettingsError for what cannot be."""
        if self.precision not in CACHE_PRECISIONS:
            known = " or ".join(CACHE_PRECISIONS)
            raise SettingsError(f"cache precision {self.precision!r}; use {known}")
        if self.descriptors_only and self.precision != "fp16":
            raise SettingsError(
                "descriptors are float16 in every cache; leave out --cache-precision"
            )
        return "descriptors" if self.descriptors_only else self.precision


def run_features(
    root: DatasetRoot,
    *,
    backbone: str,
    weights: Path | None = None,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
    images_at_once: int = IMAGES_AT_ONCE,
    cache: CacheOptions = CacheOptions(),
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Cache the features of the frames that a root's pairs use, a (take, camera) a unit.

    `squash_portrait` also caches portrait cameras at the landscape size, which training with the
    reference's behaviour reads. Raises DataError where the disk has too little room.
    """
    key = feature_key(backbone, weights, feature_precision=feature_precision)
    key = replace(key, stored=cache.stored)
    keys = {key.name: key}
    todo = units(root, key, every=cache.all_frames, quiet=run.quiet)
    if squash_portrait:
        squashed = replace(key, squash_portrait=True)
        keys[squashed.name] = squashed
        portrait = units(root, squashed, every=cache.all_frames, quiet=True)
        todo += [unit for unit in portrait if _is_portrait(root, unit)]
    how = FeatureJob(
        root, keys, weights, images_at_once, run.overwrite, threads=run.executor != "inline"
    )
    return run_stage(
        root,
        STAGE,
        todo,
        how.do,
        settings=key.settings,
        options=run,
        prepare=partial(_begin, how=how, run=run),
    )


def units(
    root: DatasetRoot, key: FeatureKey, *, every: bool = False, quiet: bool = True
) -> list[Unit]:
    """A unit for each camera that has frames which pairs use (or any, if `every`)."""
    read_manifest(root.require(), "frames", columns=[])  # raises where there is none
    chosen = ALL_FRAMES if every else needed_frames(root)
    if chosen.is_all and not every and not quiet:
        print_line(
            "features: the root has no pairs yet, so every frame is done; after `egoexo-tools "
            "pairs` only those that pairs use would be"
        )
    found = []
    for camera, there in sorted(existing_frames(root).items()):
        wanted = chosen.of(camera, there)
        if not wanted.size:
            continue
        output = root.features(key.name) / path_component(".".join(camera)) / cache_files.INDEX
        covered = cache_files.covered_frames(output.parent)
        is_incomplete = covered is not None and bool(np.setdiff1d(wanted, covered).size)
        found.append(
            Unit(
                (*camera, key.name),
                input_files(root, camera),
                (output,),
                frames=tuple(wanted.tolist()),
                is_incomplete=is_incomplete,
            )
        )
    if not found:
        raise DataError(
            f"no frame of {root.path} is used by its pairs; run `egoexo-tools frames` and "
            "`egoexo-tools pairs` again, or give --all-frames"
        )
    return found


@dataclass(frozen=True)
class FeatureJob:
    """How a unit is done."""

    root: DatasetRoot
    keys: Mapping[str, FeatureKey]
    weights: Path | None
    images_at_once: int
    overwrite: bool
    threads: bool
    """One process a core: more torch threads than one only get in the way."""

    def extractor(self, unit: Unit) -> Extractor:
        if self.threads:
            torch.set_num_threads(1)
        key = self.keys[unit.key[2]]
        return make_extractor(
            key.backbone,
            self.weights,
            feature_precision=key.feature_precision,
            squash_portrait=key.squash_portrait,
        )

    def do(self, unit: Unit) -> Mapping[str, int]:
        """Write the frames that are wanted and not there; returns counts of all that are."""
        folder, camera = unit.outputs[0].parent, (unit.key[0], unit.key[1])
        frames = load_frames(self.root, [camera])
        inputs = hash_files(unit.inputs)
        kept = None if self.overwrite else _kept(folder, frames)
        missing = _positions(frames, unit.frames)
        if kept is None:
            # Arrays without an index are nothing.
            unit.outputs[0].unlink(missing_ok=True)
            number, known = 0, np.empty(0, np.int64)
        else:
            number, known = len(kept.part.files), kept.positions
            missing = np.setdiff1d(missing, known)
        about = {"inputs": inputs, "stored": self.keys[unit.key[2]].stored}
        if missing.size:
            extractor = self.extractor(unit)
            cache_files.write_files(
                cache_files.added_folder(folder, number),
                frames,
                missing,
                extract_all(frames, missing, extractor, self.images_at_once),
                stored=about["stored"],
                about=about,
            )
            number += 1
        if kept is not None:
            first = {**kept.part.files[0].index, **about, "files": number}
            cache_files.write_index(folder, first)
        _remove_more(folder, number)
        return _counts(frames, np.union1d(known, missing))

    def time(self, unit: Unit) -> TimedBatch:
        """Of a batch that a unit lacks."""
        frames = load_frames(self.root, [(unit.key[0], unit.key[1])])
        extractor = self.extractor(unit)

        def work(some: Sequence[int]) -> int:
            at = np.array(some, np.int64)
            return len(list(extract_all(frames, at, extractor, self.images_at_once)))

        wanted = _positions(frames, unit.frames).tolist()
        return time_batch(wanted, work, self.images_at_once)


@dataclass(frozen=True)
class ExistingFeatures:
    """What of a camera's files is as it would be made now."""

    part: Part
    positions: Int64
    """In the FrameTable."""


def _kept(folder: Path, frames: FrameTable) -> ExistingFeatures | None:
    """None where nothing is there that could stay."""
    try:
        part = cache_files.read_part(folder)
    except DamagedCache:
        return None
    if part is None:
        return None
    frame_idx = frames.rows["frame_idx"].to_numpy(np.int64)
    there = part.rows(frame_idx)[:, 0] >= 0
    digests = part.digests(frame_idx)
    same = there & (digests == cache_files.frame_digests(frames, range(len(frames))))
    return ExistingFeatures(part, np.flatnonzero(same)) if same.any() else None


def _positions(frames: FrameTable, frame_idx: Sequence[int]) -> Int64:
    return np.flatnonzero(np.isin(frames.rows["frame_idx"].to_numpy(np.int64), frame_idx))


def _remove_more(folder: Path, count: int) -> None:
    """What is left of files that were added and are no longer told of."""
    for path in folder.glob("more-*"):
        if path not in {cache_files.added_folder(folder, number) for number in range(1, count)}:
            shutil.rmtree(path, ignore_errors=True)


def _counts(frames: FrameTable, which: Int64) -> dict[str, int]:
    masks, proposals = (np.diff(one.start)[which] for one in (frames.masks, frames.proposals))
    return {"frames": which.size, "masks": int(masks.sum()), "proposals": int(proposals.sum())}


def _is_portrait(root: DatasetRoot, unit: Unit) -> bool:
    sizes = read_manifest(
        root, "frames", columns=["height", "width"], units=[".".join(unit.key[:2])]
    ).to_pylist()
    return any(row["height"] > row["width"] for row in sizes)


def extract_all(
    frames: FrameTable, which: Int64, extractor: Extractor, images_at_once: int
) -> Iterator[FrameFeatures]:
    """Features of some frames in order; pictures are read in threads, a chunk ahead."""
    with ThreadPoolExecutor(READERS) as pool:
        read = partial(extractor.read, frames)
        starts = range(0, len(which), images_at_once)
        chunks = [which[at : at + images_at_once].tolist() for at in starts]
        waiting = [pool.submit(read, frame) for frame in (chunks[0] if chunks else ())]
        for number in range(len(chunks)):
            raws: list[RawFrame] = [future.result() for future in waiting]
            following = chunks[number + 1] if number + 1 < len(chunks) else ()
            waiting = [pool.submit(read, frame) for frame in following]
            yield from extractor(raws)


def _begin(
    todo: Sequence[Unit], submit: TaskSubmitter, *, how: FeatureJob, run: RunOptions
) -> None:
    """Once the disk has room for all of it: what the folders are of."""
    _price(todo, submit, how=how, run=run)
    with shared_files_lock(how.root.status_dir(STAGE)):
        for key in how.keys.values():
            path = how.root.features(key.name) / "settings.json"
            write_atomic(path, json.dumps(key.settings, indent=1) + "\n")


def _price(
    todo: Sequence[Unit], submit: TaskSubmitter, *, how: FeatureJob, run: RunOptions
) -> None:
    """What is to be done, by counting; and its time, by trying."""
    key = how.keys[todo[0].key[2]]
    # A backbone that cannot be built is one sentence here, not one for each unit.
    make_extractor(key.backbone, how.weights, feature_precision=key.feature_precision)
    bills = [_bill(how.root, how.keys[unit.key[2]], unit, run.overwrite) for unit in todo]
    price = CostEstimate(*(sum(column) for column in zip(*bills, strict=True)))
    if not run.quiet:
        sample = measure_sample(submit, how.time, todo[0])
        if sample is not None:
            seconds = (
                sample.seconds / sample.frames * price.frames / concurrent_units(run, len(todo))
            )
            price = replace(price, seconds=seconds)
    check_disk_space(STAGE, how.root.path, price, CURES, quiet=run.quiet)


def _bill(root: DatasetRoot, key: FeatureKey, unit: Unit, overwrite: bool) -> tuple[int, int, int]:
    """Frames to do, frames that are there, bytes to write; where proposals have changed since,
    more may have to be done."""
    camera = ".".join(unit.key[:2])
    covered = None if overwrite else cache_files.covered_frames(unit.outputs[0].parent)
    missing = np.setdiff1d(unit.frames, [] if covered is None else covered)
    rows = read_manifest(root, "frames", columns=["height", "width"], units=[camera]).slice(0, 1)
    (size,) = rows.to_pylist()
    grid = token_grid(size["height"], size["width"], key.preparation)
    masks = _rows_of(root, "masks", unit.key[0], unit.key[1], missing)
    proposals = _rows_of(root, "proposals", camera, unit.key[1], missing)
    needed = cache_files.bytes_of(
        grid[0] * grid[1], key.width, masks, proposals, missing.size, stored=key.stored
    )
    return missing.size, len(unit.frames) - missing.size, needed


def _rows_of(root: DatasetRoot, table: str, part: str, camera: str, frame_idx: Any) -> int:
    """Rows of a camera's frames in one part of a table, visible ones."""
    if not root.part(table, part).exists():
        return 0
    names = ["frame_idx", "camera", *(["visible"] if table == "masks" else [])]
    rows = read_manifest(root, table, columns=names, units=[part]).to_pandas()
    rows = rows[rows["camera"] == camera]
    rows = rows[rows["visible"]] if table == "masks" else rows
    return int(np.isin(rows["frame_idx"].to_numpy(), frame_idx).sum())
