import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_root import EGO, TAKES, make_tiny_root, pairs_by_loop

from egoexo_tools.cli import main
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.records import RunOptions
from egoexo_tools.sampling import Sampling, SplitSampling
from egoexo_tools.stages.pairs import run_pairs
from egoexo_tools.vocab import Direction, Split

FIRST, SECOND = list(TAKES)[:2]
SAMPLE = {
    f"{FIRST}/{EGO}>cam01/30/red cup",
    f"{FIRST}/{EGO}>cam02/0/red cup",
    f"{FIRST}/{EGO}>cam02/90/red cup",
    f"{FIRST}/{EGO}>cam01/90/green box/lid",
    f"{SECOND}/{EGO}>cam01/60/red cup",
    f"{SECOND}/{EGO}>cam01/90/red cup",
    f"{SECOND}/{EGO}>cam01/90/green box/lid",
}
"""The train pairs that seed 5 takes; never to change, on any machine."""
SEVEN = SplitSampling(counts={"train": 7}, rule=Sampling(by="track", seed=5))
RUN = RunOptions(executor="inline", quiet=True)
AGAIN = RunOptions(executor="inline", quiet=True, overwrite=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_root(tmp_path_factory.mktemp("tiny")).path


@pytest.fixture
def root(template: Path, tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(Path(shutil.copytree(template, tmp_path / "root")))


def pairs_of(root: DatasetRoot, unit: str) -> pd.DataFrame:
    return read_manifest(root, "pairs", units=[unit]).to_pandas()


@pytest.mark.slow
@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_pairs_equal_those_of_a_plain_loop(
    root: DatasetRoot, split: str, direction: Direction
) -> None:
    expected = [
        pair
        for take_uid, (take_split, *_) in TAKES.items()
        if take_split == split
        for pair in pairs_by_loop(
            read_manifest(root, "masks", units=[take_uid]).to_pylist(), direction, split
        )
    ]
    root.part("pairs", f"{split}.{direction}").unlink()
    run_pairs(root, run=RUN).check()
    assert read_manifest(root, "pairs", units=[f"{split}.{direction}"]).to_pylist() == expected
    assert len(expected) >= 6


def test_the_destination_has_three_states(root: DatasetRoot) -> None:
    run_pairs(root, run=RUN).check()
    pairs = pairs_of(root, "val.ego2exo").set_index(["object_name", "frame_idx"])["dest_state"]
    assert pairs["green box/lid"].to_dict() == {0: "visible", 30: "absent", 90: "unannotated"}
    assert "blue bowl" not in pairs.index


def test_the_pair_file_lists_ego_first_in_both_directions(root: DatasetRoot) -> None:
    summary = run_pairs(root, run=RUN).check()
    for direction in Direction:
        lines = json.loads(root.pairs_json(Split.TRAIN, direction).read_text())
        expected = [
            [
                "//".join(
                    ["processed", row.take_uid, camera, row.object_name, kind, str(row.frame_idx)]
                )
                for camera in sorted([row.source_camera, row.dest_camera])
                for kind in ("rgb", "mask")
            ]
            for row in pairs_of(root, f"train.{direction}").itertuples()
        ]
        assert lines == expected
    assert summary.counts["pairs"] == 60
    assert expected[0][2] == f"processed//{FIRST}//cam01//red cup//rgb//0"


def test_takes_come_in_the_order_of_split_json(root: DatasetRoot) -> None:
    root.split_json.write_text(json.dumps({"train": [SECOND, "not-here", FIRST]}))
    run_pairs(root, run=RUN).check()
    assert list(pairs_of(root, "train.ego2exo")["take_uid"].unique()) == [SECOND, FIRST]


def test_legacy_names_hold_the_same_pairs(root: DatasetRoot) -> None:
    run_pairs(root, legacy_names=True, run=RUN).check()
    folder = root.path / "dataset_jsons"
    for legacy, name in [
        ("train_exoego_20percent_pairs.json", "train_exoego_pairs.json"),
        ("custom_val_egoexo_pairs_10.json", "val_egoexo_pairs.json"),
    ]:
        assert (folder / legacy).read_bytes() == (folder / name).read_bytes()


def test_a_name_that_pair_files_cannot_hold_is_excluded(root: DatasetRoot) -> None:
    masks = read_manifest(root, "masks", units=[SECOND]).to_pandas()
    masks["object_name"] = masks["object_name"].replace({"red cup": 'a//"b" ü'})
    write_manifest(root, "masks", SECOND, masks)
    run_pairs(root, run=RUN).check()
    pairs = pairs_of(root, "train.exo2ego")
    lines = json.loads(root.pairs_json(Split.TRAIN, Direction.EXO2EGO).read_text())
    assert (pairs["object_name"] == 'a//"b" ü').sum() == 4
    assert len(lines) == len(pairs) - 4
    excluded = read_manifest(root, "exclusions").to_pylist()
    assert {row["object_name"] for row in excluded} == {'a//"b" ü'}
    assert {row["stage"] for row in excluded} == {"pairs"}


def test_names_are_escaped_in_the_pair_file(root: DatasetRoot) -> None:
    masks = read_manifest(root, "masks", units=[SECOND]).to_pandas()
    masks["object_name"] = masks["object_name"].replace({"red cup": 'a "ü" \\ b'})
    write_manifest(root, "masks", SECOND, masks)
    run_pairs(root, run=RUN).check()
    lines = json.loads(root.pairs_json(Split.TRAIN, Direction.EGO2EXO).read_text())
    assert f'processed//{SECOND}//{EGO}//a "ü" \\ b//mask//30' in {line[1] for line in lines}


def test_other_settings_need_overwrite(root: DatasetRoot) -> None:
    run_pairs(root, sampling=SplitSampling(counts={"train": 5}), run=RUN).check()
    assert run_pairs(root, sampling=SplitSampling(counts={"train": 5}), run=RUN).skipped == 6
    with pytest.raises(SettingsError, match="count="):
        run_pairs(root, sampling=SplitSampling(counts={"train": 6}), run=RUN)
    run_pairs(root, sampling=SplitSampling(counts={"train": 6}), run=AGAIN).check()
    assert len(pairs_of(root, "train.ego2exo")) == 6
    assert len(pairs_of(root, "val.ego2exo")) == 7


def test_too_large_a_sample_fails_its_own_unit(root: DatasetRoot) -> None:
    summary = run_pairs(root, sampling=SplitSampling(counts={"train": 17}), run=RUN)
    assert [result.unit for result in summary.failed] == ["train.exo2ego"]
    assert "17 pairs are requested and 16 are available" in summary.text()
    assert len(pairs_of(root, "train.ego2exo")) == 17


def test_a_split_without_masks_has_no_pairs(root: DatasetRoot) -> None:
    write_manifest(root, "masks", list(TAKES)[2], [])
    run_pairs(
        root,
        sampling=SplitSampling({"val": 0.5}, rule=Sampling(by="track", balance="scenario")),
        run=RUN,
    ).check()
    assert pairs_of(root, "val.ego2exo").empty
    assert json.loads(root.pairs_json(Split.VAL, Direction.EGO2EXO).read_text()) == []


def test_a_sample_does_not_depend_on_the_order_of_takes_and_rows(root: DatasetRoot) -> None:
    run_pairs(root, sampling=SEVEN, run=RUN).check()
    before = set(pairs_of(root, "train.ego2exo")["pair_id"])
    root.split_json.write_text(json.dumps({"train": [SECOND, FIRST]}))
    masks = read_manifest(root, "masks", units=[FIRST]).to_pandas()
    write_manifest(root, "masks", FIRST, masks.iloc[::-1])
    run_pairs(root, sampling=SEVEN, run=RUN).check()
    after = list(pairs_of(root, "train.ego2exo")["pair_id"])
    assert set(after) == before == SAMPLE
    assert after[0].startswith(SECOND)


def test_a_repeated_mask_row_is_refused(root: DatasetRoot) -> None:
    masks = read_manifest(root, "masks", units=[SECOND]).to_pandas()
    write_manifest(root, "masks", SECOND, pd.concat([masks, masks]))
    assert "twice" in run_pairs(root, run=RUN).text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--count", "train=5", "--fraction", "val=0.5", "--by", "track"], 0, "pairs: 6 done"),
        (["--fraction", "train"], 2, "is not SPLIT=NUMBER; write it as train=0.2"),
        (["--count", "dev=3"], 2, "'dev=3' is not SPLIT=NUMBER; write it as val=1950"),
        (["--count", "val=3", "--fraction", "val=0.1"], 2, "not both"),
        (["--count", "val=999"], 1, "999 pairs are requested"),
    ],
)
def test_the_command(root: DatasetRoot, arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(main, ["pairs", str(root.path), "--quiet", *arguments])
    assert (result.exit_code, message in result.output) == (code, True), result.output
