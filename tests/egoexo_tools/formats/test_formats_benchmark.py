import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.errors import DataError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, to_table
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Split

FIRST = next(iter(TAKES))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    return make_tiny_root(tmp_path_factory.mktemp("tiny"))


def square(y: int, x: int, side: int, height: int = 54, width: int = 96) -> MaskRle:
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    return MaskRle.encode(mask)


def test_annotation_comes_back_as_the_visible_mask_rows(root: DatasetRoot, tmp_path: Path) -> None:
    rows = read_manifest(root, "masks", units=[FIRST]).to_pylist()
    path = tmp_path / "annotation.json"
    benchmark.write_annotation(path, rows, [0, 30], extra={"take_name": "x"})
    found, subsample_idx = benchmark.read_annotation(path)
    assert subsample_idx == [0, 30]
    dropped = ("take_uid", "view")
    visible = [
        {name: value for name, value in row.items() if name not in dropped}
        for row in rows
        if row["visible"]
    ]
    assert found == visible
    assert json.loads(path.read_text())["take_name"] == "x"


def test_a_camera_that_never_sees_the_object_stays_as_an_empty_entry(tmp_path: Path) -> None:
    row = {"object_name": "cup", "camera": "cam01", "frame_idx": 3, "visible": False}
    benchmark.write_annotation(tmp_path / "a.json", [row], [3])
    assert json.loads((tmp_path / "a.json").read_text())["masks"] == {"cup": {"cam01": {}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"subsample_idx": []}', "is not an annotation.json"),
        ('{"masks": {"cup": []}}', "is not an annotation.json"),
        ('{"masks": {"cup": {"cam01": {"x": {"size": [1, 1], "counts": "1"}}}}}', "not an annot"),
        ('{"masks": {"cup": {"cam01": {"3": null}}}}', "cup, cam01, frame 3 holds null"),
        ('{"masks": {"cup": {"cam01": {"3": {"size": [2, 2], "counts": "1"}}}}}', "frame 3: the"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "annotation.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        benchmark.read_annotation(path)


@pytest.mark.parametrize("direction", list(Direction))
def test_pair_files_come_back(root: DatasetRoot, tmp_path: Path, direction: Direction) -> None:
    table = read_manifest(root, "pairs", units=[f"train.{direction}"])
    benchmark.write_pairs(tmp_path / "pairs.json", table)
    pairs = benchmark.read_pairs(tmp_path / "pairs.json")
    ego = "source_camera" if direction is Direction.EGO2EXO else "dest_camera"
    exo = "dest_camera" if direction is Direction.EGO2EXO else "source_camera"
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


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, unique=True))
def test_any_object_name_comes_back_or_is_known_not_to_fit(names: list[str]) -> None:
    columns = {"take_uid": FIRST, "source_camera": EGO, "dest_camera": "cam01", "frame_idx": 30}
    table = to_table("pairs", [{**columns, "object_name": name} for name in names])
    fits = benchmark.names_fit(table["object_name"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.json"
        benchmark.write_pairs(path, table.filter(fits))
        found = [pair["object_name"] for pair in benchmark.read_pairs(path)]
    assert found == [name for name, fit in zip(names, fits.to_pylist(), strict=True) if fit]
    assert all("//" in f"/{name}/" for name in set(names) - set(found))


def test_no_pairs_are_an_empty_list(root: DatasetRoot, tmp_path: Path) -> None:
    table = read_manifest(root, "pairs", units=["val.ego2exo"]).slice(0, 0)
    benchmark.write_pairs(tmp_path / "pairs.json", table)
    assert benchmark.read_pairs(tmp_path / "pairs.json") == []


def test_pair_files_of_other_programs_are_read(tmp_path: Path) -> None:
    def entry(camera: str, kind: str) -> str:
        return f"/data//elsewhere//{FIRST}//{camera}//a/b cup//{kind}//90"

    line = [entry(EGO, "rgb"), entry(EGO, "mask"), entry("gp02", "rgb"), entry("gp02", "mask")]
    (tmp_path / "pairs.json").write_text(json.dumps([line]))
    assert benchmark.read_pairs(tmp_path / "pairs.json") == [
        {
            "take_uid": FIRST,
            "object_name": "a/b cup",
            "frame_idx": 90,
            "ego_camera": EGO,
            "exo_camera": "gp02",
        }
    ]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"a": 1}',
        "[[]]",
        '[["a", "b", "c", "d"]]',
        json.dumps([["r//t//cam01//o//rgb//1"] * 4]),
        json.dumps([[f"r//t//{EGO}//o//rgb//x", "", "r//t//cam01//o//rgb//x", ""]]),
        "7",
    ],
)
def test_a_file_that_holds_no_pairs_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(DataError, match="not a pair file"):
        benchmark.read_pairs(tmp_path / "pairs.json")


def test_mask_folders_come_back_at_the_frames_size(tmp_path: Path) -> None:
    rles = [square(10, 20, 8), square(0, 0, 54), square(20, 40, 16, height=108, width=192)]
    benchmark.write_proposals(tmp_path, 30, rles, height=54, width=96)
    found, boxes = benchmark.read_proposals(tmp_path, 30)
    assert found == [*rles[:2], square(10, 20, 8)]
    assert boxes.tolist() == [[20, 10, 7, 7], [0, 0, 53, 53], [20, 10, 7, 7]]
    with np.load(tmp_path / "30_masks.npz") as archive:
        assert list(archive) == ["arr_0"]
        assert (archive["arr_0"].dtype, archive["arr_0"].shape) == (np.uint8, (3, 54, 96))
        assert archive["arr_0"].max() == 1


def test_the_same_masks_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        benchmark.write_proposals(tmp_path / folder, 0, [square(1, 2, 3)], height=54, width=96)
    assert (tmp_path / "a" / "0_masks.npz").read_bytes() == (
        tmp_path / "b" / "0_masks.npz"
    ).read_bytes()


def write_npz(path: Path, **arrays: Any) -> None:
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
    ("masks", "boxes", "message"),
    [
        (None, None, "cannot be read"),
        ({"other": np.zeros((1, 4, 4))}, np.zeros((1, 4)), "cannot be read"),
        ({"arr_0": np.zeros((4, 4))}, np.zeros((1, 4)), "have shapes"),
        ({"arr_0": np.zeros((2, 4, 4))}, np.zeros((1, 4)), "have shapes"),
        ({"arr_0": np.array([object()])}, np.zeros((1, 4)), "cannot be read"),
    ],
)
def test_damaged_mask_folders_are_named(
    tmp_path: Path, masks: dict[str, Any] | None, boxes: Any, message: str
) -> None:
    if masks is not None:
        write_npz(tmp_path / "0_masks.npz", **masks)
        np.save(tmp_path / "0_boxes.npy", boxes)
    with pytest.raises(DataError, match=message):
        benchmark.read_proposals(tmp_path, 0)


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    benchmark.write_proposals(tmp_path, 0, [square(1, 2, 3)], height=54, width=96)
    path = tmp_path / "0_masks.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(path)
    with pytest.raises(DataError, match="cannot be read"):
        benchmark.read_proposals(tmp_path, 0)


def test_splits_come_back_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    benchmark.write_splits(path, {"train": ["b", "a"], "test": ["c"]})
    assert benchmark.read_splits(path) == {"train": ["b", "a"], "val": [], "test": ["c"]}
    path.write_text('{"train": "a"}')
    with pytest.raises(DataError, match="train must be a list"):
        benchmark.read_splits(path)
    with pytest.raises(DataError, match="is missing"):
        benchmark.read_splits(tmp_path / "none.json")


def test_names_of_pair_files() -> None:
    names = benchmark.pair_file_names(Split.TRAIN, Direction.EXO2EGO)
    assert names == ("train_exoego_pairs.json", "train_exoego_20percent_pairs.json")
    names = benchmark.pair_file_names(Split.VAL, Direction.EGO2EXO)
    assert names == ("val_egoexo_pairs.json", "custom_val_egoexo_pairs_10.json")
    assert benchmark.pair_file_names(Split.TEST, Direction.EGO2EXO) == ("test_egoexo_pairs.json",)
