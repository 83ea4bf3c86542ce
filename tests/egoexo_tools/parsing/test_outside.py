"""Any change to a good file gives the same answer, or a DataError that names it; in little room."""

import copy
import io
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_release import plain_take, takes_entry

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import read_predictions
from egoexo_tools.importing.annotation_json import read_annotation_json
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.lenient import flag, frame_number, load_json, whole_number
from egoexo_tools.parsing.mask_folders import read_stack
from egoexo_tools.parsing.mask_json import read_coco, read_rle, read_sam
from egoexo_tools.parsing.pictures import read_mask, read_picture
from egoexo_tools.release.annotations import check_take
from egoexo_tools.release.take_relations import decode_take
from egoexo_tools.release.takes import read_split_file, read_takes

MASK = MaskRle.encode(np.pad(np.ones((10, 10), np.uint8), ((5, 33), (5, 49))))
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=6),
    st.just([]), st.just({}), st.just([[float("nan"), 1e9, 1, 1, 2, 2]]), st.just("00030"),
)  # fmt: skip

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
    "categories": [{"id": 7, "name": "cup"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "segmentation": [[1, 1, 20, 1, 20, 20]]},
        {"image_id": 1, "category_id": 7, "object_name": "lid", "segmentation": MASK.to_json()},
    ],
}
SAM = [{"object_name": "cup", "segmentation": MASK.to_json()}]
ANNOTATION = {
    "masks": {"cup": {c: {"0": MASK.to_json(), "30": MASK.to_json()} for c in ("aria01", "cam01")}},
    "subsample_idx": [0, 30],
    "annotated_frames": {"cup": {"aria01": [0, 30], "cam01": [0, 30, 60]}},
}
PREDICTIONS = {
    "ego-exo": {
        "results": {
            "t": {"masks": {"cup": {"aria01_cam01": {"0": {"pred_mask": MASK.to_json(),
                                                           "confidence": 0.7}}}}}
        }
    }
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())  # fmt: skip
    for key, part in items:
        found += places(part, (*path, key))
    return found


def changed(value: Any, data: st.DataObject) -> Any:
    """The value with one part replaced by something odd."""
    where = data.draw(st.sampled_from(places(value)))
    odd = data.draw(ODD)
    if not where:
        return odd
    value = copy.deepcopy(value)
    part = value
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = odd
    return value


def as_file(folder: Path, value: Any, *, mark: bool = False) -> Path:
    path = folder / "file.json"
    text = value if isinstance(value, str) else json.dumps(value, indent=1)
    path.write_text(("\ufeff" if mark else "") + text.replace("\n", "\r\n"), encoding="utf-8")
    return path


def _coco(path: Path) -> Any:
    found = read_coco(path, load_json(path))
    return {k.name: v.masks for k, v in found.pictures.items()}, bool(found.notes)


def _annotation(path: Path) -> Any:
    return read_annotation_json(path, empty_is_absent=False).masks.to_pylist()


def _predictions(path: Path) -> Any:
    found = read_predictions(path)
    return {uid: found.read_take(uid) for uid in found.take_uids}


def _relations(path: Path) -> Any:
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    checked = check_take(decode_take(text, path.name, "t"))
    return checked.masks.to_pylist()


READERS: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "coco": (COCO, _coco),
    "sam": (SAM, lambda path: read_sam(path).masks),
    "annotation": (ANNOTATION, _annotation),
    "predictions": (PREDICTIONS, _predictions),
    "relations": (plain_take(), _relations),
    "takes": ([takes_entry("a"), takes_entry("b")], lambda path: read_takes(path)[0]),
    "splits": ({"train": ["a"], "val": ["b"]}, lambda path: read_split_file(path)[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@QUICK
@given(data=st.data())
def test_any_change_gives_an_answer_or_a_data_error(kind: str, data: st.DataObject) -> None:
    value, read = READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = as_file(Path(folder), changed(value, data), mark=data.draw(st.booleans()))
        try:
            read(path)
        except DataError as error:
            assert str(error).strip()


@pytest.mark.parametrize("kind", READERS)
def test_marks_and_line_ends_change_nothing(kind: str, tmp_path: Path) -> None:
    value, read = READERS[kind]
    plain = read(as_file(tmp_path, json.dumps(value)))
    assert read(as_file(tmp_path, value, mark=True)) == plain


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@QUICK
@given(cut=st.integers(0, 400), junk=st.binary(max_size=8))
def test_a_damaged_file_is_a_data_error_or_nothing_new(kind: str, cut: int, junk: bytes) -> None:
    value, read = READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = as_file(Path(folder), value)
        text = path.read_bytes()
        path.write_bytes(text[:cut] + junk + text[cut + len(junk) :])
        try:
            read(path)
        except DataError as error:
            assert str(error).strip()


def png(mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.fromarray(MASK.decode().astype(np.uint8) * 255).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    st.integers(0, 400) | st.none(),
)
def test_a_picture_gives_its_mask_or_a_data_error(
    mode: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(png(mode))
    for place, value in changes:
        data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cup.png"
        path.write_bytes(bytes(data[:cut]))
        for read in (read_mask, read_picture):
            try:
                found = read(path)
            except DataError as error:
                assert "cup.png" in str(error)
                continue
            if bytes(data[:cut]) == png(mode) and isinstance(found, MaskRle):
                assert found == MASK


@QUICK
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4), st.integers())
def test_a_stack_of_masks_is_read_whole_or_refused(
    changes: list[tuple[int, int]], cut: int
) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 48, 64)).astype(np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, masks)
    data = bytearray(file.getvalue())
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: len(data) - cut % 50] if changes else data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0_masks.npz"
        path.write_bytes(bytes(data))
        try:
            found, _ = read_stack(path, None)
        except DataError as error:
            assert "0_masks.npz" in str(error)
            return
        assert np.array_equal(found, masks) or changes


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (30, 30), ("30", 30), ("00030", 30), (" 30 ", 30), (30.0, 30), ("30.0", 30), ("-1", None),
        (30.5, None), ("x", None), (True, None), (None, None), (2**40, None), ("٣", None),
        (float("nan"), None), ("", None), ([], None),
    ],
)  # fmt: skip
def test_frame_numbers(value: Any, number: int | None) -> None:
    assert frame_number(value) == number


def test_words_for_booleans_and_numbers() -> None:
    assert [flag(v) for v in (1, 0, "true", "False", True, "0", "yes")] == [
        True, False, True, False, True, False, True,
    ]  # fmt: skip
    assert [flag(v) for v in (2, "maybe", None, [])] == [None] * 4
    assert whole_number("-7") == -7 and whole_number("1e3") is None


@pytest.mark.parametrize(
    "counts", [MASK.counts, repr(MASK.counts.encode()), [int(run) for run in MASK.runs()],
               [str(run) for run in MASK.runs()]],
)  # fmt: skip
def test_counts_in_any_of_their_forms(counts: Any) -> None:
    assert read_rle({"size": ["48", 64], "counts": counts}, "x") == MASK
    with pytest.raises(DataError, match="x: "):
        read_rle({"size": [48, 64], "counts": [1.5, 2]}, "x")


HOG = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.mask_json import read_coco
from egoexo_tools.parsing.pictures import read_mask, read_picture
folder = Path(sys.argv[1])
for path in sorted(folder.iterdir()):
    try:
        if path.suffix == ".json":
            found = read_coco(path, json.loads(path.read_bytes()))
            assert not any(one.masks for one in found.pictures.values()), path
        else:
            read_mask(path), read_picture(path)
            raise SystemExit(f"{path} was read")
    except DataError as error:
        print(error)
"""


@pytest.mark.slow
def test_memory_stays_below_a_gigabyte(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_DATA)
    outlines: list[Any] = [
        [[float("nan"), 1, 20, 1, 20, 20]], [[2e8, 1, 20, 1, 20, 20]], [[1e300, 1, 2, 2, 3, 3]],
        [[0, 0, 60, 0, 60, 40] * 100_000], [[0, 0, 1, 1, 2, 2]] * 1000 + [[9e9] * 6],
        {"size": [32767, 32767], "counts": [32767 * 32767]},
    ]  # fmt: skip
    for number, outline in enumerate(outlines):
        content = copy.deepcopy(COCO)
        content["annotations"] = [{"image_id": 1, "category_id": 7, "segmentation": outline}]
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    huge = bytearray(png())
    huge[16:24] = (32_000).to_bytes(4) * 2
    (tmp_path / "huge.png").write_bytes(huge)
    done = subprocess.run(
        [sys.executable, "-c", HOG, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
