"""Predictions that do not fit the ground truth, and the samples that a protocol requires."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_predictions import TAKE, Json, break_masks, cup_entries, save_json, shifted_predictions
from tiny_root import EGO

from egoexo_tools.cli import main
from egoexo_tools.evaluation.align import Problems, match_take
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Protocol


def drop_take(predictions: Json) -> None:
    del predictions["exo-ego"]["results"][TAKE]


def drop_object(predictions: Json) -> None:
    del predictions["exo-ego"]["results"][TAKE]["masks"]["red cup"]


def drop_frame(predictions: Json) -> None:
    del cup_entries(predictions)["30"]


def add_keys(predictions: Json) -> None:
    cup_entries(predictions)["31"] = cup_entries(predictions)["30"]
    take = predictions["exo-ego"]["results"][TAKE]
    take["masks"]["blue cup"] = take["masks"]["red cup"]
    take["masks"]["red cup"]["cam07_aria01_214-1"] = {}
    predictions["exo-ego"]["results"]["another"] = take


def nan_confidence(predictions: Json) -> None:
    cup_entries(predictions)["30"]["confidence"] = float("nan")
    cup_entries(predictions)["60"]["confidence"] = "high"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "lines", "samples"),
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
            break_masks,
            ["1 predictions that are not", "1 predicted masks with broken run lengths"],
            4,
        ),
        (nan_confidence, ["2 confidences that are not finite numbers", "frame 30 (nan)"], 4),
    ],
)
def test_problems_are_listed_by_kind(
    truth: Path, tmp_path: Path, damage: Callable[[Json], None], lines: list[str], samples: int
) -> None:
    predictions = shifted_predictions(truth)
    damage(predictions)
    path = save_json(predictions, tmp_path / "p.json")
    arguments = ["evaluate", "--ground-truth", str(truth), "--predictions", str(path)]
    result = CliRunner().invoke(main, [*arguments, "--protocol", "official", "--quiet"])
    assert result.exit_code == 1
    for line in lines:
        assert line in result.output
    result = CliRunner().invoke(
        main, [*arguments, "--protocol", "official", "--quiet", "--partial"]
    )
    if samples:
        assert result.exit_code == 0, result.output
        assert f"{samples} of 6 expected samples scored" in result.output
    else:
        assert "no sample in common" in result.output


def test_the_official_protocol_requires_every_pair_of_cameras() -> None:
    rle = MaskRle(2, 3, "6").to_json()
    frames = {"0": rle, "30": rle}
    truth = {
        "masks": {"cup": {EGO: frames, "cam01": frames, "cam02": frames}},
        "annotated_frames": {"cup": {EGO: [0, 30], "cam01": [0, 30], "cam02": [0, 30]}},
    }
    entries = {key: {"pred_mask": rle, "confidence": 1.0} for key in frames}
    problems = Problems()
    samples = match_take(
        "take",
        truth,
        {"cup": {f"{EGO}_cam01": entries}},
        direction=Direction.EGO2EXO,
        protocol=Protocol.OFFICIAL,
        problems=problems,
    )
    assert (len(samples), samples.expected) == (2, 4)
    assert problems.counts == {"missing_pair": 1}
