"""The ground-truth file, written from the manifests and read back."""

import json
from pathlib import Path

import pytest
from tiny_predictions import TAKE, save_json, shifted_predictions
from tiny_root import EGO

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.evaluate import evaluate
from egoexo_tools.evaluation.ground_truth import read_ground_truth, write_ground_truth
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split


def test_the_file_has_the_official_format(root: DatasetRoot, truth: Path) -> None:
    value = json.loads(truth.read_text())
    assert {key: value[key] for key in ("version", "challenge", "split", "direction")} == {
        "version": "xx", "challenge": "xx", "split": "val", "direction": "exo2ego",
    }  # fmt: skip
    take = value["annotations"][TAKE]
    assert set(take) == {"masks", "subsample_idx", "annotated_frames"}
    assert take["annotated_frames"]["green box/lid"] == {EGO: [0, 60], "cam01": [0, 60]}
    assert set(take["masks"]["green box/lid"][EGO]) == {"0"}  # absent at 60
    annotation = json.loads(root.annotation_json(TAKE).read_text())
    assert take["masks"]["red cup"] == annotation["masks"]["red cup"]


def test_a_ground_truth_of_the_other_direction_is_rejected(
    root: DatasetRoot, truth: Path, tmp_path: Path
) -> None:
    predictions = save_json(shifted_predictions(truth), tmp_path / "p.json")
    other = tmp_path / "other.json"
    write_ground_truth(root, direction=Direction.EGO2EXO, split=Split.VAL, out=other)
    with pytest.raises(DataError, match="ego2exo"):
        evaluate(other, predictions, protocol="official")


def test_the_returned_ground_truth_equals_the_file(root: DatasetRoot, tmp_path: Path) -> None:
    out = tmp_path / "gt.json"
    written = write_ground_truth(root, direction=Direction.EXO2EGO, split=Split.VAL, out=out)
    read = read_ground_truth(out)
    assert (written.path, written.direction, written.split) == (out, read.direction, read.split)
    assert written.take_uids == read.take_uids == (TAKE,)
    assert written.read_take(TAKE) == read.read_take(TAKE)


def test_frame_numbers_lose_their_padding(tmp_path: Path) -> None:
    mask = {"size": [2, 2], "counts": "4"}
    take = {
        "masks": {"cup": {"cam01": {"0030": mask, "60": mask}, EGO: None}},
        "annotated_frames": {"cup": {"cam01": ["0030", 60]}},
    }
    truth = read_ground_truth(save_json({"annotations": {"t": take}}, tmp_path / "gt.json"))
    unpadded = truth.read_take("t")
    assert unpadded["masks"] == {"cup": {"cam01": {"30": mask, "60": mask}, EGO: None}}
    assert unpadded["annotated_frames"] == {"cup": {"cam01": [30, 60]}}
    take["masks"]["cup"]["cam01"] = {"0030": mask, "30": mask}
    truth = read_ground_truth(save_json({"annotations": {"t": take}}, tmp_path / "gt.json"))
    with pytest.raises(DataError, match="two keys stand for the same frame"):
        truth.read_take("t")
