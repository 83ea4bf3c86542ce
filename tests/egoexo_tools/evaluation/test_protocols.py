"""Every protocol of one prediction file: the goldens' values, and a slow twin on random takes."""

import json
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from egoexo_tools.arrays import Bool
from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.both_visible import (
    intersection_over_union,
    released_values,
    score_relation,
    score_vggt,
)
from egoexo_tools.evaluation.ground_truth import read_ground_truth
from egoexo_tools.evaluation.predictions import read_predictions
from egoexo_tools.evaluation.protocols import evaluate_protocols
from egoexo_tools.formats.objectrelator import natural_key
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Protocol

EGO, EXO = "aria01_214-1", "cam01"
DIRECTIONS = ("ego2exo", "exo2ego")


@pytest.fixture(scope="session")
def evaluators(goldens: Path) -> Path:
    return goldens / "evaluators"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("relation", [None, "list", "dict"])
def test_goldens(evaluators: Path, direction: str, relation: str | None) -> None:
    expected = json.loads((evaluators / "expected.json").read_text())[direction]
    file = None if relation is None else evaluators / f"relation_{relation}_{direction}.json"
    truth, predictions = (
        evaluators / "ground_truth.json",
        evaluators / f"predictions_{direction}.json",
    )
    for ranks in (1, 2, 4, 8):
        summaries = evaluate_protocols(truth, predictions, relation=file, ranks=ranks, quiet=True)
        released = expected["v2sam-released"][f"{ranks} ranks"]
        for name in ("iou", "dice"):
            value = summaries[Protocol.V2SAM_RELEASED][name]
            assert value == pytest.approx(released[name], abs=1e-12)
    for protocol in (Protocol.BOTH_VISIBLE, Protocol.BOTH_VISIBLE_FRAMES):
        for name in ("iou", "dice"):
            assert summaries[protocol][name] == pytest.approx(expected[protocol][name], abs=1e-12)
    assert summaries[Protocol.BOTH_VISIBLE]["pairs"] == expected["pairs"]
    assert summaries[Protocol.BOTH_VISIBLE]["samples"] == expected["objects"]
    by_take = summaries[Protocol.OBJECTRELATOR]["iou_by_take"]
    assert by_take == pytest.approx(expected["objectrelator"]["by_take"], abs=1e-12)
    vggt = expected["vggt-s"]
    assert summaries[Protocol.VGGT_S]["samples"] == vggt["samples"]
    assert summaries[Protocol.VGGT_S]["iou"] == pytest.approx(vggt["iou_every_1"], abs=1e-12)
    for protocol in (Protocol.OFFICIAL, Protocol.OMAMA, Protocol.LM_EEC):
        for name in ("iou", "contour_accuracy", "location_error", "visibility_accuracy"):
            assert summaries[protocol][name] == pytest.approx(expected[protocol][name], abs=1e-12)
    existence = expected["official"]["existence_accuracy_plain"]
    assert summaries[Protocol.OFFICIAL]["existence_plain"] == pytest.approx(existence, abs=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_goldens_of_every_sample(evaluators: Path, direction: str) -> None:
    expected = json.loads((evaluators / "expected.json").read_text())[direction]
    truth = read_ground_truth(evaluators / "ground_truth.json")
    predictions = read_predictions(evaluators / f"predictions_{direction}.json")
    scores = score_relation(truth, predictions)
    objects = list(chain.from_iterable(expected["per_object_iou_at_1024"]))
    ious = intersection_over_union(scores.at_sam_size).tolist()
    assert ious == pytest.approx(objects, abs=1e-12)
    vggt = score_vggt(truth, predictions)
    keys = [
        f"{row.take_uid}//{ego}//{exo}//{row.object_name}//{row.frame_idx:06d}"
        for row in vggt.samples.itertuples()
        for ego, exo in [sorted((row.source_camera, row.dest_camera))]
    ]
    values = dict(zip(keys, intersection_over_union(vggt.at_own_size).tolist(), strict=True))
    assert values == pytest.approx(expected["vggt-s"]["ious"], abs=1e-12)


def nearest(mask: Bool, height: int, width: int) -> Bool:
    rows = [row * mask.shape[0] // height for row in range(height)]
    columns = [column * mask.shape[1] // width for column in range(width)]
    return mask[rows][:, columns]


@pytest.fixture
def small_files(tmp_path: Path) -> tuple[Path, Path, dict[tuple[str, int], tuple[Bool, Bool]]]:
    """One take, three objects, five frames, and the masks (truth, prediction) by object, frame."""
    rng = np.random.default_rng(3)
    masks: dict[str, Any] = {}
    predicted: dict[str, Any] = {}
    samples: dict[tuple[str, int], tuple[Bool, Bool]] = {}
    for number, name in enumerate(("lid_10", "lid_2", "cup")):
        masks[name] = {EGO: {}, EXO: {}}
        predicted[name] = {f"{EGO}_{EXO}": {}}
        for frame in range(0, 150, 30):
            if (frame // 30 + number) % 4 == 3:  # no source mask
                continue
            source, truth = (rng.random((32, 32)) < 0.4), (rng.random((36, 64)) < 0.4)
            answer = truth[::4, ::4] ^ (rng.random((9, 16)) < 0.3)
            masks[name][EGO][str(frame)] = MaskRle.encode(source).to_json()
            if (frame // 30 + number) % 5:  # else absent in the destination
                masks[name][EXO][str(frame)] = MaskRle.encode(truth).to_json()
                samples[name, frame] = truth, answer
            predicted[name][f"{EGO}_{EXO}"][str(frame)] = {
                "pred_mask": MaskRle.encode(answer).to_json(),
                "confidence": 0.9,
            }
    frames = list(range(0, 150, 30))
    take = {
        "masks": masks,
        "subsample_idx": frames,
        "annotated_frames": {name: {EGO: frames, EXO: frames} for name in masks},
    }
    truth_path, predictions_path = tmp_path / "truth.json", tmp_path / "predictions.json"
    head = {"version": "xx", "challenge": "xx"}
    truth_path.write_text(json.dumps({**head, "annotations": {"take": take}}))
    results = {"take": {"masks": predicted, "subsample_idx": frames}}
    predictions_path.write_text(json.dumps({"ego-exo": {**head, "results": results}}))
    return truth_path, predictions_path, samples


def test_means_against_a_slow_twin(
    small_files: tuple[Path, Path, dict[tuple[str, int], tuple[Bool, Bool]]],
) -> None:
    truth_path, predictions_path, samples = small_files
    summaries = evaluate_protocols(
        truth_path, predictions_path, protocols=(Protocol.BOTH_VISIBLE, Protocol.OBJECTRELATOR,
        Protocol.BOTH_VISIBLE_FRAMES, Protocol.V2SAM_RELEASED), ranks=2, quiet=True
    )  # fmt: skip
    # The object with the most source masks, the first in natural order of several, has the frames.
    source_frames = {
        name: [frame for frame in range(0, 150, 30) if (frame // 30 + number) % 4 != 3]
        for number, name in enumerate(("lid_10", "lid_2", "cup"))
    }
    names = ["cup", "lid_2", "lid_10"]
    longest = max(names, key=lambda name: len(source_frames[name]))
    pairs, summed = [], [0, 0]
    for frame in source_frames[longest]:
        values = []
        for name in names:
            if (name, frame) in samples:
                truth, answer = samples[name, frame]
                small = nearest(truth, 9, 16)
                if not small.any():
                    continue
                a, b = nearest(answer, 1024, 1024), nearest(small, 1024, 1024)
                values.append((a & b).sum() / ((a | b).sum() + 1e-6))
                summed[0] += int((answer & small).sum())
                summed[1] += int((answer | small).sum())
        if values:
            pairs.append(values)
    flat = list(chain.from_iterable(pairs))
    lists = [list(chain.from_iterable(pairs[rank::2])) for rank in range(2)]
    if len(pairs) % 2:
        lists[1] += pairs[0]
    dealt = [v for v in chain.from_iterable(zip_longest(*lists)) if v is not None][: len(pairs)]
    assert summaries[Protocol.BOTH_VISIBLE]["iou"] == pytest.approx(np.mean(flat), abs=1e-12)
    frame_mean = np.mean([np.mean(pair) for pair in pairs])
    assert summaries[Protocol.BOTH_VISIBLE_FRAMES]["iou"] == pytest.approx(frame_mean, abs=1e-12)
    assert summaries[Protocol.V2SAM_RELEASED]["iou"] == pytest.approx(np.mean(dealt), abs=1e-12)
    ratio = summed[0] / (summed[1] + 1e-10)
    assert summaries[Protocol.OBJECTRELATOR]["iou"] == pytest.approx(ratio, abs=1e-12)


def test_released_values_are_cut_to_the_number_of_pairs() -> None:
    assert released_values([[1.0, 2.0], [3.0], [4.0, 5.0]], 1) == [1.0, 2.0, 3.0]
    # Two processes: pairs 0 and 2, and pairs 1 and 0 again.
    assert released_values([[1.0, 2.0], [3.0], [4.0, 5.0]], 2) == [1.0, 3.0, 2.0]


def test_names_sort_naturally() -> None:
    assert sorted(["lid_10", "lid_2", "cup"], key=natural_key) == ["cup", "lid_2", "lid_10"]


def test_a_missing_prediction_is_an_error_of_its_protocols_alone(
    small_files: tuple[Path, Path, Any],
) -> None:
    truth, predictions, _ = small_files
    content = json.loads(predictions.read_text())
    del content["ego-exo"]["results"]["take"]["masks"]["cup"][f"{EGO}_{EXO}"]["0"]
    predictions.write_text(json.dumps(content))
    summaries = evaluate_protocols(truth, predictions, quiet=True)
    reason = summaries[Protocol.BOTH_VISIBLE]["error"]
    assert "frames without a prediction" in reason and "'cup'" in reason
    assert "error" in summaries[Protocol.VGGT_S] and "error" in summaries[Protocol.OFFICIAL]
    assert summaries[Protocol.OMAMA]["samples"] > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "no object with a mask in both views"),
        ('"text"', "neither a list nor a dict"),
        ('[{"image": "../x.jpg"}]', "is not a relation sample"),
        (
            '[{"image": "other/cam01/0.jpg", "first_frame_image": "other/aria/0.jpg", "anns": []}]',
            "has no take other",
        ),
    ],
)
def test_a_relation_file_that_does_not_fit_is_named(
    small_files: tuple[Path, Path, Any], tmp_path: Path, content: str, reason: str
) -> None:
    truth, predictions, _ = small_files
    relation = tmp_path / "relation.json"
    relation.write_text(content)
    with pytest.raises(DataError, match=reason):
        score_relation(read_ground_truth(truth), read_predictions(predictions), relation=relation)


def test_the_command_prints_a_line_per_protocol_and_writes_all_of_it(
    small_files: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    truth, predictions, _ = small_files
    arguments = ["evaluate", "--protocol", "all", "--quiet", "--json", str(tmp_path / "all.json")]
    result = CliRunner().invoke(
        main, [*arguments, "--ground-truth", str(truth), "--predictions", str(predictions)]
    )
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[1:9]] == [str(protocol) for protocol in Protocol]
    content = json.loads((tmp_path / "all.json").read_text())
    assert list(content) == [str(protocol) for protocol in Protocol]
    assert f"{content['both-visible']['iou']:.4f}" in lines[4]
