"""Writing predictions as a run."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.runs import RunFolder, Stamp
from egoexo_tools.vocab import Direction
from omama.writing import write_run

ROW = {"pair_id": "t/aria01>cam01/0/cup", "confidence": 1.0, "rle_height": 2, "rle_width": 2,
       "rle_counts": "4"}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "predicted 1 pairs more than once, such as 't/aria01>cam01/0/cup'"),
        ([{**ROW, "confidence": None}], "left confidence empty in 1 of 1 predictions"),
        ([{**ROW, "rle_counts": None}], "left rle_counts empty in 1 of 1"),
    ],
)
def test_incomplete_predictions_are_refused_and_nothing_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    run = RunFolder(tmp_path / "ego2exo-x")
    tables = [pa.Table.from_pylist(rows)]
    with pytest.raises(DataError, match=message):
        write_run(run, tables, Stamp("x", "X", False), direction=Direction.EGO2EXO)
    assert not run.path.exists()


def test_both_files_are_written_or_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "ego2exo-x")
    tables = [pa.Table.from_pylist([{**ROW, "pair_id": "no pair"}])]
    with pytest.raises(DataError, match="is not a pair_id"):
        write_run(run, tables, Stamp("x", "X", False), direction=Direction.EGO2EXO)
    assert list(run.path.iterdir()) == []
