"""External files: harmless differences change nothing; every other file is read or refused."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_files
import pytest
from changed_files import FEW_EXAMPLES, MASK, change_one_part, write_json
from hypothesis import given
from hypothesis import strategies as st
from small_release import plain_take, takes_entry

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import read_predictions
from egoexo_tools.importing.annotation_json import read_annotation_json
from egoexo_tools.parsing.lenient import flag, frame_number, load_json, whole_number
from egoexo_tools.parsing.mask_json import read_coco, read_sam
from egoexo_tools.release.annotations import check_take
from egoexo_tools.release.take_relations import decode_take
from egoexo_tools.release.takes import read_split_file, read_takes

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


def read_coco_file(path: Path) -> Any:
    coco = read_coco(path, load_json(path))
    return {k.name: v.masks for k, v in coco.pictures.items()}, bool(coco.notes)


def read_annotation(path: Path) -> Any:
    return read_annotation_json(path, empty_is_absent=False).masks.to_pylist()


def read_prediction_file(path: Path) -> Any:
    predictions = read_predictions(path)
    return {uid: predictions.read_take(uid) for uid in predictions.take_uids}


def read_relations(path: Path) -> Any:
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    return check_take(decode_take(text, path.name, "t")).masks.to_pylist()


READERS: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "coco": (COCO, read_coco_file),
    "sam": (SAM, lambda path: read_sam(path).masks),
    "annotation": (ANNOTATION, read_annotation),
    "predictions": (PREDICTIONS, read_prediction_file),
    "relations": (plain_take(), read_relations),
    "takes": ([takes_entry("a"), takes_entry("b")], lambda path: read_takes(path)[0]),
    "splits": ({"train": ["a"], "val": ["b"]}, lambda path: read_split_file(path)[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@FEW_EXAMPLES
@given(data=st.data())
def test_a_changed_value_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    value, read = READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        changed = change_one_part(value, data)
        path = write_json(Path(folder) / "file.json", changed, mark=data.draw(st.booleans()))
        try:
            read(path)
        except DataError as error:
            assert str(error).strip()


@pytest.mark.parametrize("kind", READERS)
def test_marks_and_line_ends_change_nothing(kind: str, tmp_path: Path) -> None:
    value, read = READERS[kind]
    plain = read(write_json(tmp_path / "file.json", json.dumps(value)))
    assert read(write_json(tmp_path / "file.json", value, mark=True)) == plain


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@FEW_EXAMPLES
@given(cut=st.integers(0, 400), junk=st.binary(max_size=8))
def test_damaged_text_is_read_or_refused(kind: str, cut: int, junk: bytes) -> None:
    value, read = READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = write_json(Path(folder) / "file.json", value)
        text = path.read_bytes()
        path.write_bytes(text[:cut] + junk + text[cut + len(junk) :])
        try:
            read(path)
        except DataError as error:
            assert str(error).strip()


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (30, 30), ("30", 30), ("00030", 30), (" 30 ", 30), (30.0, 30), ("30.0", 30), ("-1", None),
        (30.5, None), ("x", None), (True, None), (None, None), (2**40, None), ("٣", None),
        (float("nan"), None), ("", None), ([], None),
    ],
)  # fmt: skip
def test_frame_numbers_have_many_forms(value: Any, number: int | None) -> None:
    assert frame_number(value) == number


def test_booleans_and_numbers_may_be_words() -> None:
    assert [flag(v) for v in (1, 0, "true", "False", True, "0", "yes")] == [
        True, False, True, False, True, False, True,
    ]  # fmt: skip
    assert [flag(v) for v in (2, "maybe", None, [])] == [None] * 4
    assert whole_number("-7") == -7 and whole_number("1e3") is None


@pytest.mark.slow
def test_no_reader_takes_more_than_a_gigabyte(tmp_path: Path) -> None:
    """Small files that claim or contain huge values, read in a process with limited memory."""
    for kind, write in hostile_files.FILES.items():
        write(tmp_path / kind)
    code = f"import hostile_files; hostile_files.read_all({str(tmp_path)!r})"
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    lines = process.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == sorted(hostile_files.FILES)
