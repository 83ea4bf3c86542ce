"""Comparison of two runs: paired differences, runs that are not comparable, pictures."""

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.compare import compare, wins_and_losses
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_table

LABELS = {"protocol": "official", "direction": "ego2exo", "split": "val"}


def write_run(folder: Path, ious: dict[str, float | None], **labels: str) -> Path:
    """A run with these IoUs: key "take/frame", None where the object is absent."""
    rows: list[dict[str, Any]] = []
    for key, iou in ious.items():
        take, frame = key.split("/")
        rows.append(
            {
                "pair_id": f"{take}/{EGO}>cam01/{frame}/cup",
                "take_uid": take,
                "object_name": "cup",
                "frame_idx": int(frame),
                "iou": iou,
                "contour_accuracy": iou,
                "location_error": None if iou is None else 1 - iou,
                "visible": iou is not None,
                "predicted_visible": iou is not None and iou > 0.1,
                "truth_area": 100,
                "scored_height": 100,
                "scored_width": 100,
            }
        )
    write_table(folder / "scores.parquet", "scores", rows, metadata={**LABELS, **labels})
    return folder


def test_paired_differences(tmp_path: Path) -> None:
    a = write_run(
        tmp_path / "a", {"t/0": 0.5, "t/30": 0.5, "t/60": 0.5, "u/0": 0.5, "u/30": None, "v/0": 1.0}
    )
    b = write_run(
        tmp_path / "b", {"t/0": 0.9, "t/30": 0.5, "t/60": 0.0, "u/0": 0.6, "u/30": None, "w/0": 1.0}
    )
    comparison = compare(a, b)
    iou = comparison.summary["metrics"]["iou"]
    assert (iou["wins"], iou["ties"], iou["losses"]) == (2, 1, 1)
    assert iou["difference"] == pytest.approx(0.0)
    assert iou["interval"][0] < 0 < iou["interval"][1]
    location = comparison.summary["metrics"]["location_error"]
    assert (location["wins"], location["losses"]) == (2, 1)  # lower is better
    assert comparison.summary["visibility_accuracy"]["difference"] == pytest.approx(-0.125)
    assert (comparison.summary["only_in_a"], comparison.summary["only_in_b"]) == (1, 1)
    wins, losses = wins_and_losses(comparison)
    assert wins["difference"].round(6).tolist() == [0.4, 0.1]
    assert losses["pair_id"].tolist() == [f"t/{EGO}>cam01/60/cup"]


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", {"t/0": 0.5, "u/0": 0.5})
    b = write_run(tmp_path / "b", {"t/0": 0.9, "u/0": 0.7})
    out = tmp_path / "c.json"
    result = CliRunner().invoke(main, ["compare", str(a), str(b), "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "ego2exo, split val, official protocol: 2 samples in both (2 visible)" in result.output
    assert "A 0.5000  B 0.8000  B - A +0.3000 [+0.2000, +0.4000]" in result.output
    assert json.loads(out.read_text())["metrics"]["iou"]["wins"] == 2


@pytest.mark.parametrize("key", ["protocol", "direction", "split"])
def test_runs_with_different_labels_are_rejected(tmp_path: Path, key: str) -> None:
    a = write_run(tmp_path / "a", {"t/0": 0.5})
    b = write_run(tmp_path / "b", {"t/0": 0.5}, **{key: "other"})
    with pytest.raises(DataError, match=f"{key} {LABELS[key]} and other"):
        compare(a, b)


def test_runs_with_different_ground_truths_are_rejected(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", {"t/0": 0.5, "t/30": 0.5})
    b = write_run(tmp_path / "b", {"t/0": 0.5, "t/30": None})
    with pytest.raises(DataError, match="different ground truths"):
        compare(a, b)


def test_pictures_of_wins_and_losses(tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    runs = [write_squares_run(root, name, shift) for name, shift in (("a", 0), ("b", 1))]
    folder = tmp_path / "pictures"
    arguments = ["compare", *map(str, runs), "--pictures", str(folder), "--root", str(root.path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "2 pictures in" in result.output
    assert {path.name for path in folder.iterdir()} == {"win_00.png", "loss_00.png"}
    picture = cv2.imread(str(folder / "win_00.png"))
    # Ego panel 360 wide, three exo panels of 224 / 140 * 360 = 576; 22 rows of captions.
    assert picture.shape == (382, 360 + 3 * 576, 3)
    blue = (picture[..., 0] > picture[..., 2] * 1.5) & (picture[..., 0] > 120)
    assert blue[:, -576:].sum() > 1000  # the truth's outline
    assert blue[:, 360:-576].sum() < blue[:, -576:].sum()


def write_squares_run(root: DatasetRoot, name: str, shift: int) -> Path:
    """A run on the val take that predicts another proposal than the other run."""
    pairs = read_manifest(root, "pairs", units=["val.ego2exo"]).to_pylist()
    cups = [pair for pair in pairs if pair["object_name"] == "red cup"][:2]
    scores, predictions = [], []
    for number, pair in enumerate(cups):
        keys = {key: pair[key] for key in ("pair_id", "take_uid", "object_name", "frame_idx")}
        cameras = {key: pair[key] for key in ("source_camera", "dest_camera")}
        iou = float(number == shift)
        size = {"truth_area": 9, "scored_height": 10, "scored_width": 10}
        values = {"iou": iou, "contour_accuracy": iou, "location_error": 0.0, "visible": True}
        scores.append({**keys, **cameras, **values, **size, "predicted_visible": True})
        unit = f"{pair['take_uid']}.{pair['dest_camera']}"
        rows = read_manifest(root, "proposals", units=[unit]).to_pylist()
        mask = [row for row in rows if row["frame_idx"] == pair["frame_idx"]][3]
        rle = {key: mask[key] for key in ("rle_height", "rle_width", "rle_counts")}
        predictions.append({"pair_id": pair["pair_id"], **rle})
    folder = root.runs / name
    write_table(folder / "scores.parquet", "scores", scores, metadata=LABELS)
    write_table(folder / "predictions.parquet", "predictions", predictions)
    return folder
