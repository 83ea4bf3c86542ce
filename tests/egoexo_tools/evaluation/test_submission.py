"""The EvalAI submission: both directions, objects without scores, and errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import write_ground_truth
from egoexo_tools.evaluation.submission import submit
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Split, View

Json = dict[str, Any]
OFFICIAL_SIZES = {View.EGO: (480, 480), View.EXO: (300, 480)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """Ground truths and full predictions, ego2exo first."""
    root = make_tiny_root(tmp_path / "root")
    truths, paths = [], []
    for direction in Direction:
        out = tmp_path / f"gt_{direction}.json"
        truth = write_ground_truth(root, direction=direction, split=Split.VAL, out=out)
        truths.append(truth.path)
        paths.append(tmp_path / f"{direction}.json")
        paths[-1].write_text(json.dumps(predictions(root, direction)))
    return truths[0], truths[1], paths[0], paths[1]


def predictions(root: DatasetRoot, direction: Direction) -> Json:
    """In O-MaMa's format: no version, confidence in a list."""
    results: Json = {}
    mask = MaskRle.encode(np.ones(OFFICIAL_SIZES[direction.dest], bool)).to_json()
    for pair in read_manifest(root, "pairs", units=[f"val.{direction}"]).to_pylist():
        take = results.setdefault(pair["take_uid"], {"masks": {}})
        pairs = take["masks"].setdefault(pair["object_name"], {})
        frames = pairs.setdefault(f"{pair['source_camera']}_{pair['dest_camera']}", {})
        frames[str(pair["frame_idx"])] = {"pred_mask": mask, "confidence": [0.75]}
    return {direction.dashed: {"results": results}}


def cup(value: Json) -> Json:
    (take,) = value["exo-ego"]["results"].values()
    frames: Json = take["masks"]["red cup"][f"cam01_{EGO}"]
    return frames


def test_both_directions_are_joined(files: tuple[Path, ...], tmp_path: Path) -> None:
    gt_ego, gt_exo, ego, exo = files
    out = tmp_path / "submission.json"
    arguments = ["submit", str(ego), str(exo), "-o", str(out)]
    arguments += ["--ground-truth", str(gt_ego), "--ground-truth", str(gt_exo)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "7 ego2exo and 6 exo2ego predictions" in result.output
    value = json.loads(out.read_text())
    assert list(value) == ["ego-exo", "exo-ego"]
    for part in value.values():
        assert (part["version"], part["challenge"]) == ("xx", "xx")
        (take,) = part["results"].values()
        assert set(take["masks"]) == {"red cup", "green box/lid"}
        assert take["subsample_idx"][0] == 0
    assert cup(value)["30"]["confidence"] == 0.75
    assert cup(value)["30"]["pred_mask"]["size"] == [480, 480]


def test_objects_of_one_view_are_added_without_entries(
    files: tuple[Path, ...], tmp_path: Path
) -> None:
    gt_ego, gt_exo, ego, exo = files
    truth = json.loads(gt_exo.read_text())
    (take,) = truth["annotations"].values()
    take["masks"]["blue bowl"] = {EGO: {}}
    take["annotated_frames"]["blue bowl"] = {EGO: []}
    gt_exo.write_text(json.dumps(truth))
    out = tmp_path / "submission.json"
    truths = {Direction.EGO2EXO: gt_ego, Direction.EXO2EGO: gt_exo}
    submit(ego, exo, out=out, ground_truth=truths)
    (written,) = json.loads(out.read_text())["exo-ego"]["results"].values()
    assert written["masks"]["blue bowl"] == {}


def drop_frame(value: Json) -> None:
    del cup(value)["30"]


def resize(value: Json) -> None:
    cup(value)["30"]["pred_mask"] = MaskRle.encode(np.ones((280, 280), bool)).to_json()


def break_mask(value: Json) -> None:
    cup(value)["30"]["pred_mask"]["counts"] = "nonsense"


def not_a_number(value: Json) -> None:
    cup(value)["30"]["confidence"] = [float("nan")]


def drop_take(value: Json) -> None:
    value["exo-ego"]["results"] = {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (drop_frame, "1 frames without a prediction: exo2ego, take"),
        (resize, "frame 30 is 280x280, not 480x480"),
        (break_mask, "1 predicted masks with broken run lengths"),
        (not_a_number, "1 confidences that are not finite numbers"),
        (drop_take, "2 camera pairs without predictions"),
    ],
)
def test_predictions_that_the_server_would_refuse_are_errors(
    files: tuple[Path, ...], tmp_path: Path, damage: Callable[[Json], None], line: str
) -> None:
    gt_ego, gt_exo, ego, exo = files
    value = json.loads(exo.read_text())
    damage(value)
    exo.write_text(json.dumps(value))
    out = tmp_path / "submission.json"
    truths = {Direction.EGO2EXO: gt_ego, Direction.EXO2EGO: gt_exo}
    with pytest.raises(DataError) as error:
        submit(ego, exo, out=out, ground_truth=truths)
    assert line in str(error.value)
    assert list(tmp_path.glob("submission.json*")) == []


def test_masks_are_resized_with_the_option(files: tuple[Path, ...], tmp_path: Path) -> None:
    gt_ego, gt_exo, ego, exo = files
    value = json.loads(exo.read_text())
    resize(value)
    exo.write_text(json.dumps(value))
    out = tmp_path / "submission.json"
    truths = {Direction.EGO2EXO: gt_ego, Direction.EXO2EGO: gt_exo}
    submit(ego, exo, out=out, ground_truth=truths, resize_predictions=True)
    mask = MaskRle.from_json(cup(json.loads(out.read_text()))["30"]["pred_mask"])
    assert (mask.height, mask.width, mask.area()) == (480, 480, 480 * 480)


def test_swapped_directions_are_rejected(files: tuple[Path, ...], tmp_path: Path) -> None:
    _, _, ego, exo = files
    with pytest.raises(DataError, match="contains exo2ego predictions, not ego2exo"):
        submit(exo, ego, out=tmp_path / "submission.json", ground_truth={})


def test_a_ground_truth_is_written_by_the_command(tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    out = tmp_path / "gt.json"
    arguments = ["--direction", "ego2exo", "--split", "test", "-o", str(out)]
    result = CliRunner().invoke(main, ["ground-truth", str(root.path), *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["split"] == "test"
