"""The propose stage: candidate masks for the frames in which pairs look for their objects.

Reads the takes, frames and pairs manifests (and masks, for the oracle) and the frames' JPEGs;
writes the proposals manifest, one part per take and camera. A part records its settings, and its
frames with the digests of their inputs: only new and changed frames are processed. Masks are RLEs
at the frame's size, the oracle's at the source's; boxes are x, y, w, h in the same pixels. Frames
without a proposal are recorded in exclusions: the only possible prediction there is "absent".
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest, to_table, write_exclusions, write_table
from egoexo_tools.masks.columns import mask_from_row, mask_to_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.needed_frames import ALL_FRAMES, NeededFrames, existing_frames, needed_frames
from egoexo_tools.proposers.base import Frame, FrameProposals, Proposer, ProposerOptions
from egoexo_tools.proposers.registry import proposer_entry
from egoexo_tools.running.disk_cost import (
    LARGE_JOB_FRAMES,
    CostEstimate,
    TimedBatch,
    check_disk_space,
    concurrent_units,
    measure_sample,
    time_batch,
)
from egoexo_tools.running.executors import TaskSubmitter
from egoexo_tools.running.inputs import hash_files, hash_texts
from egoexo_tools.running.owned_files import Ownership, is_of_takes
from egoexo_tools.running.pictures import changed_pictures, check_pictures
from egoexo_tools.running.progress import print_line
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.vocab import Direction, view_of

STAGE = "propose"
_METADATA_KEY = "egoexo_tools.proposed_frames"
"""Metadata of a part: its settings, and its frames with the digests of their inputs."""
_BYTES_PER_ROW = 100
"""Upper limit for a row without its run lengths; a part is compressed."""


def run_propose(
    root: DatasetRoot,
    *,
    proposer: str = "regions",
    options: ProposerOptions = ProposerOptions(),
    directions: Sequence[Direction] = tuple(Direction),
    all_frames: bool = False,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Propose masks in the destination views of `directions`, in the frames that pairs use.

    Raises SettingsError for options that the proposer does not have, and DataError for missing
    weights or too little disk space. A unit fails where the weights cannot be loaded.
    """
    entry = proposer_entry(proposer)
    settings = {"proposer": proposer, **entry.settings(options)}
    # A network on the GPU is loaded once; every worker process would load a copy.
    if entry.inline and run.executor == "process":
        run = replace(run, executor="inline")
    needed = ALL_FRAMES
    if not all_frames:
        needed = needed_frames(root.require(), sides=["dest"], directions=directions)
        if needed.is_all and not run.quiet:
            print_line(
                "propose: the root has no pairs yet, so all destination frames are processed; "
                "after `egoexo-tools pairs` only the frames of pairs would be"
            )
    job = ProposalJob(root, proposer, options, settings, run.overwrite)
    todo = units(root.require(), proposer=proposer, directions=directions, needed=needed)
    takes = {path.stem for path in root.table("takes").glob("*.parquet")}
    return run_stage(
        root,
        STAGE,
        todo,
        job.propose_unit,
        settings=settings,
        options=run,
        prepare=partial(job.check_cost, run=run),
        owned=Ownership(root.path, lambda status: not is_of_takes(status.unit, takes)),
    )


def units(
    root: DatasetRoot,
    *,
    proposer: str,
    directions: Sequence[Direction] = tuple(Direction),
    needed: NeededFrames = ALL_FRAMES,
) -> list[Unit]:
    """One unit per take and destination camera with needed frames."""
    views = {direction.dest for direction in directions}
    takes = read_manifest(root, "takes", columns=["take_uid", "ego_camera", "exo_cameras"])
    existing = existing_frames(root) if root.table("frames").is_dir() else {}
    changed = changed_pictures(root)
    todo, has_frames = [], False
    for take in takes.to_pylist():
        take_uid = take["take_uid"]
        for camera in [take["ego_camera"], *(take["exo_cameras"] or [])]:
            if camera is None or view_of(camera) not in views or (take_uid, camera) not in existing:
                continue
            has_frames = True
            frames = needed.of((take_uid, camera), existing[take_uid, camera]).tolist()
            if not frames:
                continue
            inputs = [root.part("frames", f"{take_uid}.{camera}")]
            if proposer_entry(proposer).needs_truth:
                inputs.append(root.part("masks", take_uid))
            output = root.part("proposals", f"{take_uid}.{camera}")
            record = _read_record(output)
            unit = Unit((take_uid, camera), tuple(inputs), (output,), frames=tuple(frames))
            has_all = record is None or {*map(str, frames)} <= {*record["frames"]}
            todo.append(replace(unit, is_incomplete=not has_all or unit.name in changed))
    if not todo:
        cameras_text = f"frames of {' or '.join(sorted(views))} cameras"
        raise DataError(
            f"no pair of {root.path} has a destination among its {cameras_text}; run "
            "`egoexo-tools pairs` again, or give --all-frames"
            if has_frames
            else f"{root.path} has no {cameras_text}; run `egoexo-tools frames` first"
        )
    return todo


@dataclass(frozen=True)
class ProposalJob:
    """A proposer with its options, at work on a root."""

    root: DatasetRoot
    proposer: str
    options: ProposerOptions
    settings: Mapping[str, Any]
    overwrite: bool

    def propose_unit(self, unit: Unit) -> dict[str, int]:
        """Propose in a unit's new and changed frames; returns counts of all frames."""
        check_pictures(self.root, unit.name)
        digests = self.frame_digests(unit)
        existing, existing_cut_off = self.current_frames(unit, digests)
        rows = SCHEMAS["proposals"].empty_table()
        if existing:
            current = pc.field("frame_idx").isin(sorted(existing))
            rows = read_manifest(self.root, "proposals", units=[unit.name], filters=current)
        frames = self.read_frames(unit, without=existing)
        proposals = self.propose(frames)
        rows = pa.concat_tables([rows, self._rows(unit, proposals)])
        rows = rows.sort_by([("frame_idx", "ascending"), ("proposal_idx", "ascending")])
        frame_idxs = sorted({*existing, *frames})
        truncated = {idx for idx, of_frame in proposals.items() if of_frame.truncated}
        cut_off = sorted(existing_cut_off | truncated)
        empty = sorted({*frame_idxs} - {*rows["frame_idx"].to_pylist()})
        reason = f"the {self.proposer} proposer found no mask in this frame"
        key = {"take_uid": unit.key[0], "camera": unit.key[1], "reason": reason}
        exclusions = [{**key, "frame_idx": frame_idx} for frame_idx in empty]
        write_exclusions(self.root, STAGE, unit.name, exclusions)
        record = {
            "settings": dict(self.settings),
            "frames": {str(idx): digests[idx] for idx in frame_idxs},
            "cut_off": cut_off,
        }
        metadata = {_METADATA_KEY: json.dumps(record, sort_keys=True)}
        write_table(unit.outputs[0], "proposals", rows, metadata=metadata)
        return {
            "frames": len(frame_idxs),
            "proposals": rows.num_rows,
            "frames_without_proposals": len(empty),
            "frames_with_proposals_cut_off": len(cut_off),
        }

    def frame_digests(self, unit: Unit) -> dict[int, str]:
        """frame_idx → digest of what its proposals depend on: the picture, or all masks."""
        truth = hash_files(unit.inputs[1:])
        columns = ["frame_idx", "height", "width", "digest"]
        rows = read_manifest(self.root, "frames", columns=columns, units=[unit.name]).to_pylist()
        return {row["frame_idx"]: hash_texts([truth, *map(str, row.values())]) for row in rows}

    def current_frames(self, unit: Unit, digests: Mapping[int, str]) -> tuple[set[int], set[int]]:
        """The frames of a part that are still right, and those of them that were cut off."""
        record = None if self.overwrite else _read_record(unit.outputs[0])
        if record is None or record["settings"] != dict(self.settings):
            return set(), set()
        frames = {int(idx) for idx, of in record["frames"].items() if digests.get(int(idx)) == of}
        return frames, frames & {*record["cut_off"]}

    def read_frames(self, unit: Unit, *, without: Collection[int] = ()) -> dict[int, Frame]:
        """frame_idx → frame of a unit, ascending."""
        frame_idxs = set(unit.frames) - set(without)
        if not frame_idxs:
            return {}
        truth: dict[int, list[MaskRle]] = defaultdict(list)
        if proposer_entry(self.proposer).needs_truth:
            take_uid, camera = unit.key
            visible = (pc.field("camera") == camera) & pc.field("visible")
            masks = read_manifest(self.root, "masks", units=[take_uid], filters=visible)
            for row in masks.to_pylist():
                truth[row["frame_idx"]].append(mask_from_row(row))
        table = read_manifest(self.root, "frames", units=[unit.name])
        return {
            row["frame_idx"]: Frame(
                path=self.root.path / row["path"],
                height=row["height"],
                width=row["width"],
                truth=tuple(truth[row["frame_idx"]]),
            )
            for row in table.sort_by("frame_idx").to_pylist()
            if row["frame_idx"] in frame_idxs
        }

    def propose(self, frames: Mapping[int, Frame]) -> dict[int, FrameProposals]:
        """frame_idx → proposals, in batches of the proposer's size."""
        propose = _load_proposer(self.proposer, self.options)
        batch_size = proposer_entry(self.proposer).batch
        frame_idxs = list(frames)
        proposals: dict[int, FrameProposals] = {}
        for start in range(0, len(frame_idxs), batch_size):
            batch = frame_idxs[start : start + batch_size]
            proposals.update(zip(batch, propose([frames[idx] for idx in batch]), strict=True))
        return proposals

    def time_unit(self, unit: Unit) -> TimedBatch:
        """Measure the first batch of a unit."""
        frames = self.read_frames(unit)

        def work(batch: Sequence[int]) -> int:
            proposals = self.propose({idx: frames[idx] for idx in batch})
            sizes = [len(p.rle.counts) for of in proposals.values() for p in of.proposals]
            return sum(sizes) + _BYTES_PER_ROW * len(sizes)

        return time_batch(list(frames), work, proposer_entry(self.proposer).batch)

    def check_cost(self, todo: Sequence[Unit], submit: TaskSubmitter, *, run: RunOptions) -> None:
        """Count the frames to process, estimate time and bytes from a batch, check the disk."""
        missing = 0
        for unit in todo:
            existing, _ = self.current_frames(unit, self.frame_digests(unit))
            missing += len({*unit.frames} - existing)
        if run.quiet and missing < LARGE_JOB_FRAMES:
            return
        cost = CostEstimate(missing, sum(len(unit.frames) for unit in todo) - missing, 0)
        if (timed := measure_sample(submit, self.time_unit, todo[0])) is not None:
            seconds = timed.seconds / timed.frames * missing
            cost = replace(
                cost,
                bytes=missing * timed.bytes // timed.frames,
                seconds=seconds / concurrent_units(run, len(todo)),
            )
        advice = "choose fewer pairs (`egoexo-tools pairs --fraction`), or a larger disk"
        check_disk_space(STAGE, self.root.path, cost, advice, quiet=run.quiet)

    def _rows(self, unit: Unit, proposals: Mapping[int, FrameProposals]) -> pa.Table:
        rows = [
            {
                "take_uid": unit.key[0],
                "camera": unit.key[1],
                "frame_idx": frame_idx,
                "proposal_idx": proposal_idx,
                "proposer": self.proposer,
                "score": proposal.score,
                **mask_to_row(proposal.rle),
                "area": proposal.rle.area(),
                "bbox_xywh": proposal.box_xywh or proposal.rle.box_xywh(),
            }
            for frame_idx, of_frame in proposals.items()
            for proposal_idx, proposal in enumerate(of_frame.proposals)
        ]
        return to_table("proposals", rows)


@lru_cache(maxsize=1)
def _load_proposer(proposer: str, options: ProposerOptions) -> Proposer:
    """Cached for the units of a process: reading a network's weights takes seconds."""
    return proposer_entry(proposer).load(options)


def _read_record(path: Path) -> Json | None:
    """How a part was made; None if it does not exist or was imported."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        record: Json = json.loads(metadata[_METADATA_KEY.encode()])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    return record
