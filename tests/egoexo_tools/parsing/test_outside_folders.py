"""Folders, manifests and videos from outside: any change is understood, named, or refused."""

import copy
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_outside import MASK, QUICK, changed
from video_factory import number_in, write_video

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import read_predictions
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.bucket import read_manifest_files
from egoexo_tools.parsing.palette import find_videos, read_objects, read_video
from egoexo_tools.video.frames import MissingFrames, read_frames

# Manifests of the bucket

MANIFEST = [
    {
        "uid": "a",
        "paths": [
            {"relative_path": "takes/a/cam01.mp4", "source_path": "s3://b/1", "size": 10},
            {"relative_path": "takes/a/aria.mp4", "source_path": "s3://b/2", "size": 0},
        ],
    },
    {"uid": "b", "paths": [{"relative_path": "takes.json", "source_path": "s3://b/3"}]},
]
WANTED = {"takes/a/cam01.mp4", "takes/a/aria.mp4", "takes.json"}


def manifest(value: Any, *, mark: bool = False) -> dict[str, Any]:
    text = value if isinstance(value, str) else json.dumps(value, indent=1).replace("\n", "\r\n")
    return read_manifest_files((b"\xef\xbb\xbf" * mark) + text.encode(), "m", WANTED.__contains__)


def test_a_manifest_is_read() -> None:
    found = manifest(MANIFEST, mark=True)
    assert {name: row["size"] for name, row in found.items()} == {
        "takes/a/cam01.mp4": 10, "takes/a/aria.mp4": 0, "takes.json": None,
    }  # fmt: skip
    plain = json.dumps(MANIFEST)
    assert manifest(plain.replace("takes/a", "takes\\\\a").replace("10", '"10"')) == found
    assert manifest(plain.replace("takes/a", "./takes/a")) == found


@QUICK
@given(data=st.data())
def test_any_change_to_a_manifest_costs_its_own_file(data: st.DataObject) -> None:
    whole = manifest(MANIFEST)
    value = changed(MANIFEST, data)
    try:
        found = manifest(value, mark=data.draw(st.booleans()))
    except DataError as error:
        assert "m is not a manifest" in str(error)
        return
    same = sum(found.get(name) == row for name, row in whole.items())
    assert same >= (len(whole) - 2 if isinstance(value, list) and len(value) == 2 else 0)
    for row in found.values():
        assert isinstance(row["source_path"], str) and (row["size"] or 0) >= 0


def test_a_file_that_is_listed_twice_and_not_the_same_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    twice = copy.deepcopy(MANIFEST)
    twice.append(copy.deepcopy(MANIFEST[0]))
    assert manifest(twice) == manifest(MANIFEST)
    twice[2]["paths"][0]["size"] = 11  # type: ignore[index]
    assert set(manifest([*twice, None])) == WANTED - {"takes/a/cam01.mp4"}
    assert "cam01.mp4 is listed twice" in caplog.text and "1 invalid entries" in caplog.text
    text = json.dumps(MANIFEST).replace('"size": 10', '"size": 10, "size": 11')
    assert set(manifest(text)) == WANTED - {"takes/a/cam01.mp4"}


# Folders of predictions

PAIR = "aria01_214-1__cam01"
FRAME = json.dumps(MASK.to_json())


def prediction_folder(folder: Path) -> Path:
    for name in ("cup", "green box/lid"):
        for frame in (0, 30):
            path = folder / "t" / PAIR / name / f"{frame}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(FRAME)
    return folder


def read_all(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    found = read_predictions(folder)
    return {uid: found.read_take(uid) for uid in found.take_uids}, found.notes


def stray(folder: Path, name: str, content: bytes = b"?") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


HARMLESS: dict[str, Callable[[Path], None]] = {
    "padded": lambda f: _rename(f, "30.json", "00030.JSON"),
    "AppleDouble": lambda f: stray(f, f"t/{PAIR}/cup/._30.json"),
    "macOS": lambda f: stray(f, f"__MACOSX/t/{PAIR}/cup/30.json"),
    "Windows": lambda f: stray(f, f"t/{PAIR}/cup/30.json:Zone.Identifier"),
    "mark": lambda f: stray(f, f"t/{PAIR}/cup/30.json", b"\xef\xbb\xbf" + FRAME.encode()),
    "UTF-16": lambda f: stray(f, f"t/{PAIR}/cup/30.json", ("\ufeff" + FRAME).encode("utf-16-le")),
    "link": lambda f: _move_and_link(f / "t", f.parent / "elsewhere"),
    "loop": lambda f: (f / "t" / PAIR / "cup" / "again").symlink_to(".."),
}
TOLD: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (lambda f: stray(f, f"t/{PAIR}/cup/60.txt"), "60.txt is not a JSON file"),
    "file": (lambda f: stray(f, "readme.txt"), "readme.txt is not a take's folder"),
    "one view": (lambda f: (f / "t" / "cam01__cam02").mkdir(), "cameras of one view"),
    "no pair": (lambda f: (f / "t" / "cup").mkdir(), "cup is not a <source>__<dest> folder"),
    "no take": (lambda f: (f / "other").mkdir(), "other contains no <source>__<dest> folder"),
    "dead link": (
        lambda f: (f / "t" / PAIR / "cup" / "60.json").symlink_to("nowhere"),
        "60.json is not a JSON file"),
}  # fmt: skip


def _rename(folder: Path, old: str, new: str) -> None:
    for path in list(folder.rglob(old)):
        path.rename(path.with_name(new))


def _move_and_link(path: Path, target: Path) -> None:
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("kind", HARMLESS)
def test_differences_in_a_prediction_folder_that_do_no_harm(kind: str, tmp_path: Path) -> None:
    expected, _ = read_all(prediction_folder(tmp_path / "plain"))
    folder = prediction_folder(tmp_path / "other")
    HARMLESS[kind](folder)
    assert read_all(folder) == (expected, ())
    assert set(expected["t"]) == {"cup", "green box/lid"}


@pytest.mark.parametrize("kind", TOLD)
def test_what_is_no_prediction_is_told(kind: str, tmp_path: Path) -> None:
    expected, _ = read_all(prediction_folder(tmp_path / "plain"))
    folder = prediction_folder(tmp_path / "other")
    change, words = TOLD[kind]
    change(folder)
    found, notes = read_all(folder)
    assert found == expected and len(notes) == 1 and words in notes[0]


@pytest.mark.slow
@QUICK
@given(
    path=st.sampled_from([f"t/{PAIR}/cup/30.json", f"t/{PAIR}/cup/x.json", "t/x", f"t/{PAIR}/9"]),
    content=st.binary(max_size=40)
    | st.sampled_from([FRAME.encode(), b"null", b"[]", b'{"size":1}']),
)
def test_any_file_in_a_prediction_folder_costs_itself(path: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = prediction_folder(Path(place) / "f")
        stray(folder, path, content)
        found, notes = read_all(folder)
        cup = found["t"]["cup"]["aria01_214-1_cam01"]
        assert cup["0"]["pred_mask"] == MASK.to_json()
        assert (
            found["t"]["green box/lid"]["aria01_214-1_cam01"]["30"]["pred_mask"] == MASK.to_json()
        )
        if not path.endswith(".json"):
            assert any(path in note for note in notes)


def test_a_frame_under_two_names_has_no_prediction(tmp_path: Path) -> None:
    folder = prediction_folder(tmp_path / "f")
    for name in ("030.json", "0.JSON"):
        stray(folder, f"t/{PAIR}/cup/{name}", FRAME.encode())
    cup = read_all(folder)[0]["t"]["cup"]["aria01_214-1_cam01"]
    assert cup == {"0": None, "30": None}


# Palette PNGs

OBJECTS = {1: "cup", 2: "lid"}


def labels() -> np.ndarray:
    image = np.zeros((48, 64), np.uint8)
    image[5:15, 5:15], image[20:30, 20:30] = 1, 2
    return image


def palette_folder(folder: Path) -> Path:
    for frame in (0, 30):
        path = folder / "t.cam01" / f"{frame:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(labels()).convert("L")
        image = Image.frombytes("P", image.size, labels().tobytes())
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(path)
    (folder / "objects").mkdir(exist_ok=True)
    (folder / "objects" / "t.json").write_text(json.dumps(OBJECTS))
    return folder


def read_palettes(folder: Path) -> tuple[dict[tuple[int, str], MaskRle], list[str]]:
    problems: list[str] = []
    (video,) = find_videos(folder, problems)
    objects = read_objects(folder, video.take_uid)
    assert objects is not None
    found = {(frame, name): rle for frame, name, rle in read_video(video, objects, problems)}
    return found, problems


def png(folder: Path, name: str, image: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "PNG")


WORDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "jpeg": (lambda f: stray(f, "t.cam01/60.jpg"), "60.jpg is not a PNG with a frame number"),
    "name": (lambda f: png(f, "t.cam01/cup.png", labels()), "cup.png is not a PNG with a frame"),
    "colours": (lambda f: png(f, "t.cam01/60.png", np.dstack([labels()] * 3)), "holds colours"),
    "number": (lambda f: png(f, "t.cam01/60.png", labels() * 3), "60.png: 3 is not an object's"),
    "both": (lambda f: png(f, "t.cam01/60.png", (labels() > 0) * np.uint8(255)), "is ambiguous"),
    "empty": (lambda f: stray(f, "t.cam01/60.png", b""), "60.png is not a picture"),
    "folder": (lambda f: png(f, "t.cam01/7/0.png", labels()), "7 is not an object's number"),
    "place": (lambda f: png(f, "notes/0.png", labels()), "notes is not a <take>.<camera> folder"),
    "jpegs": (lambda f: stray(f, "t.cam02/0.jpg"), "t.cam02 holds no PNG"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_what_is_no_palette_is_told(kind: str, tmp_path: Path) -> None:
    expected, _ = read_palettes(palette_folder(tmp_path / "plain"))
    folder = palette_folder(tmp_path / "other")
    change, words = WORDS[kind]
    change(folder)
    found, problems = read_palettes(folder)
    assert any(words in problem for problem in problems), problems
    assert {key: rle for key, rle in found.items() if key[0] != 60} == expected


def test_differences_in_palettes_that_do_no_harm(tmp_path: Path) -> None:
    expected, _ = read_palettes(palette_folder(tmp_path / "plain"))
    folder = palette_folder(tmp_path / "other")
    (folder / "t.cam01" / "00030.png").unlink()
    png(folder, "t.cam01/30.PNG", labels().astype(np.uint16))
    stray(folder, "t.cam01/._00000.png")
    stray(folder, "Thumbs.db")
    stray(folder, "objects/t.json", b'\xef\xbb\xbf{"001": "cup",\r\n "2": "lid"}')
    void = labels()
    void[0] = 255
    png(folder, "t.cam01/00000.png", void)
    assert read_palettes(folder) == (expected, [])


@pytest.mark.parametrize(
    "text",
    ['{"1": "cup", "1": "lid"}', '{"1": "cup", "01": "lid"}', '{"1": "cup", "2": "cup"}',
     '{"x": "cup"}', '{"1": null}', "[]", "{}", ""],
)  # fmt: skip
def test_numbers_of_objects_that_could_be_two_s_are_refused(text: str, tmp_path: Path) -> None:
    folder = palette_folder(tmp_path / "f")
    stray(folder, "objects/t.json", text.encode())
    with pytest.raises(DataError, match="t.json"):
        read_palettes(folder)


@pytest.mark.slow
@QUICK
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 400) | st.none(),
)
def test_a_palette_is_read_or_refused_by_name(
    changes: list[tuple[int, int]], cut: int | None
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = palette_folder(Path(place))
        expected, _ = read_palettes(folder)
        path = folder / "t.cam01" / "00030.png"
        whole = path.read_bytes()
        data = bytearray(whole)
        for spot, value in changes:
            data[spot % len(data)] = value
        path.write_bytes(bytes(data[:cut]))
        found, problems = read_palettes(folder)
        assert {key: rle for key, rle in found.items() if key[0] == 0} == {
            key: rle for key, rle in expected.items() if key[0] == 0
        }
        if (30, "cup") not in found:
            assert any("00030.png" in problem for problem in problems)
        if bytes(data[:cut]) == whole:
            assert (found, problems) == (expected, [])


# Videos

KINDS = {"mp4": "libx264", "mkv": "libx264", "ts": "libx264", "webm": "libvpx"}
FRAMES = 12


@cache
def video(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        options = {"preset": "", "deadline": "realtime"} if suffix == "webm" else {"g": "6"}
        path = Path(place) / f"x.{suffix}"
        return write_video(path, FRAMES, codec=KINDS[suffix], options=options).read_bytes()


def frames_of(data: bytes, suffix: str) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """The frames that a file gives, and the reasons for those that it does not."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"x.{suffix}"
        path.write_bytes(data)
        found: dict[int, np.ndarray] = {}
        try:
            for idx, rgb in read_frames(path, range(FRAMES), threads=1):
                found[idx] = rgb
        except MissingFrames as error:
            assert str(path) in str(error)
            return found, error.reasons
        except DataError as error:
            assert str(path) in str(error), error
            return found, dict.fromkeys(range(FRAMES), str(error))
        return found, {}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", KINDS)
@settings(QUICK, max_examples=20)
@given(cut=st.integers(0, 40_000))
def test_a_video_that_is_cut_off_gives_its_own_frames(suffix: str, cut: int) -> None:
    whole = video(suffix)
    found, missing = frames_of(whole[: cut % len(whole)], suffix)
    for idx, rgb in found.items():
        assert number_in(rgb) == idx
    if suffix == "mp4":  # its index says how many there should be
        assert set(found) | set(missing) == set(range(FRAMES))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", KINDS)
@settings(QUICK, max_examples=25)
@given(changes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), max_size=4))
def test_a_video_with_flipped_bytes_is_read_or_refused_by_name(
    suffix: str, changes: list[tuple[int, int]]
) -> None:
    """A codec has no checksum: a picture may be wrong, but it is a picture, and nothing crashes."""
    data = bytearray(video(suffix))
    for place, value in changes:
        data[place % len(data)] = value
    found, missing = frames_of(bytes(data), suffix)
    assert all(rgb.ndim == 3 and rgb.dtype == np.uint8 for rgb in found.values())
    assert not set(found) & set(missing)
    if bytes(data) == video(suffix):
        assert [number_in(found[idx]) for idx in range(FRAMES)] == list(range(FRAMES))
