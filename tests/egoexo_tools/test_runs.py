"""Run names, stamps and pair names."""

from pathlib import Path

import pyarrow as pa
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.manifests import write_table
from egoexo_tools.runs import (
    DEFAULT_METHOD,
    UNKNOWN_STAMP,
    RunFolder,
    Stamp,
    default_run_names,
    join_pair_id,
    join_pair_ids,
    read_stamp,
    run_name,
    split_pair_id,
)
from egoexo_tools.vocab import Direction

E2X = Direction.EGO2EXO


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ego2exo", (E2X, "o-mama")),
        ("exo2ego-knn", (Direction.EXO2EGO, "knn")),
        ("ego2exo-lm-eec", (E2X, "lm-eec")),
        ("ego2exo-decided", (E2X, "o-mama", "decided")),
    ],
)
def test_default_run_name(name: str, parts: tuple[Direction, str]) -> None:
    assert run_name(*parts) == name


def test_another_decision_is_part_of_name_and_title() -> None:
    stamp = Stamp("knn", "k-NN", True, decision="track")
    assert stamp.title == "k-NN, whole track, joint"
    assert run_name(E2X, "knn", "track") == "ego2exo-knn-track"
    assert default_run_names(E2X, stamp) == ("ego2exo-knn-track", "ego2exo-knn")
    trained = Stamp(DEFAULT_METHOD, "O-MaMa, trained", True, decision="track")
    assert default_run_names(E2X, trained) == ("ego2exo-track", "ego2exo", "ego2exo-decided")


def test_stamp_round_trip(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_stamp(run) == UNKNOWN_STAMP, "a folder without predictions"
    stamp = Stamp("knn", "k-NN", True, decision="track")
    for metadata, expected in ((stamp.to_metadata(), stamp), ({"split": "val"}, UNKNOWN_STAMP)):
        write_table(run.predictions, "predictions", [], metadata=metadata)
        assert read_stamp(run) == expected
    run.predictions.write_text("x")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_stamp(run)


def test_pair_id_round_trip() -> None:
    pair_id = join_pair_id("t", "aria01_214-1", "cam01", 30, "green box/lid")
    assert pair_id == "t/aria01_214-1>cam01/30/green box/lid"
    assert split_pair_id(pair_id) == ("t", "aria01_214-1", "cam01", 30, "green box/lid")
    columns = {
        "take_uid": pa.array(["t"]),
        "object_name": pa.array(["green box/lid"]),
        "source_camera": pa.array(["aria01_214-1"]),
        "dest_camera": pa.array(["cam01"]),
        "frame_idx": pa.array([30]),
    }
    assert join_pair_ids(columns).to_pylist() == [pair_id]
    with pytest.raises(DataError, match="'no pair' is not a pair_id"):
        split_pair_id("no pair")
