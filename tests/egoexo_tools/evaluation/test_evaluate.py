"""Evaluation of files: published scores, protocols, other people's formats, bad input."""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest
import reference
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation import metrics
from egoexo_tools.evaluation.evaluate import (
    EvaluateOptions,
    Evaluation,
    evaluate,
    evaluate_run,
)
from egoexo_tools.evaluation.ground_truth import write_ground_truth
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.importing.predictions import import_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables, write_table
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Split
from omama.cli import main

Json = dict[str, Any]
TAKE = "33333333-0000-4000-8000-000000000003"
METRICS = ("iou", "contour_accuracy", "location_error")


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return make_tiny_root(tmp_path / "root")


@pytest.fixture
def truth(root: DatasetRoot, tmp_path: Path) -> Path:
    out = tmp_path / "gt.json"
    return write_ground_truth(root, direction=Direction.EXO2EGO, split=Split.VAL, out=out).path


def shifted_predictions(truth: Path, *, shift: int = 0, size: Any = official_size) -> Json:
    """A prediction for every source frame of cam01 → ego: the truth (or the source), shifted."""
    takes: Json = {}
    for take_uid, take in json.loads(truth.read_text())["annotations"].items():
        masks: Json = {}
        for name, cameras in take["masks"].items():
            for frame in cameras["cam01"]:
                true = cameras[EGO].get(frame, cameras["cam01"][frame])
                mask = MaskRle.from_json(true)
                mask_size = size((mask.height, mask.width))
                moved = np.roll(mask.decode_at(*mask_size), shift, axis=1)
                entry = {
                    "pred_mask": MaskRle.encode(moved).to_json(),
                    "confidence": 0.9 if frame in cameras[EGO] else 0.2,
                }
                masks.setdefault(name, {}).setdefault(f"cam01_{EGO}", {})[frame] = entry
        takes[take_uid] = {"masks": masks, "subsample_idx": take["subsample_idx"]}
    return {"exo-ego": {"version": "xx", "challenge": "xx", "results": takes}}


def save(value: Json, path: Path) -> Path:
    path.write_text(json.dumps(value))
    return path


def entries(predictions: Json) -> Json:
    """frame → entry of the red cup in the val take."""
    found: Json = predictions["exo-ego"]["results"][TAKE]["masks"]["red cup"][f"cam01_{EGO}"]
    return found


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


@pytest.mark.parametrize("protocol", ["official", "omama", "lm-eec"])
def test_protocols_agree_with_their_slow_twin(truth: Path, tmp_path: Path, protocol: str) -> None:
    predictions = shifted_predictions(truth, shift=9)
    evaluation = evaluate(truth, save(predictions, tmp_path / "p.json"), protocol=protocol)
    plain = reference.plain_evaluate(
        json.loads(truth.read_text()), predictions["exo-ego"]["results"], protocol, False
    )
    assert_equals_plain(evaluation, plain)
    # lm-eec: confidence is from the mask's area, so absent objects are called visible.
    accuracy = 0.5 if protocol == "lm-eec" else 1.0
    assert evaluation.summary["visibility_accuracy"] == accuracy
    assert evaluation.summary["samples"] == 6
    assert evaluation.summary["samples_visible"] == 5


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
        save(truth, tmp_path / "gt.json"), save(predictions, tmp_path / "p.json"), protocol=protocol
    )
    results = predictions["exo-ego"]["results"]
    assert_equals_plain(evaluation, reference.plain_evaluate(truth, results, protocol, False))


def test_the_number_of_workers_changes_nothing(truth: Path, tmp_path: Path) -> None:
    path = save(shifted_predictions(truth, shift=9), tmp_path / "p.json")
    one, three = (evaluate(truth, path, protocol="omama", workers=n) for n in (1, 3))
    assert one.scores.equals(three.scores)
    assert one.summary == three.summary


def test_a_wrong_size_is_named_and_can_be_resized(truth: Path, tmp_path: Path) -> None:
    predictions = shifted_predictions(truth, size=lambda size: (280, 280))
    path = save(predictions, tmp_path / "p.json")
    with pytest.raises(DataError) as error:
        evaluate(truth, path, protocol="official")
    assert f"take {TAKE}, 'red cup', cam01_{EGO}, frame 0 is 280x280, not 480x480" in str(
        error.value
    )
    assert "--resize-predictions" in str(error.value)
    resized = evaluate(
        truth, path, protocol="official", options=EvaluateOptions(resize_predictions=True)
    )
    assert resized.summary["iou"] == pytest.approx(1.0, abs=1e-9)
    assert resized.scores["scored_height"].to_pylist() == [480] * 6


def drop_take(p: Json) -> None:
    del p["exo-ego"]["results"][TAKE]


def drop_object(p: Json) -> None:
    del p["exo-ego"]["results"][TAKE]["masks"]["red cup"]


def drop_frame(p: Json) -> None:
    del entries(p)["30"]


def add_keys(p: Json) -> None:
    entries(p)["31"] = entries(p)["30"]
    take = p["exo-ego"]["results"][TAKE]
    take["masks"]["blue cup"] = take["masks"]["red cup"]
    take["masks"]["red cup"]["cam07_aria01_214-1"] = {}
    p["exo-ego"]["results"]["another"] = take


def break_rle(p: Json) -> None:
    entries(p)["30"]["pred_mask"]["counts"] = "nonsense"
    entries(p)["60"]["pred_mask"] = None


def nan_confidence(p: Json) -> None:
    entries(p)["30"]["confidence"] = float("nan")
    entries(p)["60"]["confidence"] = "high"


@pytest.mark.parametrize(
    ("damage", "lines", "left"),
    [
        (drop_take, [f"1 takes without predictions: {TAKE}"], 0),
        (drop_object, [f"1 objects without predictions: take {TAKE}, 'red cup'"], 2),
        (drop_frame, [f"1 frames without a prediction: take {TAKE}, 'red cup', cam01_{EGO}"], 5),
        (
            add_keys,
            [
                "1 takes that the ground truth does not have: another",
                "1 objects that the ground truth does not have",
                "1 camera pairs that the ground truth does not have",
                "1 frames in which the source has no mask",
            ],
            6,
        ),
        (
            break_rle,
            ["1 predictions that are not", "1 predicted masks with broken run lengths"],
            4,
        ),
        (nan_confidence, ["2 confidences that are not finite numbers", "frame 30 (nan)"], 4),
    ],
)
def test_what_does_not_fit_is_listed(
    truth: Path,
    tmp_path: Path,
    damage: Callable[[Json], None],
    lines: list[str],
    left: int,
) -> None:
    predictions = shifted_predictions(truth)
    damage(predictions)
    path = save(predictions, tmp_path / "p.json")
    arguments = ["evaluate", "--ground-truth", str(truth), "--predictions", str(path)]
    shown = CliRunner().invoke(main, [*arguments, "--protocol", "official", "--quiet"])
    assert shown.exit_code == 1
    for line in lines:
        assert line in shown.output
    shown = CliRunner().invoke(main, [*arguments, "--protocol", "official", "--quiet", "--partial"])
    if left:
        assert shown.exit_code == 0, shown.output
        assert f"{left} of 6 expected samples scored" in shown.output
    else:
        assert "no sample in common" in shown.output


def test_omama_files_and_folders_of_frames_read_the_same(truth: Path, tmp_path: Path) -> None:
    predictions = shifted_predictions(truth, shift=5)
    official = evaluate(truth, save(predictions, tmp_path / "p.json"), protocol="lm-eec")
    theirs = copy.deepcopy(predictions)
    for key in ("version", "challenge"):
        del theirs["exo-ego"][key]
    folder = tmp_path / "frames"
    for take_uid, take in theirs["exo-ego"]["results"].items():
        for name, pairs in take["masks"].items():
            for frame, entry in pairs[f"cam01_{EGO}"].items():
                path = folder / take_uid / f"cam01__{EGO}" / name / f"{frame}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                save(entry["pred_mask"], path)
                entry["confidence"] = [entry["confidence"]]
    (folder / TAKE / "annotations.json").write_text("{}")
    for source in (save(theirs, tmp_path / "omama.json"), folder):
        assert evaluate(truth, source, protocol="lm-eec").scores.equals(official.scores)


def test_imported_predictions_score_as_before(
    root: DatasetRoot, truth: Path, tmp_path: Path
) -> None:
    path = save(shifted_predictions(truth, shift=5), tmp_path / "p.json")
    assert import_predictions(root, path, "theirs").predictions == 6
    before = evaluate(truth, path, protocol="official").scores
    for name in ("predictions.json", "predictions.parquet"):
        after = evaluate(truth, root.runs / "theirs" / name, protocol="official").scores
        columns = [column for column in after.column_names if column != "confidence"]
        assert after.select(columns).equals(before.select(columns))


def test_a_broken_mask_costs_its_own_row(root: DatasetRoot, truth: Path, tmp_path: Path) -> None:
    predictions = shifted_predictions(truth)
    break_rle(predictions)
    assert (
        import_predictions(root, save(predictions, tmp_path / "p.json"), "theirs").predictions == 4
    )
    left_out = (root.runs / "theirs" / "left_out.csv").read_text()
    assert "'red cup', cam01_aria01_214-1, frame" in left_out


def test_the_written_ground_truth_is_the_official_format(root: DatasetRoot, truth: Path) -> None:
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


def test_a_ground_truth_of_the_other_direction_is_refused(
    root: DatasetRoot, truth: Path, tmp_path: Path
) -> None:
    predictions = save(shifted_predictions(truth), tmp_path / "p.json")
    other = tmp_path / "other.json"
    write_ground_truth(root, direction=Direction.EGO2EXO, split=Split.VAL, out=other)
    with pytest.raises(DataError, match="ego2exo"):
        evaluate(other, predictions, protocol="official")


def test_ceilings_of_proposals_that_hold_the_truth(root: DatasetRoot, truth: Path) -> None:
    """The tiny root's proposals are the true squares (and three others): the best is exact."""
    proposals = read_manifest(root, "proposals", units=[f"{TAKE}.{EGO}"])
    rows = []
    for pair in read_manifest(root, "pairs", units=["val.exo2ego"]).to_pylist():
        frame = proposals.filter(pc.equal(proposals["frame_idx"], pair["frame_idx"]))
        count = frame.num_rows
        chosen = frame.slice(count - 1).to_pylist()[0]  # always the last: a wrong square
        right = 0 if pair["object_name"] == "red cup" else None
        rows.append(
            {
                **{key: chosen[key] for key in ("rle_height", "rle_width", "rle_counts")},
                "pair_id": pair["pair_id"],
                "proposal_idx": count - 1,
                "confidence": 0.9,
                "top_proposal_idxs": [count - 1, right] if right == 0 else [count - 1],
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


def test_a_run_is_scored_into_its_folder(root: DatasetRoot, truth: Path) -> None:
    folder = root.runs / "exo2ego"
    folder.mkdir(parents=True)
    save(shifted_predictions(truth), folder / "predictions.json")
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


def test_the_table_of_a_run_is_scored_and_not_its_export(root: DatasetRoot, truth: Path) -> None:
    path = save(shifted_predictions(truth, shift=5), root.path / "p.json")
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


def test_a_new_metric_is_an_entry(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dice(predicted: Any, true: Any) -> float:
        return float(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))

    monkeypatch.setitem(metrics.METRICS, "dice", metrics.Metric("Dice", "higher", dice))
    path = save(shifted_predictions(truth, shift=9), tmp_path / "p.json")
    for row in evaluate(truth, path, protocol="official").scores.to_pylist():
        expected = None if row["iou"] is None else 2 * row["iou"] / (1 + row["iou"])
        assert row["dice"] == pytest.approx(expected, abs=1e-6)


def test_portrait_images(tmp_path: Path) -> None:
    mask = np.zeros((3840, 2160), np.uint8)
    mask[1000:2000, 500:900] = 1
    rle = MaskRle.encode(mask).to_json()
    small = cv2.resize(mask, (270, 480), interpolation=cv2.INTER_NEAREST)
    cameras = {"cam01": {"7": rle}, EGO: {"7": rle}}
    annotated = {"cup": {"cam01": [7], EGO: [7]}}
    truth = {"annotations": {"t": {"masks": {"cup": cameras}, "annotated_frames": annotated}}}
    entry = {"pred_mask": MaskRle.encode(small).to_json(), "confidence": 1.0}
    results = {"t": {"masks": {"cup": {f"{EGO}_cam01": {"7": entry}}}}}
    evaluation = evaluate(
        save(truth, tmp_path / "gt.json"),
        save({"ego-exo": {"results": results}}, tmp_path / "p.json"),
        protocol="official",
    )
    assert evaluation.summary["iou"] == pytest.approx(1.0, abs=1e-9)
    assert evaluation.summary["split"] == "unstated"
    assert evaluation.scores["scored_height"].to_pylist() == [480]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1, 2]", "is not a JSON object"),
        ("{", "is not JSON"),
        ('{"annotations": {}}', "neither ego-exo nor exo-ego"),
        ('{"exo-ego": {}}', "exo-ego has no results"),
        ('{"exo-ego": {"results": {}}, "ego-exo": {"results": {}}}', "1 takes without"),
    ],
)
def test_files_that_are_no_predictions(
    truth: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        evaluate(truth, path, protocol="official")


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from keys_of(inner, (*path, key))


@pytest.mark.slow
def test_any_damage_ends_in_a_sentence(root: DatasetRoot, truth: Path, tmp_path: Path) -> None:
    """One value replaced by nonsense, anywhere in either file: a DataError or a score."""
    junk = [None, 1, -1, "x", [], {}, float("nan"), [1, 2], {"size": [1, 1]}, True, 2**70]
    rng = np.random.default_rng(0)
    whole = {"gt.json": json.loads(truth.read_text()), "p.json": shifted_predictions(truth)}
    refused = 0
    for number in range(60):
        files = copy.deepcopy(whole)
        name = ("gt.json", "p.json")[number % 2]
        paths = list(keys_of(files[name]))
        *parents, last = paths[rng.integers(len(paths))]
        place: Any = files[name]
        for key in parents:
            place = place[key]
        place[last] = junk[rng.integers(len(junk))]
        gt, predictions = (save(value, tmp_path / key) for key, value in files.items())
        protocol = ("official", "omama", "lm-eec")[number % 3]
        try:
            evaluate(gt, predictions, protocol=protocol, root=root, quiet=True)
        except DataError:
            refused += 1
        with contextlib.suppress(DataError):
            import_predictions(root, predictions, "theirs")
    assert refused > 15
