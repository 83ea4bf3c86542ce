"""The best proposal of each sample, against every IoU of its frame."""

from pathlib import Path

import numpy as np
import pytest

from egoexo_tools.evaluation.align import Problems, TakeSamples, match_take
from egoexo_tools.evaluation.ceilings import add_ceilings
from egoexo_tools.evaluation.scoring import score_take
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Protocol

EGO, EXO = "aria01_214-1", "cam01"
HW = (24, 30)


def some_rles(rng: np.random.Generator, count: int) -> list[MaskRle]:
    return [MaskRle.encode(rng.random(HW) < share) for share in rng.random(count)]


def two_objects(rng: np.random.Generator) -> TakeSamples:
    """A cup and a lid, both seen in frames 0, 30 and 60: tracks lie one after the other."""
    return TakeSamples(
        take_uid="take",
        object_names=["cup"] * 3 + ["lid"] * 3,
        source_cameras=[EGO] * 6,
        dest_cameras=[EXO] * 6,
        frame_idxs=np.array([0, 30, 60] * 2),
        confidences=np.ones(6),
        predicted=MaskColumns.from_rles(some_rles(rng, 6)),
        truth=MaskColumns.from_rles(some_rles(rng, 6)),
        ranked=[[3, 1], [0], None, [2], [9], [1, 2, 3]],
        expected=6,
        unannotated=0,
    )


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_ceilings_are_the_best_of_all_ious(tmp_path: Path, is_shuffled: bool) -> None:
    rng = np.random.default_rng(5)
    samples = two_objects(rng)
    rows = [
        {
            "take_uid": "take",
            "camera": EXO,
            "frame_idx": frame_idx,
            "proposal_idx": proposal_idx,
            "rle_height": rle.height,
            "rle_width": rle.width,
            "rle_counts": rle.counts,
            "area": rle.area(),
            "bbox_xywh": rle.box_xywh(),
            "score": 0.5,
            "proposer": "regions",
        }
        for frame_idx in (0, 15, 30, 60)  # nobody asks for 15
        for proposal_idx, rle in enumerate(some_rles(rng, 4))
    ]
    order = rng.permutation(len(rows)) if is_shuffled else range(len(rows))
    root = DatasetRoot(tmp_path)
    write_manifest(root, "proposals", f"take.{EXO}", [rows[i] for i in order])
    scores, groups = score_take(samples, protocol=Protocol.OMAMA, resize=False, problems=Problems())
    found = add_ceilings(root, samples, groups, scores).to_pylist()
    for i, row in enumerate(found):
        truth = samples.truth.rle(i)
        ious = {
            other["proposal_idx"]: truth.iou(
                MaskRle(other["rle_height"], other["rle_width"], other["rle_counts"])
            )
            for other in rows
            if other["frame_idx"] == samples.frame_idxs[i]
        }
        best = max(ious, key=lambda number: ious[number])
        assert row["oracle_proposal_idx"] == best
        assert row["oracle_iou"] == pytest.approx(ious[best], abs=1e-6)
        kept = [ious[number] for number in samples.ranked[i] or [] if number in ious]
        assert row["top5_iou"] == pytest.approx(max(kept) if kept else None, abs=1e-6)


def test_every_pair_of_cameras_is_expected() -> None:
    rle = MaskRle(2, 3, "6").to_json()
    frames = {"0": rle, "30": rle}
    truth = {
        "masks": {"cup": {EGO: frames, EXO: frames, "cam02": frames}},
        "annotated_frames": {"cup": {EGO: [0, 30], EXO: [0, 30], "cam02": [0, 30]}},
    }
    entries = {key: {"pred_mask": rle, "confidence": 1.0} for key in frames}
    problems = Problems()
    samples = match_take(
        "take",
        truth,
        {"cup": {f"{EGO}_{EXO}": entries}},
        direction=Direction.EGO2EXO,
        protocol=Protocol.OFFICIAL,
        problems=problems,
    )
    assert (len(samples), samples.expected) == (2, 4)
    assert problems.counts == {"missing_pair": 1}
