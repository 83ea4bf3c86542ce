"""Palette PNGs of videos: a pixel's number is its object."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from changed_files import FEW_EXAMPLES, add_file
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.palette import find_videos, read_objects, read_video

OBJECTS = {1: "cup", 2: "lid"}


def labels() -> np.ndarray:
    numbers = np.zeros((48, 64), np.uint8)
    numbers[5:15, 5:15], numbers[20:30, 20:30] = 1, 2
    return numbers


def make_folder(folder: Path) -> Path:
    """Frames 0 and 30 of one video, and the numbers' objects."""
    for frame in (0, 30):
        path = folder / "t.cam01" / f"{frame:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.frombytes("P", (64, 48), labels().tobytes())
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(path)
    add_file(folder, "objects/t.json", json.dumps(OBJECTS).encode())
    return folder


def read_masks(folder: Path) -> tuple[dict[tuple[int, str], MaskRle], list[str]]:
    problems: list[str] = []
    (video,) = find_videos(folder, problems)
    objects = read_objects(folder, video.take_uid)
    assert objects is not None
    masks = {(frame, name): rle for frame, name, rle in read_video(video, objects, problems)}
    return masks, problems


def add_png(folder: Path, name: str, image: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "PNG")


NOTED: dict[str, tuple[str, np.ndarray | bytes, str]] = {
    "jpeg": ("t.cam01/60.jpg", b"?", "60.jpg is not a PNG with a frame number"),
    "name": ("t.cam01/cup.png", labels(), "cup.png is not a PNG with a frame"),
    "colours": ("t.cam01/60.png", np.dstack([labels()] * 3), "holds colours"),
    "number": ("t.cam01/60.png", labels() * 3, "60.png: 3 is not an object's"),
    "both": ("t.cam01/60.png", (labels() > 0) * np.uint8(255), "is ambiguous"),
    "empty": ("t.cam01/60.png", b"", "60.png is not a picture"),
    "folder": ("t.cam01/7/0.png", labels(), "7 is not an object's number"),
    "place": ("notes/0.png", labels(), "notes is not a <take>.<camera> folder"),
    "jpegs": ("t.cam02/0.jpg", b"?", "t.cam02 holds no PNG"),
}


@pytest.mark.parametrize("kind", NOTED)
def test_everything_else_is_noted(kind: str, tmp_path: Path) -> None:
    expected, _ = read_masks(make_folder(tmp_path / "plain"))
    folder = make_folder(tmp_path / "other")
    name, content, message = NOTED[kind]
    if isinstance(content, bytes):
        add_file(folder, name, content)
    else:
        add_png(folder, name, content)
    masks, problems = read_masks(folder)
    assert any(message in problem for problem in problems), problems
    assert {key: rle for key, rle in masks.items() if key[0] != 60} == expected


def test_harmless_differences_change_nothing(tmp_path: Path) -> None:
    expected, _ = read_masks(make_folder(tmp_path / "plain"))
    folder = make_folder(tmp_path / "other")
    (folder / "t.cam01" / "00030.png").unlink()
    add_png(folder, "t.cam01/30.PNG", labels().astype(np.uint16))
    add_file(folder, "t.cam01/._00000.png")
    add_file(folder, "Thumbs.db")
    add_file(folder, "objects/t.json", b'\xef\xbb\xbf{"001": "cup",\r\n "2": "lid"}')
    with_void = labels()
    with_void[0] = 255
    add_png(folder, "t.cam01/00000.png", with_void)
    assert read_masks(folder) == (expected, [])


@pytest.mark.parametrize(
    "text",
    ['{"1": "cup", "1": "lid"}', '{"1": "cup", "01": "lid"}', '{"1": "cup", "2": "cup"}',
     '{"x": "cup"}', '{"1": null}', "[]", "{}", ""],
)  # fmt: skip
def test_ambiguous_object_numbers_are_refused(text: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f")
    add_file(folder, "objects/t.json", text.encode())
    with pytest.raises(DataError, match="t.json"):
        read_masks(folder)


@pytest.mark.slow
@FEW_EXAMPLES
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 400) | st.none(),
)
def test_a_damaged_png_is_read_or_refused_by_name(
    changes: list[tuple[int, int]], cut: int | None
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = make_folder(Path(place))
        expected, _ = read_masks(folder)
        path = folder / "t.cam01" / "00030.png"
        original = path.read_bytes()
        data = bytearray(original)
        for position, value in changes:
            data[position % len(data)] = value
        path.write_bytes(bytes(data[:cut]))
        masks, problems = read_masks(folder)
        first_frame = {key: rle for key, rle in expected.items() if key[0] == 0}
        assert {key: rle for key, rle in masks.items() if key[0] == 0} == first_frame
        if (30, "cup") not in masks:
            assert any("00030.png" in problem for problem in problems)
        if bytes(data[:cut]) == original:
            assert (masks, problems) == (expected, [])
