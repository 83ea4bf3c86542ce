"""The stage `features`: features of a frozen backbone, on disk, for the frames that pairs use.

The files are in `<root>/features/<key>/`; `omama/features/cache_files.py` describes and reads them.
The key (see `omama.features.key`) names the backbone and a hash of its weights, precision,
preparation and format, so that the features of two backbones have separate folders and cannot be
confused. Tokens of another image size than training uses cost the known study 0.12 IoU: here a
cache that does not fit is refused with a message. Features that were made from the same masks and
proposals are kept; frames that new pairs need are added.
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

from egoexo_tools.aliases import Row
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
from egoexo_tools.running.pictures import changed_pictures, check_pictures
from egoexo_tools.running.progress import print_line
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from omama.dataset import FrameTable
from omama.features import cache_files
from omama.features.cache_files import CameraFeatures, DamagedCache, input_files
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
from omama.tables.parquet import load_frames

STAGE = "features"
ADVICE = (
    "choose fewer pairs (`egoexo-tools pairs --fraction`), give --cache-precision int8 (half), "
    "or --descriptors-only (a fifteenth, for k-NN), or a larger disk"
)


@dataclass(frozen=True)
class CacheOptions:
    """Frames and values that a cache keeps."""

    all_frames: bool = False
    """Cache every frame, not only the frames that the root's pairs use."""
    precision: str = "fp16"
    """Number format of a token's values, one of CACHE_PRECISIONS."""
    descriptors_only: bool = False
    """Keep no tokens, only the descriptors that k-NN compares."""

    @property
    def storage(self) -> str:
        """FeatureKey's `stored`. SettingsError for an impossible combination."""
        if self.precision not in CACHE_PRECISIONS:
            allowed = " or ".join(CACHE_PRECISIONS)
            raise SettingsError(f"cache precision {self.precision!r}; use {allowed}")
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
    """Cache the features of the frames that a root's pairs use; a unit is one (take, camera).

    `squash_portrait` also caches portrait cameras at the landscape size, which training with the
    reference's behaviour reads. Raises DataError if the disk has too little room.
    """
    key = feature_key(backbone, weights, feature_precision=feature_precision)
    key = replace(key, stored=cache.storage)
    keys = {key.name: key}
    # Landscape frames are equal in both keys, so only portrait cameras get squashed features.
    pending = units(root, key, every=cache.all_frames, quiet=run.quiet)
    if squash_portrait:
        squashed = replace(key, squash_portrait=True)
        keys[squashed.name] = squashed
        pending += [
            unit
            for unit in units(root, squashed, every=cache.all_frames, quiet=True)
            if any(row["height"] > row["width"] for row in _frame_sizes(root, unit))
        ]
    job = FeatureJob(
        root, keys, weights, images_at_once, run.overwrite, threads=run.executor != "inline"
    )
    return run_stage(
        root,
        STAGE,
        pending,
        job.do,
        settings=key.settings,
        options=run,
        prepare=partial(_prepare, job=job, run=run),
    )


def units(
    root: DatasetRoot, key: FeatureKey, *, every: bool = False, quiet: bool = True
) -> list[Unit]:
    """A unit for each camera that has frames which pairs use (or any frames, if `every`)."""
    read_manifest(root.require(), "frames", columns=[])  # raises if there is none
    needed = ALL_FRAMES if every else needed_frames(root)
    if needed.is_all and not every and not quiet:
        print_line(
            "features: the root has no pairs yet, so every frame is done; after `egoexo-tools "
            "pairs` only the frames that pairs use would be"
        )
    changed = changed_pictures(root)
    result = []
    for camera, existing in sorted(existing_frames(root).items()):
        frame_idxs = needed.of(camera, existing)
        if not frame_idxs.size:
            continue
        index = root.features(key.name) / path_component(".".join(camera)) / cache_files.INDEX
        covered = cache_files.covered_frames(index.parent)
        has_all = covered is None or not np.setdiff1d(frame_idxs, covered).size
        result.append(
            Unit(
                (*camera, key.name),
                input_files(root, camera),
                (index,),
                frames=tuple(frame_idxs.tolist()),
                is_incomplete=not has_all or ".".join(camera) in changed,
            )
        )
    if not result:
        raise DataError(
            f"no frame of {root.path} is used by its pairs; run `egoexo-tools frames` and "
            "`egoexo-tools pairs` again, or give --all-frames"
        )
    return result


@dataclass(frozen=True)
class FeatureJob:
    """Everything that the units of a run share; `do` is the stage's work."""

    root: DatasetRoot
    keys: Mapping[str, FeatureKey]
    """Key by its name, which is the last part of a unit's key."""
    weights: Path | None
    images_at_once: int
    overwrite: bool
    threads: bool
    """Units run side by side, one a core: then more than one torch thread slows them down."""

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
        """Write the needed frames that are missing; returns counts of all that are there then."""
        folder, camera = unit.outputs[0].parent, (unit.key[0], unit.key[1])
        check_pictures(self.root, ".".join(camera))
        inputs = hash_files(unit.inputs)
        frames = load_frames(self.root, [camera])
        reusable = None if self.overwrite else _reusable_features(folder, frames)
        missing = _positions(frames, unit.frames)
        if reusable is None:
            # Without an index the arrays count as absent, whenever this is interrupted.
            unit.outputs[0].unlink(missing_ok=True)
            number, existing = 0, np.empty(0, np.int64)
        else:
            number, existing = len(reusable.camera.files), reusable.positions
            missing = np.setdiff1d(missing, existing)
        key = self.keys[unit.key[2]]
        provenance = {"inputs": inputs, "stored": key.stored}
        # Nothing is missing if only the manifests' digest has changed: then the index is rewritten.
        if missing.size:
            cache_files.write_files(
                cache_files.added_folder(folder, number),
                frames,
                missing,
                extract_all(frames, missing, self.extractor(unit), self.images_at_once),
                storage=key.stored,
                provenance=provenance,
            )
            number += 1
        if reusable is not None:
            first = {**reusable.camera.files[0].index, **provenance, "files": number}
            cache_files.write_index(folder, first)
        current_folders = {cache_files.added_folder(folder, count) for count in range(1, number)}
        for path in (
            set(folder.glob("more-*")) - current_folders
        ):  # left by an interrupted or replaced run
            shutil.rmtree(path, ignore_errors=True)
        positions = np.union1d(existing, missing)
        masks, proposals = (
            int(np.diff(masks.start)[positions].sum()) for masks in (frames.masks, frames.proposals)
        )
        return {"frames": positions.size, "masks": masks, "proposals": proposals}

    def time(self, unit: Unit) -> TimedBatch:
        """Time a batch of the unit's frames; the features are thrown away."""
        frames = load_frames(self.root, [(unit.key[0], unit.key[1])])
        extractor = self.extractor(unit)

        def work(batch: Sequence[int]) -> int:
            positions = np.array(batch, np.int64)
            return len(list(extract_all(frames, positions, extractor, self.images_at_once)))

        positions = _positions(frames, unit.frames).tolist()
        return time_batch(positions, work, self.images_at_once)


@dataclass(frozen=True)
class ExistingFeatures:
    """Features of a camera that would be equal if they were made now."""

    camera: CameraFeatures
    positions: Int64
    """Their frames' positions in the FrameTable."""


def extract_all(
    frames: FrameTable, positions: Int64, extractor: Extractor, images_at_once: int
) -> Iterator[FrameFeatures]:
    """Features of some frames in order; threads read the pictures one batch ahead."""
    with ThreadPoolExecutor(READERS) as pool:
        read = partial(extractor.read, frames)
        starts = range(0, len(positions), images_at_once)
        batches = [positions[start : start + images_at_once].tolist() for start in starts]
        futures = [pool.submit(read, frame) for frame in (batches[0] if batches else ())]
        for number in range(len(batches)):
            # The next batch is submitted before the backbone runs, so that both overlap.
            raws: list[RawFrame] = [future.result() for future in futures]
            following = batches[number + 1] if number + 1 < len(batches) else ()
            futures = [pool.submit(read, frame) for frame in following]
            yield from extractor(raws)


def _reusable_features(folder: Path, frames: FrameTable) -> ExistingFeatures | None:
    """The features that can stay; None if the camera has none, or if its files are damaged."""
    try:
        camera = cache_files.read_camera(folder)
    except DamagedCache:
        return None
    if camera is None:
        return None
    frame_idx = frames.rows["frame_idx"].to_numpy(np.int64)
    digests = cache_files.frame_digests(frames, range(len(frames)))
    same = camera.digests(frame_idx) == digests
    return ExistingFeatures(camera, np.flatnonzero(same)) if same.any() else None


def _positions(frames: FrameTable, frame_idx: Sequence[int]) -> Int64:
    return np.flatnonzero(np.isin(frames.rows["frame_idx"].to_numpy(np.int64), frame_idx))


def _prepare(
    pending: Sequence[Unit], submit: TaskSubmitter, *, job: FeatureJob, run: RunOptions
) -> None:
    """Check that the disk has room; then write each cache folder's settings."""
    key = job.keys[pending[0].key[2]]
    # A backbone that cannot be built is one error here, not one for each unit.
    make_extractor(key.backbone, job.weights, feature_precision=key.feature_precision)
    counts = [_count(job.root, job.keys[unit.key[2]], unit, run.overwrite) for unit in pending]
    estimate = CostEstimate(*(sum(column) for column in zip(*counts, strict=True)))
    if not run.quiet:
        sample = measure_sample(submit, job.time, pending[0])
        if sample is not None:
            seconds = sample.seconds / sample.frames * estimate.frames
            estimate = replace(estimate, seconds=seconds / concurrent_units(run, len(pending)))
    check_disk_space(STAGE, job.root.path, estimate, ADVICE, quiet=run.quiet)
    with shared_files_lock(job.root.status_dir(STAGE)):
        for key in job.keys.values():
            path = job.root.features(key.name) / "settings.json"
            write_atomic(path, json.dumps(key.settings, indent=1) + "\n")


def _count(root: DatasetRoot, key: FeatureKey, unit: Unit, overwrite: bool) -> tuple[int, int, int]:
    """Frames to do, frames that exist, bytes to write. Frames whose proposals have changed count as
    existing here: to find them takes as long as reading all masks."""
    take_uid, camera, _ = unit.key
    covered = None if overwrite else cache_files.covered_frames(unit.outputs[0].parent)
    missing = np.setdiff1d(unit.frames, [] if covered is None else covered)
    size = _frame_sizes(root, unit)[0]  # a camera's frames have one size
    grid = token_grid(size["height"], size["width"], key.preparation)
    masks = _count_rows(root, "masks", take_uid, camera, missing)
    proposals = _count_rows(root, "proposals", f"{take_uid}.{camera}", camera, missing)
    size_bytes = cache_files.bytes_of(
        grid[0] * grid[1], key.width, masks, proposals, missing.size, storage=key.stored
    )
    return missing.size, len(unit.frames) - missing.size, size_bytes


def _frame_sizes(root: DatasetRoot, unit: Unit) -> list[Row]:
    """Height and width of the camera's frames."""
    table = read_manifest(
        root, "frames", columns=["height", "width"], units=[".".join(unit.key[:2])]
    )
    rows: list[Row] = table.to_pylist()
    return rows


def _count_rows(root: DatasetRoot, table: str, part: str, camera: str, frame_idx: Any) -> int:
    """Number of visible rows of a camera's frames in one part of a table."""
    if not root.part(table, part).exists():
        return 0
    names = ["frame_idx", "camera", *(["visible"] if table == "masks" else [])]
    rows = read_manifest(root, table, columns=names, units=[part]).to_pandas()
    rows = rows[rows["camera"] == camera]
    rows = rows[rows["visible"]] if table == "masks" else rows
    return int(np.isin(rows["frame_idx"].to_numpy(), frame_idx).sum())
