"""Predictions of other programs become a run, with the same rules as in `evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from own_pictures import rle, save, square
from PIL import Image
from small_release import EGO
from tiny_root import make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.importing.predictions import import_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.export import run_export
from egoexo_tools.vocab import Direction

INLINE = RunOptions(executor="inline", quiet=True)
VAL = "33333333-0000-4000-8000-000000000003"
MASK = rle(square(40, 40, 60, height=140, width=224))


def lm_eec_folder(folder: Path, *, name: str, pad: int) -> Path:
    """LM-EEC's predictions of one object in the ego-exo pair of the val take."""
    pair = folder / VAL / f"{EGO}__cam01"
    (pair / name).mkdir(parents=True)
    for frame in (0, 30, 60, 90):
        (pair / name / f"{frame:0{pad}d}.json").write_text(json.dumps(MASK))
        (pair / name / f"._{frame}.json").write_bytes(b"AppleDouble")
    (folder / VAL / f"._{EGO}__cam01").write_bytes(b"AppleDouble")
    return folder


@pytest.mark.parametrize("pad", [1, 5])
def test_predictions_of_lm_eec_become_a_run(tmp_path: Path, pad: int) -> None:
    root = make_tiny_root(tmp_path / "root")
    folder = lm_eec_folder(tmp_path / "theirs", name="green box-lid", pad=pad)
    result = import_predictions(root, folder, "theirs")
    assert (result.predictions, result.left_out) == (4, [])
    table = read_tables([root.runs / "theirs" / "predictions.parquet"], "predictions")
    keys = [pair_id.split("/", 3) for pair_id in table["pair_id"].to_pylist()]
    assert {name for *_, name in keys} == {"green box/lid"}
    assert sorted(int(frame) for _, _, frame, _ in keys) == [0, 30, 60, 90]


@pytest.mark.slow
@pytest.mark.parametrize("with_objects", [True, False])
@pytest.mark.parametrize("by_object", [True, False])
def test_palettes_of_sam2_become_a_run(tmp_path: Path, with_objects: bool, by_object: bool) -> None:
    root = make_tiny_root(tmp_path / "root")
    run_export(root, "sam2", tmp_path / "out", run=INLINE).check()
    annotations = tmp_path / "out" / "val" / "Annotations"
    folder = tmp_path / "theirs"
    for path in annotations.glob("*.cam01/*.png"):
        labels = np.asarray(Image.open(path))
        if by_object:
            for number in (1, 2):
                target = folder / path.parent.name / f"{number:03d}" / path.name
                save(target, np.uint8(labels == number) * 255)
        else:
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    if with_objects:
        (annotations.parent / "objects").rename(folder / "objects")
    result = import_predictions(root, folder, "sam2")
    pairs = read_manifest(root, "pairs").to_pylist()
    expected = [
        pair for pair in pairs
        if pair["direction"] == Direction.EGO2EXO and pair["split"] == "val"
    ]  # fmt: skip
    assert 0 < result.predictions <= len(expected) and result.left_out == []


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRoot, Path]:
    """A root and its ground truth of the val split."""
    folder = tmp_path_factory.mktemp("scored")
    root = make_tiny_root(folder / "root")
    words = ["ground-truth", str(root.path), "--direction", "ego2exo", "--split", "val"]
    result = CliRunner().invoke(main, [*words, "--out", str(folder / "truth.json")])
    assert result.exit_code == 0, result.output
    return root, folder / "truth.json"


def predictions(change: Callable[[dict[str, Any]], None] = lambda frames: None) -> dict[str, Any]:
    """Four predictions in the official format; `change` edits their frames."""
    frames = {str(idx): {"pred_mask": MASK, "confidence": 0.7} for idx in (0, 30, 60, 90)}
    change(frames)
    masks = {"red cup": {f"{EGO}_cam01": frames}}
    return {"ego-exo": {"results": {VAL: {"masks": masks, "subsample_idx": [0]}}}}


HARMLESS: dict[str, Callable[[dict[str, Any]], None]] = {
    "bytes": lambda f: f["0"].update(pred_mask=MASK | {"counts": repr(MASK["counts"].encode())}),
    "text": lambda f: f["0"].update(confidence="0.7", pred_mask=MASK | {"size": ["140", "224"]}),
    "list": lambda f: f["0"].update(confidence=[0.7]),
    "padded": lambda f: f.update({"0030": f.pop("30")}),
    "ranked": lambda f: f["0"].update(top_proposal_idxs="abc"),
}
INVALID: dict[str, Callable[[dict[str, Any]], None]] = {
    "null": lambda f: f.update({"0": None}),
    "half": lambda f: f["0"].update(pred_mask=MASK | {"size": [140.5, 224]}),
    "no confidence": lambda f: f["0"].pop("confidence"),
    "nan": lambda f: f["0"].update(confidence=float("nan")),
    "twice": lambda f: f.update({"00": f["0"]}),
}


def import_and_evaluate(
    truth: tuple[DatasetRoot, Path], value: Any, folder: Path
) -> tuple[tuple[int, str], tuple[int, str]]:
    """Exit code and output of `import predictions` and of `evaluate` for the same file."""
    root, truth_json = truth
    path = folder / "theirs.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    words = ["import", "predictions", str(path), "--root", str(root.path), "--run", folder.name]
    imported = CliRunner().invoke(main, words)
    words = ["evaluate", "--predictions", str(path), "--ground-truth", str(truth_json)]
    words += ["--protocol", "omama", "--out", str(folder / "out")]
    evaluated = CliRunner().invoke(main, words)
    return (imported.exit_code, imported.output), (evaluated.exit_code, evaluated.output)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_differences_change_neither_command(
    kind: str, truth: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    imported, evaluated = import_and_evaluate(truth, predictions(HARMLESS[kind]), tmp_path)
    assert imported[0] == 0 and "4 predictions" in imported[1], imported
    assert evaluated[0] == 0 and "4 samples" in evaluated[1], evaluated


@pytest.mark.slow
@pytest.mark.parametrize("kind", INVALID)
def test_both_commands_report_an_invalid_prediction(
    kind: str, truth: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    imported, evaluated = import_and_evaluate(truth, predictions(INVALID[kind]), tmp_path)
    assert imported[0] == 0 and "3 predictions" in imported[1] and "1 left out" in imported[1]
    assert evaluated[0] == 1 and "frame 0" in evaluated[1] and "unexpected" not in evaluated[1]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [None, 5, [], {f"{EGO}_cam01": None}, {f"{EGO}_cam01": [[1]]}])
def test_an_object_without_predictions_affects_no_other(
    pairs: Any, truth: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    value = predictions()
    value["ego-exo"]["results"][VAL]["masks"]["green box/lid"] = pairs
    imported, evaluated = import_and_evaluate(truth, value, tmp_path)
    assert imported[0] == 0 and "4 predictions" in imported[1] and "1 left out" in imported[1]
    assert "green box/lid" in evaluated[1] and "unexpected" not in evaluated[1]


def test_different_predictions_under_one_key_are_not_used(
    truth: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    text = json.dumps(predictions()).replace('"red cup": {', '"red cup": {}, "red cup": {')
    imported, evaluated = import_and_evaluate(truth, text, tmp_path)
    assert imported[0] == 1 and "two different values under one key" in imported[1]
    assert evaluated[0] == 1 and "red cup" in evaluated[1]


def test_padded_numbers_in_a_ground_truth_change_nothing(
    truth: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    root, truth_json = truth
    plain = import_and_evaluate(truth, predictions(), tmp_path)[1]
    content = json.loads(truth_json.read_text())
    for take in content["annotations"].values():
        for cameras in take["masks"].values():
            for camera, frames in cameras.items():
                cameras[camera] = {f"{int(idx):05d}": mask for idx, mask in frames.items()}
        for cameras in take["annotated_frames"].values():
            for camera, idxs in cameras.items():
                cameras[camera] = [f"{idx:05d}" for idx in idxs]
    padded = tmp_path / "padded.json"
    padded.write_text("\ufeff" + json.dumps(content))
    with_padding = import_and_evaluate((root, padded), predictions(), tmp_path)[1]
    assert plain[0] == with_padding[0] == 0
    assert plain[1].splitlines()[2:] == with_padding[1].splitlines()[2:]
