"""The propose stage: candidate masks for the frames in which pairs look for their objects.

Reads the takes, frames and pairs manifests (and masks, for the oracle) and the frames' JPEGs;
writes the proposals manifest, one part per take and camera. A part says for which frames it was
made, and with what: where new pairs use further ones, these are added. Masks are RLEs at the
frame's size, the oracle's at the source's; boxes are x, y, w, h in the same pixels. Frames without
any proposal go to exclusions: a prediction there can only be "absent".
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import (
    SCHEMAS,
    read_manifest,
    to_table,
    write_exclusions,
    write_table,
)
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
from egoexo_tools.running.inputs import hash_files
from egoexo_tools.running.progress import print_line
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.vocab import Direction, view_of

STAGE = "propose"
_ABOUT = "egoexo_tools.propose"
"""Metadata of a part: settings, hash of inputs, the frames it was made for."""
_BYTES_PER_ROW = 100
"""Of a row beside its run lengths, at most: a part is compressed."""


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

    Raises SettingsError for options that the proposer has no use for, DataError for weights that
    are missing, and where the disk has too little room; a unit fails where weights are refused.
    """
    chosen = proposer_entry(proposer)
    settings = {"proposer": proposer, **chosen.settings(options)}
    if chosen.inline and run.executor == "process":
        run = replace(run, executor="inline")
    wanted = _wanted(root.require(), directions, all_frames, quiet=run.quiet)
    how = ProposalJob(root, proposer, options, settings, run.overwrite)
    return run_stage(
        root,
        STAGE,
        units(root, proposer=proposer, directions=directions, wanted=wanted),
        how.do,
        settings=settings,
        options=run,
        prepare=partial(_price, how=how, run=run),
    )


def units(
    root: DatasetRoot,
    *,
    proposer: str,
    directions: Sequence[Direction] = tuple(Direction),
    wanted: NeededFrames = ALL_FRAMES,
) -> list[Unit]:
    """One unit per take and destination camera that has frames which are wanted."""
    views = {direction.dest for direction in directions}
    takes = read_manifest(root, "takes", columns=["take_uid", "ego_camera", "exo_cameras"])
    there = existing_frames(root) if root.table("frames").is_dir() else {}
    found, cut = [], False
    for take in takes.to_pylist():
        take_uid = take["take_uid"]
        cameras = [take["ego_camera"], *(take["exo_cameras"] or [])]
        for camera in cameras:
            if camera is None or view_of(camera) not in views or (take_uid, camera) not in there:
                continue
            cut = True
            frames = wanted.of((take_uid, camera), there[take_uid, camera])
            if not frames.size:
                continue
            inputs = [root.part("frames", f"{take_uid}.{camera}")]
            if proposer_entry(proposer).needs_truth:
                inputs.append(root.part("masks", take_uid))
            output = root.part("proposals", f"{take_uid}.{camera}")
            done = _done_frames(output)
            is_incomplete = done is not None and not set(frames.tolist()) <= set(done)
            found.append(
                Unit(
                    (take_uid, camera),
                    tuple(inputs),
                    (output,),
                    frames=tuple(frames.tolist()),
                    is_incomplete=is_incomplete,
                )
            )
    if not found:
        cameras_text = f"frames of {' or '.join(sorted(views))} cameras"
        raise DataError(
            f"no pair of {root.path} has a destination among its {cameras_text}; run "
            "`egoexo-tools pairs` again, or give --all-frames"
            if cut
            else f"{root.path} has no {cameras_text}; run `egoexo-tools frames` first"
        )
    return found


def _wanted(
    root: DatasetRoot, directions: Sequence[Direction], every: bool, *, quiet: bool
) -> NeededFrames:
    if every:
        return ALL_FRAMES
    found = needed_frames(root, sides=["dest"], directions=directions)
    if found.is_all and not quiet:
        print_line(
            "propose: the root has no pairs yet, so every destination frame is done; after "
            "`egoexo-tools pairs` only those that pairs use would be"
        )
    return found


@dataclass(frozen=True)
class ProposalJob:
    """How a unit is done."""

    root: DatasetRoot
    proposer: str
    options: ProposerOptions
    settings: Mapping[str, Any]
    overwrite: bool

    def do(self, unit: Unit) -> dict[str, int]:
        """Propose in one camera's frames, beside what is there; returns counts of all."""
        made_from = {"settings": dict(self.settings), "inputs": hash_files(unit.inputs)}
        kept = ExistingProposals() if self.overwrite else _read_kept(self.root, unit, made_from)
        frames = self.frames(unit, without=kept.frames)
        found = self.propose(frames)
        rows = pa.concat_tables([kept.rows, _rows(unit, found, self.proposer)])
        rows = rows.sort_by([("frame_idx", "ascending"), ("proposal_idx", "ascending")])
        done = sorted({*kept.frames, *frames})
        cut_off = sorted({*kept.cut_off, *(idx for idx, one in found.items() if one.truncated)})
        empty = sorted(set(done) - set(rows["frame_idx"].to_pylist()))
        reason = f"the {self.proposer} proposer found no mask in this frame"
        key = {"take_uid": unit.key[0], "camera": unit.key[1], "reason": reason}
        left_out = [{**key, "frame_idx": frame_idx} for frame_idx in empty]
        write_exclusions(self.root, STAGE, unit.name, left_out)
        about = {**made_from, "frames": done, "cut_off": cut_off}
        write_table(
            unit.outputs[0], "proposals", rows, metadata={_ABOUT: json.dumps(about, sort_keys=True)}
        )
        return {
            "frames": len(done),
            "proposals": rows.num_rows,
            "frames_without_proposals": len(empty),
            "frames_with_proposals_cut_off": len(cut_off),
        }

    def frames(self, unit: Unit, *, without: Collection[int] = ()) -> dict[int, Frame]:
        """frame_idx → frame, of a unit's wanted ones, in order of time."""
        wanted = set(unit.frames) - set(without)
        if not wanted:
            return {}
        table = read_manifest(self.root, "frames", units=[unit.name])
        truth = _truth(self.root, unit) if proposer_entry(self.proposer).needs_truth else {}
        return {
            row["frame_idx"]: Frame(
                path=self.root.path / row["path"],
                height=row["height"],
                width=row["width"],
                truth=tuple(truth.get(row["frame_idx"], ())),
            )
            for row in table.sort_by("frame_idx").to_pylist()
            if row["frame_idx"] in wanted
        }

    def propose(self, frames: Mapping[int, Frame]) -> dict[int, FrameProposals]:
        """frame_idx → proposals, in batches of the proposer's size."""
        propose = _loaded(self.proposer, self.options)
        batch = proposer_entry(self.proposer).batch
        frame_idxs = list(frames)
        found: dict[int, FrameProposals] = {}
        for start in range(0, len(frame_idxs), batch):
            part = frame_idxs[start : start + batch]
            found.update(zip(part, propose([frames[idx] for idx in part]), strict=True))
        return found

    def time(self, unit: Unit) -> TimedBatch:
        """Of a batch that a unit wants."""
        frames = self.frames(unit)

        def work(some: Sequence[int]) -> int:
            found = self.propose({idx: frames[idx] for idx in some})
            rows = [one.rle.counts for every in found.values() for one in every.proposals]
            return sum(map(len, rows)) + _BYTES_PER_ROW * len(rows)

        return time_batch(list(frames), work, proposer_entry(self.proposer).batch)


@lru_cache(maxsize=1)
def _loaded(proposer: str, options: ProposerOptions) -> Proposer:
    """Kept between the units of a process: reading a network's weights takes seconds."""
    return proposer_entry(proposer).load(options)


@dataclass(frozen=True)
class ExistingProposals:
    """What an earlier run has proposed, with these settings, in these frames."""

    rows: pa.Table = field(default_factory=SCHEMAS["proposals"].empty_table)
    frames: tuple[int, ...] = ()
    """Those without any proposal among them."""
    cut_off: tuple[int, ...] = ()


def _read_kept(root: DatasetRoot, unit: Unit, made_from: Mapping[str, Any]) -> ExistingProposals:
    (path,) = unit.outputs
    about = _about(path)
    if about is None or any(about.get(name) != value for name, value in made_from.items()):
        return ExistingProposals()
    rows = read_manifest(root, "proposals", units=[unit.name])
    return ExistingProposals(rows, tuple(about["frames"]), tuple(about["cut_off"]))


def _about(path: Path) -> dict[str, Any] | None:
    """What a part says of itself; None of one that is not there, or of before parts did."""
    try:
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[_ABOUT.encode()])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    return found


def _done_frames(path: Path) -> list[int] | None:
    """The frames that a part was made for; None where it was made for all, or is not there."""
    about = _about(path)
    return None if about is None else list(about["frames"])


def _price(
    todo: Sequence[Unit], submit: TaskSubmitter, *, how: ProposalJob, run: RunOptions
) -> None:
    """What is to be done, by counting; its time and bytes, by trying."""
    done = [() if run.overwrite else _done_frames(unit.outputs[0]) or () for unit in todo]
    missing = sum(len({*unit.frames} - {*there}) for unit, there in zip(todo, done, strict=True))
    if run.quiet and missing < LARGE_JOB_FRAMES:
        return
    price = CostEstimate(missing, sum(len(unit.frames) for unit in todo) - missing, 0)
    if (sample := measure_sample(submit, how.time, todo[0])) is not None:
        each = sample.seconds / sample.frames
        price = replace(
            price,
            bytes=missing * sample.bytes // sample.frames,
            seconds=each * missing / concurrent_units(run, len(todo)),
        )
    cures = "choose fewer pairs (`egoexo-tools pairs --fraction`), or a larger disk"
    check_disk_space(STAGE, how.root.path, price, cures, quiet=run.quiet)


def _truth(root: DatasetRoot, unit: Unit) -> dict[int, list[MaskRle]]:
    take_uid, camera = unit.key
    visible = (pc.field("camera") == camera) & pc.field("visible")
    table = read_manifest(root, "masks", units=[take_uid], filters=visible)
    truth = defaultdict(list)
    for row in table.to_pylist():
        rle = mask_from_row(row)
        truth[row["frame_idx"]].append(rle)
    return truth


def _rows(unit: Unit, found: Mapping[int, FrameProposals], proposer: str) -> pa.Table:
    rows = [
        {
            "take_uid": unit.key[0],
            "camera": unit.key[1],
            "frame_idx": frame_idx,
            "proposal_idx": proposal_idx,
            "proposer": proposer,
            "score": proposal.score,
            **mask_to_row(proposal.rle),
            "area": proposal.rle.area(),
            "bbox_xywh": proposal.box_xywh or proposal.rle.box_xywh(),
        }
        for frame_idx, one in found.items()
        for proposal_idx, proposal in enumerate(one.proposals)
    ]
    return to_table("proposals", rows)
