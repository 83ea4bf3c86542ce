"""The best proposal of each sample, against every IoU of its frame."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from tiny_predictions import TAKE
from tiny_root import EGO

from egoexo_tools.evaluation.align import Problems, TakeSamples
from egoexo_tools.evaluation.ceilings import add_ceilings
from egoexo_tools.evaluation.evaluate import evaluate
from egoexo_tools.evaluation.scoring import score_take
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest, write_table
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Protocol

EXO = "cam01"
HW = (24, 30)


def random_rles(rng: np.random.Generator, count: int) -> list[MaskRle]:
    return [MaskRle.encode(rng.random(HW) < share) for share in rng.random(count)]


def samples_of_two_objects(rng: np.random.Generator) -> TakeSamples:
    """A cup and a lid, both visible in frames 0, 30 and 60, one track after the other."""
    return TakeSamples(
        take_uid="take",
        object_names=["cup"] * 3 + ["lid"] * 3,
        source_cameras=[EGO] * 6,
        dest_cameras=[EXO] * 6,
        frame_idxs=np.array([0, 30, 60] * 2),
        confidences=np.ones(6),
        predicted=MaskColumns.from_rles(random_rles(rng, 6)),
        truth=MaskColumns.from_rles(random_rles(rng, 6)),
        ranked=[[3, 1], [0], None, [2], [9], [1, 2, 3]],
        expected=6,
        unannotated=0,
    )


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_ceilings_are_the_best_of_all_ious(tmp_path: Path, is_shuffled: bool) -> None:
    rng = np.random.default_rng(5)
    samples = samples_of_two_objects(rng)
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
        for frame_idx in (0, 15, 30, 60)  # no sample is at 15
        for proposal_idx, rle in enumerate(random_rles(rng, 4))
    ]
    order = rng.permutation(len(rows)) if is_shuffled else range(len(rows))
    root = DatasetRoot(tmp_path)
    write_manifest(root, "proposals", f"take.{EXO}", [rows[i] for i in order])
    scores, groups = score_take(samples, protocol=Protocol.OMAMA, resize=False, problems=Problems())
    bounded = add_ceilings(root, samples, groups, scores).to_pylist()
    for i, row in enumerate(bounded):
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
        ranked = [ious[number] for number in samples.ranked[i] or [] if number in ious]
        assert row["top5_iou"] == pytest.approx(max(ranked) if ranked else None, abs=1e-6)


def test_ceilings_of_proposals_that_hold_the_truth(root: DatasetRoot, truth: Path) -> None:
    """The tiny root's proposals are the true squares (and three others): the best is exact."""
    proposals = read_manifest(root, "proposals", units=[f"{TAKE}.{EGO}"])
    rows = []
    for pair in read_manifest(root, "pairs", units=["val.exo2ego"]).to_pylist():
        frame = proposals.filter(pc.equal(proposals["frame_idx"], pair["frame_idx"]))
        count = frame.num_rows
        last = frame.slice(count - 1).to_pylist()[0]  # a wrong square
        ranked = [count - 1, 0] if pair["object_name"] == "red cup" else [count - 1]
        rows.append(
            {
                **{key: last[key] for key in ("rle_height", "rle_width", "rle_counts")},
                "pair_id": pair["pair_id"],
                "proposal_idx": count - 1,
                "confidence": 0.9,
                "top_proposal_idxs": ranked,
            }
        )
    table = root.runs / "wrong" / "predictions.parquet"
    write_table(table, "predictions", rows)
    evaluation = evaluate(truth, table, protocol="omama", root=root)
    ceilings = evaluation.summary["ceilings"]
    assert ceilings["oracle_iou"] == pytest.approx(1.0, abs=1e-6)
    assert ceilings["recall_at_0.75"] == 1.0
    assert ceilings["proposer_share_of_loss"] == pytest.approx(0.0, abs=1e-6)
    assert ceilings["matcher_share_of_loss"] == pytest.approx(1.0, abs=1e-6)
    by_object = {row["object_name"]: row for row in evaluation.scores.to_pylist() if row["visible"]}
    assert by_object["red cup"]["top5_iou"] == pytest.approx(1.0, abs=1e-6)
    assert by_object["green box/lid"]["top5_iou"] == pytest.approx(0.0, abs=1e-6)
    assert {name: row["oracle_proposal_idx"] for name, row in by_object.items()} == {
        "red cup": 0, "green box/lid": 1,
    }  # fmt: skip
    assert evaluation.summary["split"] == "val"
    assert evaluation.summary["breakdowns"]["scenario"][0]["value"] == "Cooking Noodles"
