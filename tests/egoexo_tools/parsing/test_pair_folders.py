"""Folders of predictions in LM-EEC's layout, as `read_predictions` reads them."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from changed_files import FEW_EXAMPLES, MASK, add_file
from hypothesis import given
from hypothesis import strategies as st

from egoexo_tools.evaluation.predictions import read_predictions

PAIR = "aria01_214-1__cam01"
FRAME = json.dumps(MASK.to_json())


def make_folder(folder: Path) -> Path:
    for name in ("cup", "green box/lid"):
        for frame in (0, 30):
            add_file(folder, f"t/{PAIR}/{name}/{frame}.json", FRAME.encode())
    return folder


def read_all(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    predictions = read_predictions(folder)
    return {uid: predictions.read_take(uid) for uid in predictions.take_uids}, predictions.notes


def pad_number(folder: Path) -> None:
    for path in list(folder.rglob("30.json")):
        path.rename(path.with_name("00030.JSON"))


def link_take(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    (folder / "t").rename(elsewhere)
    (folder / "t").symlink_to(elsewhere)


HARMLESS: dict[str, Callable[[Path], None]] = {
    "padded": pad_number,
    "AppleDouble": lambda f: add_file(f, f"t/{PAIR}/cup/._30.json"),
    "macOS": lambda f: add_file(f, f"__MACOSX/t/{PAIR}/cup/30.json"),
    "Windows": lambda f: add_file(f, f"t/{PAIR}/cup/30.json:Zone.Identifier"),
    "mark": lambda f: add_file(f, f"t/{PAIR}/cup/30.json", b"\xef\xbb\xbf" + FRAME.encode()),
    "UTF-16": lambda f: add_file(
        f, f"t/{PAIR}/cup/30.json", ("\ufeff" + FRAME).encode("utf-16-le")
    ),
    "link": link_take,
    "loop": lambda f: (f / "t" / PAIR / "cup" / "again").symlink_to(".."),
}
NOTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (lambda f: add_file(f, f"t/{PAIR}/cup/60.txt"), "60.txt is not a JSON file"),
    "file": (lambda f: add_file(f, "readme.txt"), "readme.txt is not a take's folder"),
    "one view": (lambda f: (f / "t" / "cam01__cam02").mkdir(), "cameras of one view"),
    "no pair": (lambda f: (f / "t" / "cup").mkdir(), "cup is not a <source>__<dest> folder"),
    "no take": (lambda f: (f / "other").mkdir(), "other contains no <source>__<dest> folder"),
    "dead link": (
        lambda f: (f / "t" / PAIR / "cup" / "60.json").symlink_to("nowhere"),
        "60.json is not a JSON file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_differences_change_nothing(kind: str, tmp_path: Path) -> None:
    expected, _ = read_all(make_folder(tmp_path / "plain"))
    folder = make_folder(tmp_path / "other")
    HARMLESS[kind](folder)
    assert read_all(folder) == (expected, ())
    assert set(expected["t"]) == {"cup", "green box/lid"}


@pytest.mark.parametrize("kind", NOTED)
def test_everything_else_is_noted(kind: str, tmp_path: Path) -> None:
    expected, _ = read_all(make_folder(tmp_path / "plain"))
    folder = make_folder(tmp_path / "other")
    change, message = NOTED[kind]
    change(folder)
    predictions, notes = read_all(folder)
    assert predictions == expected and len(notes) == 1 and message in notes[0]


@pytest.mark.slow
@FEW_EXAMPLES
@given(
    path=st.sampled_from([f"t/{PAIR}/cup/30.json", f"t/{PAIR}/cup/x.json", "t/x", f"t/{PAIR}/9"]),
    content=st.binary(max_size=40)
    | st.sampled_from([FRAME.encode(), b"null", b"[]", b'{"size":1}']),
)
def test_a_changed_file_affects_no_other(path: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = make_folder(Path(place) / "f")
        add_file(folder, path, content)
        predictions, notes = read_all(folder)
        for name, frame in (("cup", "0"), ("green box/lid", "30")):
            entry = predictions["t"][name]["aria01_214-1_cam01"][frame]
            assert entry["pred_mask"] == MASK.to_json()
        if not path.endswith(".json"):
            assert any(path in note for note in notes)


def test_a_frame_under_two_names_has_no_prediction(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f")
    for name in ("030.json", "0.JSON"):
        add_file(folder, f"t/{PAIR}/cup/{name}", FRAME.encode())
    cup = read_all(folder)[0]["t"]["cup"]["aria01_214-1_cam01"]
    assert cup == {"0": None, "30": None}
