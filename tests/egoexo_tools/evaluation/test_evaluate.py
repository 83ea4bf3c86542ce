"""Evaluation of files: published scores, protocols, runs, damaged input."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from tiny_predictions import Json, save_json, shifted_predictions

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.evaluate import Evaluation, evaluate, evaluate_run
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.importing.predictions import import_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_tables
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Split

METRICS = ("iou", "contour_accuracy", "location_error")


def assert_equals_plain(evaluation: Evaluation, plain: dict[str, Json]) -> None:
    rows = {row["pair_id"]: row for row in evaluation.scores.to_pylist()}
    assert set(rows) == set(plain)
    for pair_id, expected in plain.items():
        for name in METRICS:
            assert rows[pair_id][name] == pytest.approx(expected.get(name), abs=1e-9), pair_id
        assert rows[pair_id]["visible"] == expected["visible"]
        assert rows[pair_id]["predicted_visible"] == expected["predicted_visible"]


def test_published_scores_of_the_home_pairs(home_pairs: Path) -> None:
    expected = json.loads((home_pairs / "expected.json").read_text())
    truth = json.loads((home_pairs / "ground_truth.json").read_text())
    evaluation = evaluate(
        home_pairs / "ground_truth.json", home_pairs / "predictions.json", protocol="omama"
    )
    summary, samples = evaluation.summary, expected["per_sample"]
    for ours, theirs in (
        ("iou", "iou"),
        ("contour_accuracy", "shape_acc"),
        ("location_error", "location_score"),
        ("visibility_accuracy", "balanced_acc"),
    ):
        assert summary[ours] == pytest.approx(expected["summary"][theirs], abs=1e-9)
    rows = {(row["object_name"], row["frame_idx"]): row for row in evaluation.scores.to_pylist()}
    ego = "aria02_214-1"
    order = [
        rows[name, int(frame)]
        for name, cameras in truth["annotations"]["take"]["masks"].items()
        for frame in sorted(cameras["cam01"])  # as text: "12" is before "4"
    ]
    for ours, theirs in (
        ("iou", "iou_per_obs"),
        ("contour_accuracy", "shape_acc_per_obs"),
        ("location_error", "location_score_per_obs"),
        ("visible", "obj_exists_gt_per_obs"),
        ("predicted_visible", "obj_exists_pred_per_obs"),
        ("truth_area", "obj_size_gt_per_obs"),
        ("predicted_area", "obj_size_pred_per_obs"),
    ):
        assert [row[ours] for row in order] == pytest.approx(samples[theirs], abs=1e-9), ours
    sizes = [[row["scored_height"], row["scored_width"]] for row in order]
    assert sizes == samples["img_sizes_per_obs"]
    assert {row["dest_camera"] for row in order} == {ego}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["official", "omama", "lm-eec"])
def test_protocols_agree_with_their_slow_twin(truth: Path, tmp_path: Path, protocol: str) -> None:
    predictions = shifted_predictions(truth, shift=9)
    evaluation = evaluate(truth, save_json(predictions, tmp_path / "p.json"), protocol=protocol)
    plain = reference.plain_evaluate(
        json.loads(truth.read_text()), predictions["exo-ego"]["results"], protocol, False
    )
    assert_equals_plain(evaluation, plain)
    # lm-eec: confidence is from the mask's area, so absent objects are called visible.
    accuracy = 0.5 if protocol == "lm-eec" else 1.0
    assert evaluation.summary["visibility_accuracy"] == accuracy
    assert evaluation.summary["samples"] == 6
    assert evaluation.summary["samples_visible"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["official", "omama", "lm-eec"])
def test_real_masks_agree_with_the_slow_twin(
    home_pairs: Path, tmp_path: Path, protocol: str
) -> None:
    truth = json.loads((home_pairs / "ground_truth.json").read_text())
    predictions = json.loads((home_pairs / "predictions.json").read_text())
    take = predictions["exo-ego"]["results"]["take"]["masks"]
    true = truth["annotations"]["take"]["masks"]
    for name in sorted(take)[5:]:  # the slow twin is slow
        del take[name], true[name]
    for number, (name, pairs) in enumerate(take.items()):
        for frame, entry in pairs["cam01_aria02_214-1"].items():
            mask = MaskRle.from_json(entry["pred_mask"])
            if protocol == "official":
                size = true[name]["aria02_214-1"][frame]["size"]
                small = mask.decode_at(*official_size(tuple(size)))
                entry["pred_mask"] = MaskRle.encode(small).to_json()
            if number == 3:
                nothing = np.zeros(entry["pred_mask"]["size"], bool)
                entry["pred_mask"] = MaskRle.encode(nothing).to_json()
    evaluation = evaluate(
        save_json(truth, tmp_path / "gt.json"),
        save_json(predictions, tmp_path / "p.json"),
        protocol=protocol,
    )
    results = predictions["exo-ego"]["results"]
    assert_equals_plain(evaluation, reference.plain_evaluate(truth, results, protocol, False))


def test_the_number_of_workers_changes_nothing(truth: Path, tmp_path: Path) -> None:
    path = save_json(shifted_predictions(truth, shift=9), tmp_path / "p.json")
    serial, parallel = (evaluate(truth, path, protocol="omama", workers=n) for n in (1, 3))
    assert serial.scores.equals(parallel.scores)
    assert serial.summary == parallel.summary


def test_a_run_is_scored_into_its_folder(root: DatasetRoot, truth: Path) -> None:
    folder = root.runs / "exo2ego"
    folder.mkdir(parents=True)
    save_json(shifted_predictions(truth), folder / "predictions.json")
    samples = evaluate_run(
        root,
        folder,
        direction=Direction.EXO2EGO,
        split=Split.VAL,
        protocols={"official": "summary.json", "omama": "summary_omama.json"},
    )
    assert samples == 6
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["iou"], summary["protocol"]) == (pytest.approx(1.0, abs=1e-6), "official")
    assert summary["ceilings"]["oracle_iou"] > 0.95  # the proposals' grid is coarser
    scores = read_tables([folder / "scores.parquet"], "scores")
    assert scores.num_rows == 6
    assert json.loads((folder / "summary_omama.json").read_text())["protocol"] == "omama"


def test_a_runs_table_is_scored_instead_of_its_json(root: DatasetRoot, truth: Path) -> None:
    path = save_json(shifted_predictions(truth, shift=5), root.path / "p.json")
    import_predictions(root, path, "both")
    table = root.runs / "both" / "predictions.parquet"
    options: Any = {"direction": Direction.EXO2EGO, "split": Split.VAL}
    options["protocols"] = {"official": "summary.json"}
    for name in ("both", "table alone"):
        folder = root.runs / name
        folder.mkdir(exist_ok=True)
        (folder / table.name).write_bytes(table.read_bytes())
        (root.runs / "both" / "predictions.json").write_text("{}")
        assert evaluate_run(root, folder, **options) == 6
    summaries = [root.runs / name / "summary.json" for name in ("both", "table alone")]
    assert summaries[0].read_text() == summaries[1].read_text()
    official = evaluate(truth, path, protocol="official").summary["iou"]
    assert json.loads(summaries[0].read_text())["iou"] == official < 0.9


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from keys_of(inner, (*path, key))


@pytest.mark.slow
def test_any_damage_is_a_data_error_or_a_score(
    root: DatasetRoot, truth: Path, tmp_path: Path
) -> None:
    """One value in one of the files is replaced by nonsense."""
    junk = [None, 1, -1, "x", [], {}, float("nan"), [1, 2], {"size": [1, 1]}, True, 2**70]
    rng = np.random.default_rng(0)
    originals = {"gt.json": json.loads(truth.read_text()), "p.json": shifted_predictions(truth)}
    errors = 0
    for number in range(60):
        files = copy.deepcopy(originals)
        name = ("gt.json", "p.json")[number % 2]
        paths = list(keys_of(files[name]))
        *parents, last = paths[rng.integers(len(paths))]
        place: Any = files[name]
        for key in parents:
            place = place[key]
        place[last] = junk[rng.integers(len(junk))]
        gt, predictions = (save_json(value, tmp_path / key) for key, value in files.items())
        protocol = ("official", "omama", "lm-eec")[number % 3]
        try:
            evaluate(gt, predictions, protocol=protocol, root=root, quiet=True)
        except DataError:
            errors += 1
        with contextlib.suppress(DataError):
            import_predictions(root, predictions, "theirs")
    assert errors > 15
