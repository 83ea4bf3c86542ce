"""Files in the benchmark's formats are read back by the readers of `import`."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError
from egoexo_tools.formats import benchmark
from egoexo_tools.importing.annotation_json import read_annotation_json
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, to_table
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.mask_folders import read_stack
from egoexo_tools.release.takes import read_split_file
from egoexo_tools.vocab import Direction, Split

FIRST = next(iter(TAKES))


def square(y: int, x: int, side: int, height: int = 54, width: int = 96) -> MaskRle:
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    return MaskRle.encode(mask)


def test_an_annotation_is_read_back_as_the_visible_mask_rows(
    root: DatasetRoot, tmp_path: Path
) -> None:
    rows = read_manifest(root, "masks", units=[FIRST]).to_pylist()
    path = tmp_path / "annotation.json"
    benchmark.write_annotation(path, rows, [0, 30], extra={"take_name": "x"})
    take = read_annotation_json(path, empty_is_absent=False)
    visible = [
        {name: value for name, value in row.items() if name != "take_uid"}
        for row in rows
        if row["visible"]
    ]
    assert take.masks.to_pylist() == visible
    assert (take.take_name, take.faults) == ("x", [])
    assert json.loads(path.read_text())["subsample_idx"] == [0, 30]


def test_a_camera_in_which_the_object_is_never_visible_is_an_empty_entry(tmp_path: Path) -> None:
    row = {"object_name": "cup", "camera": "cam01", "frame_idx": 3, "visible": False}
    benchmark.write_annotation(tmp_path / "a.json", [row], [3])
    assert json.loads((tmp_path / "a.json").read_text())["masks"] == {"cup": {"cam01": {}}}


def read_pairs(path: Path) -> list[dict[str, Any]]:
    pairs, faults = benchmark.read_pair_table(path)
    assert faults == []
    records: list[dict[str, Any]] = pairs.to_dict("records")
    return records


@pytest.mark.parametrize("direction", list(Direction))
def test_pair_files_are_read_back(root: DatasetRoot, tmp_path: Path, direction: Direction) -> None:
    table = read_manifest(root, "pairs", units=[f"train.{direction}"])
    benchmark.write_pairs(tmp_path / "pairs.json", table)
    ego = "source_camera" if direction is Direction.EGO2EXO else "dest_camera"
    exo = "dest_camera" if direction is Direction.EGO2EXO else "source_camera"
    pairs = read_pairs(tmp_path / "pairs.json")
    assert pairs == [
        {
            "take_uid": row["take_uid"],
            "object_name": row["object_name"],
            "frame_idx": row["frame_idx"],
            "ego_camera": row[ego],
            "exo_camera": row[exo],
        }
        for row in table.to_pylist()
    ]
    assert len(pairs) > 10


@pytest.mark.slow
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, unique=True))
def test_any_object_name_is_read_back_or_reported_as_unfit(names: list[str]) -> None:
    columns = {"take_uid": FIRST, "source_camera": EGO, "dest_camera": "cam01", "frame_idx": 30}
    table = to_table("pairs", [{**columns, "object_name": name} for name in names])
    fits = benchmark.names_fit(table["object_name"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.json"
        benchmark.write_pairs(path, table.filter(fits))
        object_names = [pair["object_name"] for pair in read_pairs(path)]
    assert object_names == [name for name, fit in zip(names, fits.to_pylist(), strict=True) if fit]
    assert all("//" in f"/{name}/" for name in set(names) - set(object_names))


def test_no_pairs_are_an_empty_list(root: DatasetRoot, tmp_path: Path) -> None:
    table = read_manifest(root, "pairs", units=["val.ego2exo"]).slice(0, 0)
    benchmark.write_pairs(tmp_path / "pairs.json", table)
    assert json.loads((tmp_path / "pairs.json").read_text()) == []


def test_pair_files_with_other_folders_are_read(tmp_path: Path) -> None:
    def entry(camera: str, kind: str) -> str:
        return f"/data//elsewhere//{FIRST}//{camera}//a/b cup//{kind}//90"

    line = [entry(EGO, "rgb"), entry(EGO, "mask"), entry("gp02", "rgb"), entry("gp02", "mask")]
    (tmp_path / "pairs.json").write_text(json.dumps([line]))
    assert read_pairs(tmp_path / "pairs.json") == [
        {
            "take_uid": FIRST,
            "object_name": "a/b cup",
            "frame_idx": 90,
            "ego_camera": EGO,
            "exo_camera": "gp02",
        }
    ]


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "7", "[" + "[], " * 99 + "[]]"])
def test_a_file_without_pairs_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(DataError, match="not a pair file"):
        benchmark.read_pair_table(tmp_path / "pairs.json")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "an entry has four parts"),
        (["a", "b", "c", "d"], "'a' is not <folder>//<take>"),
        (["r//t//cam01//o//rgb//1"] * 4, "cameras cam01, cam01 are not an ego and an exo"),
        ([f"r//t//{EGO}//o//rgb//x"] * 2 + ["r//t//cam01//o//rgb//x"] * 2, "not a frame number"),
        ([f"r//t//{EGO}//o//rgb//1"] * 2 + ["r//t//cam01//o//rgb//2"] * 2, "different takes"),
    ],
)
def test_an_entry_that_is_not_a_pair_is_described(
    tmp_path: Path, entry: list[str], message: str
) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps([entry]))
    pairs, (fault,) = benchmark.read_pair_table(tmp_path / "pairs.json")
    assert pairs.empty and fault.startswith("pairs.json, entry 0 is not a pair")
    assert message in fault


def test_faults_beyond_a_hundred_are_counted(tmp_path: Path) -> None:
    pair = [f"r//t//{EGO}//o//rgb//1"] * 2 + ["r//t//cam01//o//rgb//1"] * 2
    (tmp_path / "pairs.json").write_text(json.dumps([pair, *[[]] * 103]))
    pairs, faults = benchmark.read_pair_table(tmp_path / "pairs.json")
    assert (len(pairs), len(faults)) == (1, 101)
    assert faults[-1] == "pairs.json: 3 more entries are not pairs"


def test_proposals_are_read_back_at_the_size_of_the_frame(tmp_path: Path) -> None:
    rles = [square(10, 20, 8), square(0, 0, 54), square(20, 40, 16, height=108, width=192)]
    benchmark.write_proposals(tmp_path, 30, rles, height=54, width=96)
    masks, boxes = read_stack(tmp_path / "30_masks.npz", tmp_path / "30_boxes.npy")
    assert [MaskRle.encode(mask) for mask in masks] == [*rles[:2], square(10, 20, 8)]
    assert boxes is not None
    assert boxes.tolist() == [[20, 10, 7, 7], [0, 0, 53, 53], [20, 10, 7, 7]]
    with np.load(tmp_path / "30_masks.npz") as archive:
        assert list(archive) == ["arr_0"]
        assert (archive["arr_0"].dtype, archive["arr_0"].shape) == (np.uint8, (3, 54, 96))
        assert archive["arr_0"].max() == 1


def test_equal_masks_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        benchmark.write_proposals(tmp_path / folder, 0, [square(1, 2, 3)], height=54, width=96)
    assert (tmp_path / "a" / "0_masks.npz").read_bytes() == (
        tmp_path / "b" / "0_masks.npz"
    ).read_bytes()


def test_splits_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    benchmark.write_splits(path, {"train": ["b", "a"], "test": ["c"]})
    assert json.loads(path.read_text()) == {"train": ["b", "a"], "val": [], "test": ["c"]}
    splits = {"b": [Split.TRAIN], "a": [Split.TRAIN], "c": [Split.TEST]}
    assert read_split_file(path) == (splits, [])


def test_names_of_pair_files() -> None:
    names = benchmark.pair_file_names(Split.TRAIN, Direction.EXO2EGO)
    assert names == ("train_exoego_pairs.json", "train_exoego_20percent_pairs.json")
    names = benchmark.pair_file_names(Split.VAL, Direction.EGO2EXO)
    assert names == ("val_egoexo_pairs.json", "custom_val_egoexo_pairs_10.json")
    assert benchmark.pair_file_names(Split.TEST, Direction.EGO2EXO) == ("test_egoexo_pairs.json",)
