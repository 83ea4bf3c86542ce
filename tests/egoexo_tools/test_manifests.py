from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import (
    SCHEMAS,
    read_manifest,
    to_table,
    write_exclusions,
    write_manifest,
)

ROWS = [
    {"take_uid": "b", "camera": "cam01", "frame_idx": 30, "height": 540, "width": 960},
    {"take_uid": "b", "camera": "cam01", "frame_idx": 0, "path": "x.jpg"},
]


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(tmp_path)


@pytest.mark.parametrize("make", [list, pd.DataFrame, pa.Table.from_pylist])
def test_rows_in_any_form_get_the_schema(make: object) -> None:
    table = to_table("frames", make(ROWS))  # type: ignore[operator]
    assert table.schema == SCHEMAS["frames"]
    assert table.column("frame_idx").to_pylist() == [30, 0]
    assert table.column("height").to_pylist() == [540, None]


def test_rows_may_be_a_dict_of_columns_or_empty() -> None:
    assert to_table("frames", {"frame_idx": [1, 2]}).num_rows == 2
    assert to_table("frames", []).schema == SCHEMAS["frames"]


def test_unknown_columns_and_tables_are_rejected() -> None:
    with pytest.raises(DataError, match="table frames has no column colour"):
        to_table("frames", [{"colour": 1}])
    with pytest.raises(DataError, match="'things' is not a table"):
        to_table("things", [])


def test_parts_are_read_in_name_order_with_filters(root: DatasetRoot) -> None:
    write_manifest(root, "frames", "b.cam01", ROWS)
    write_manifest(root, "frames", "a.cam01", [{"take_uid": "a", "frame_idx": 7}])
    assert read_manifest(root, "frames").column("take_uid").to_pylist() == ["a", "b", "b"]
    frames = read_manifest(
        root, "frames", columns=["frame_idx"], filters=pc.field("frame_idx") > 5, units=["b.cam01"]
    )
    assert frames.to_pydict() == {"frame_idx": [30]}


def test_pandas_reads_a_table_directory(root: DatasetRoot) -> None:
    write_manifest(root, "frames", "b.cam01", ROWS)
    assert len(pd.read_parquet(root.table("frames"))) == 2


def test_a_missing_table_is_explained_with_its_command(root: DatasetRoot) -> None:
    with pytest.raises(DataError, match="no pairs manifest; run `egoexo-tools pairs` first"):
        read_manifest(root, "pairs")
    assert read_manifest(root, "exclusions").num_rows == 0


def test_parts_of_another_version_or_format_are_rejected(root: DatasetRoot) -> None:
    path = root.part("frames", "a")
    path.parent.mkdir(parents=True)
    pq.write_table(SCHEMAS["frames"].empty_table(), path)
    with pytest.raises(DataError, match="has schema version none"):
        read_manifest(root, "frames")
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        read_manifest(root, "frames")


def test_exclusions_are_replaced_with_their_unit(root: DatasetRoot) -> None:
    write_exclusions(root, "frames", "a.cam01", [{"take_uid": "a", "reason": "beyond the end"}])
    row = read_manifest(root, "exclusions").to_pylist()[0]
    assert (row["stage"], row["reason"]) == ("frames", "beyond the end")
    write_exclusions(root, "frames", "a.cam01", [])
    assert read_manifest(root, "exclusions").num_rows == 0


MASKS = [
    {"take_uid": "b", "frame_idx": 0, "visible": False},
    {"take_uid": "b", "frame_idx": 30, "visible": True, "bbox_xywh": [1, 2, 3, 4]},
    {"take_uid": "b", "frame_idx": 60, "visible": False},
]


class BrokenDataset:
    """Fails as in pyarrow 25.0.1."""

    def to_table(self, **_: object) -> pa.Table:
        raise pa.ArrowInvalid("Expected all lists to be of size=4 but index 0 had size=0")


def test_boxes_that_pyarrow_cannot_read_are_read_as_lists(
    root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(root, "masks", "b", MASKS)
    request = {"columns": ["frame_idx", "bbox_xywh"], "filters": pc.field("frame_idx") >= 30}
    expected = read_manifest(root, "masks", **request)
    assert expected.column("bbox_xywh").to_pylist() == [[1, 2, 3, 4], None]
    monkeypatch.setattr("egoexo_tools.manifests.ds.dataset", lambda *_, **__: BrokenDataset())
    assert read_manifest(root, "masks", **request) == expected
    assert read_manifest(root, "masks").schema == SCHEMAS["masks"]
