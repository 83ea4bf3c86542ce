"""The propose stage: candidate masks for every kept frame of a destination camera.

Reads the takes and frames manifests (and masks, for the oracle) and the frames' JPEGs; writes the
proposals manifest, one part per take and camera. Masks are RLEs at the frame's size, the oracle's
at the source's; boxes are x, y, w, h in the same pixels. Frames without any proposal go to
exclusions: a prediction there can only be "absent".
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pyarrow.compute as pc

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.masks.columns import mask_fields, row_mask
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers.base import Frame, FrameProposals, Proposal, Proposer, ProposerOptions
from egoexo_tools.proposers.registry import entry
from egoexo_tools.running.stage import RunOptions, StageSummary, Unit, run_stage
from egoexo_tools.vocab import Direction, view_of

STAGE = "propose"


def run_propose(
    root: DatasetRoot,
    *,
    proposer: str = "regions",
    options: ProposerOptions = ProposerOptions(),
    directions: Sequence[Direction] = tuple(Direction),
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Propose masks in the destination views of `directions`.

    Raises SettingsError for options that the proposer has no use for, DataError for weights that
    are missing; a unit fails where they are refused.
    """
    chosen = entry(proposer)
    settings = {"proposer": proposer, **chosen.settings(options)}
    if chosen.inline and run.executor == "process":
        run = replace(run, executor="inline")
    return run_stage(
        root,
        STAGE,
        units(root.require(), proposer=proposer, directions=directions),
        partial(work, root=root, proposer=proposer, options=options),
        settings=settings,
        options=run,
    )


def units(
    root: DatasetRoot, *, proposer: str, directions: Sequence[Direction] = tuple(Direction)
) -> list[Unit]:
    """One unit per take and destination camera that has frames."""
    views = {direction.dest for direction in directions}
    takes = read_manifest(root, "takes", columns=["take_uid", "ego_camera", "exo_cameras"])
    found = []
    for take in takes.to_pylist():
        take_uid = take["take_uid"]
        cameras = [take["ego_camera"], *(take["exo_cameras"] or [])]
        for camera in cameras:
            if camera is None or view_of(camera) not in views:
                continue
            frames = root.part("frames", f"{take_uid}.{camera}")
            if not frames.exists():
                continue
            inputs = [frames]
            if entry(proposer).needs_truth:
                inputs.append(root.part("masks", take_uid))
            output = root.part("proposals", f"{take_uid}.{camera}")
            found.append(Unit((take_uid, camera), tuple(inputs), (output,)))
    if not found:
        raise DataError(
            f"{root.path} has no frames of {' or '.join(sorted(views))} cameras; "
            "run `egoexo-tools frames` first"
        )
    return found


def work(
    unit: Unit, *, root: DatasetRoot, proposer: str, options: ProposerOptions
) -> dict[str, int]:
    """Propose in one camera's frames; returns counts of frames and proposals."""
    frames = _frames(root, unit, with_truth=entry(proposer).needs_truth)
    found = _found(frames, proposer, options)
    rows = [
        _row(unit, frame_idx, proposal_idx, proposer, proposal)
        for frame_idx in frames
        for proposal_idx, proposal in enumerate(found[frame_idx].proposals)
    ]
    empty = [frame_idx for frame_idx in frames if not found[frame_idx].proposals]
    write_exclusions(
        root,
        STAGE,
        unit.name,
        [
            {
                "take_uid": unit.key[0],
                "camera": unit.key[1],
                "frame_idx": frame_idx,
                "reason": f"the {proposer} proposer found no mask in this frame",
            }
            for frame_idx in empty
        ],
    )
    write_manifest(root, "proposals", unit.name, rows)
    return {
        "frames": len(frames),
        "proposals": len(rows),
        "frames_without_proposals": len(empty),
        "frames_with_proposals_cut_off": sum(found[idx].truncated for idx in frames),
    }


def _found(
    frames: Mapping[int, Frame], proposer: str, options: ProposerOptions
) -> dict[int, FrameProposals]:
    """frame_idx → proposals, in batches of the proposer's size."""
    propose = _loaded(proposer, options)
    batch = entry(proposer).batch
    frame_idxs = list(frames)
    found: dict[int, FrameProposals] = {}
    for start in range(0, len(frame_idxs), batch):
        part = frame_idxs[start : start + batch]
        found.update(zip(part, propose([frames[idx] for idx in part]), strict=True))
    return found


@lru_cache(maxsize=1)
def _loaded(proposer: str, options: ProposerOptions) -> Proposer:
    """Kept between the units of a process: reading a network's weights takes seconds."""
    return entry(proposer).load(options)


def _frames(root: DatasetRoot, unit: Unit, *, with_truth: bool) -> dict[int, Frame]:
    """frame_idx → frame, of one camera, in order of time."""
    table = read_manifest(root, "frames", units=[unit.name])
    truth = _truth(root, unit) if with_truth else {}
    return {
        row["frame_idx"]: Frame(
            path=root.path / row["path"],
            height=row["height"],
            width=row["width"],
            truth=tuple(truth.get(row["frame_idx"], ())),
        )
        for row in table.sort_by("frame_idx").to_pylist()
    }


def _truth(root: DatasetRoot, unit: Unit) -> dict[int, list[MaskRle]]:
    take_uid, camera = unit.key
    visible = (pc.field("camera") == camera) & pc.field("visible")
    table = read_manifest(root, "masks", units=[take_uid], filters=visible)
    truth = defaultdict(list)
    for row in table.to_pylist():
        rle = row_mask(row)
        truth[row["frame_idx"]].append(rle)
    return truth


def _row(
    unit: Unit, frame_idx: int, proposal_idx: int, proposer: str, proposal: Proposal
) -> dict[str, Any]:
    rle = proposal.rle
    return {
        "take_uid": unit.key[0],
        "camera": unit.key[1],
        "frame_idx": frame_idx,
        "proposal_idx": proposal_idx,
        "proposer": proposer,
        "score": proposal.score,
        **mask_fields(rle),
        "area": rle.area(),
        "bbox_xywh": proposal.box_xywh or rle.box_xywh(),
    }
