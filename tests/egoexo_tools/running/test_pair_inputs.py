"""Pairs, pictures and proposals that are older than what they are made from are refused by name."""

from pathlib import Path

import pytest
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.pair_inputs import check_inputs, check_pairs, input_parts
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.pairs import run_pairs
from egoexo_tools.stages.propose import run_propose
from egoexo_tools.vocab import Direction, Split

INLINE = RunOptions(executor="inline", quiet=True)
TRAIN, _, VAL, TEST = TAKES


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return make_tiny_root(tmp_path / "root")


def rewrite(root: DatasetRoot, table: str, unit: str, **values: object) -> None:
    """Change columns of all rows of a part."""
    rows = read_manifest(root, table, units=[unit]).to_pylist()
    write_manifest(root, table, unit, [{**row, **values} for row in rows])


def test_pairs_of_a_take_in_another_split_or_in_none(root: DatasetRoot) -> None:
    check_pairs(root)
    rewrite(root, "takes", VAL, split="test")
    check_pairs(root, ["train.ego2exo", "test.exo2ego"])
    with pytest.raises(DataError, match=f"val pairs of .* take {VAL}, which is in the test split"):
        check_pairs(root)
    root.part("takes", VAL).unlink()
    with pytest.raises(DataError, match=f"{VAL}, which is not in the root now; run .* pairs"):
        check_pairs(root, ["val.ego2exo"])


def test_a_split_without_takes_loses_its_pairs_and_pair_files(root: DatasetRoot) -> None:
    run_pairs(root, run=INLINE).check()
    rewrite(root, "takes", VAL, split="test")
    run_pairs(root, run=INLINE).check()
    assert {path.stem.split(".")[0] for path in root.table("pairs").iterdir()} == {"train", "test"}
    assert not list(root.path.glob("dataset_jsons/val_*"))
    check_pairs(root)


def test_changed_masks_make_only_the_pairs_of_their_split_stale(root: DatasetRoot) -> None:
    run_pairs(root, run=INLINE).check()
    rewrite(root, "masks", TRAIN, area=1)
    check_pairs(root, ["val.ego2exo", "test.ego2exo"])
    with pytest.raises(DataError, match="the pairs train.ego2exo of .* are older than"):
        check_pairs(root)


def test_proposals_older_than_their_frames(root: DatasetRoot) -> None:
    for proposer in ("regions", "oracle"):
        options = RunOptions(executor="inline", quiet=True, overwrite=True)
        run_propose(root, proposer=proposer, run=options).check()
        check_inputs(root, Split.TEST, Direction.EGO2EXO)
    rewrite(root, "frames", f"{TEST}.cam01", source_width=1)
    check_inputs(root, Split.VAL, Direction.EGO2EXO)
    check_inputs(root, Split.TEST, Direction.EGO2EXO, proposals=False)
    with pytest.raises(DataError, match=f"proposals of {TEST}.cam01 are older than its frames"):
        check_inputs(root, Split.TEST, Direction.EGO2EXO)
    root.frame(TEST, EGO, 0).write_bytes(b"")
    with pytest.raises(DataError, match="/0.jpg of .* changed or disappeared"):
        check_inputs(root, Split.TEST, Direction.EGO2EXO, proposals=False)


def test_input_parts_are_those_of_the_pairs_own_takes(root: DatasetRoot) -> None:
    parts = input_parts(root, Split.VAL, Direction.EXO2EGO)
    assert [root.relative(part).removeprefix("manifests/") for part in parts] == [
        "pairs/val.exo2ego.parquet",
        f"takes/{VAL}.parquet",
        f"masks/{VAL}.parquet",
        f"frames/{VAL}.{EGO}.parquet",
        f"proposals/{VAL}.{EGO}.parquet",
        f"frames/{VAL}.cam01.parquet",
        f"proposals/{VAL}.cam01.parquet",
    ]
