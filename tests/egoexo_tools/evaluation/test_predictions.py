"""Predictions in other formats, and files that are not predictions."""

import copy
from pathlib import Path

import pytest
from tiny_predictions import TAKE, break_masks, save_json, shifted_predictions
from tiny_root import EGO

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.evaluate import evaluate
from egoexo_tools.importing.predictions import import_predictions
from egoexo_tools.layout import DatasetRoot


def test_omama_json_and_lm_eec_folders_score_like_the_official_json(
    truth: Path, tmp_path: Path
) -> None:
    predictions = shifted_predictions(truth, shift=5)
    official = evaluate(truth, save_json(predictions, tmp_path / "p.json"), protocol="lm-eec")
    theirs = copy.deepcopy(predictions)
    for key in ("version", "challenge"):
        del theirs["exo-ego"][key]
    folder = tmp_path / "frames"
    for take_uid, take in theirs["exo-ego"]["results"].items():
        for name, pairs in take["masks"].items():
            for frame, entry in pairs[f"cam01_{EGO}"].items():
                path = folder / take_uid / f"cam01__{EGO}" / name / f"{frame}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_json(entry["pred_mask"], path)
                entry["confidence"] = [entry["confidence"]]
    (folder / TAKE / "annotations.json").write_text("{}")
    for source in (save_json(theirs, tmp_path / "omama.json"), folder):
        assert evaluate(truth, source, protocol="lm-eec").scores.equals(official.scores)


def test_imported_predictions_score_as_before(
    root: DatasetRoot, truth: Path, tmp_path: Path
) -> None:
    path = save_json(shifted_predictions(truth, shift=5), tmp_path / "p.json")
    assert import_predictions(root, path, "theirs").predictions == 6
    before = evaluate(truth, path, protocol="official").scores
    for name in ("predictions.json", "predictions.parquet"):
        after = evaluate(truth, root.runs / "theirs" / name, protocol="official").scores
        columns = [column for column in after.column_names if column != "confidence"]
        assert after.select(columns).equals(before.select(columns))


def test_a_broken_mask_is_left_out_of_an_import(
    root: DatasetRoot, truth: Path, tmp_path: Path
) -> None:
    predictions = shifted_predictions(truth)
    break_masks(predictions)
    assert (
        import_predictions(root, save_json(predictions, tmp_path / "p.json"), "theirs").predictions
        == 4
    )
    left_out = (root.runs / "theirs" / "left_out.csv").read_text()
    assert "'red cup', cam01_aria01_214-1, frame" in left_out


@pytest.mark.slow
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
def test_files_that_are_not_predictions_are_rejected(
    truth: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        evaluate(truth, path, protocol="official")
