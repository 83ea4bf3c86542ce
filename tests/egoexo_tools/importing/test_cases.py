"""Files that people really have: each a small copy of one from a public report, and what is right.

One test for each kind, with the value that a reader must come to; where it must refuse, the words
that name the item. Downloads, Slurm and damaged streams have theirs beside their own tests.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from small_release import EGO, EXO, plain_take, takes_entry, write_release
from test_images import load, picture, rle, save, square, states
from tiny_root import make_tiny_root
from video_factory import every_frame, number_in, write_video

from egoexo_tools.errors import DataError
from egoexo_tools.importing.images import STAGE
from egoexo_tools.importing.predictions import import_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.parsing.names import folder_names, match_names
from egoexo_tools.parsing.pictures import read_mask, read_picture
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.export import run_export
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.stages.left_out import left_out_text
from egoexo_tools.video.frames import probe, read_frames
from egoexo_tools.vocab import Direction

INLINE = RunOptions(executor="inline", quiet=True)
HW = {"height": 48, "width": 64}
SHARED_CASES = Path(__file__).parents[4] / "shared" / "cases"
MOST_BYTES = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(tmp_path / "root")


@pytest.fixture
def take(tmp_path: Path) -> Path:
    """A take of 48x64 pictures with a 10x10 cup in both views."""
    take = tmp_path / "photos" / "kitchen"
    for camera in ("ego", "phone"):
        picture(take / camera / "1.png", **HW)
        save(take / camera / "1" / "cup.png", square(5, 5, 10, **HW) * 255)
    return take


def coco(take: Path, segmentations: list[Any], name: str = "pot") -> Path:
    """A COCO file of the ego picture, one annotation a segmentation."""
    content = {
        "images": [{"id": 1, "file_name": "ego/1.png", **HW}],
        "categories": [{"id": 7, "name": name}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "segmentation": one} for one in segmentations
        ],
    }
    path = take / "coco.json"
    path.write_text(json.dumps(content))
    return path


def areas(root: DatasetRoot, camera: str = "aria_ego") -> dict[str, int | None]:
    rows = read_manifest(root, "masks").to_pylist()
    return {row["object_name"]: row["area"] for row in rows if row["camera"] == camera}


# Memory and polygons


@pytest.mark.slow
@pytest.mark.parametrize(
    ("polygon", "words"),
    [
        ([float("nan"), 1, 20, 1, 20, 20], "number nan is outside"),
        ([2e8, 1, 20, 1, 20, 20], "number 200000000.0 is outside"),
        ([float("-inf"), 1, 20, 1, 20, 20], "number -inf is outside"),
        (["x", 1, 20, 1, 20, 20], "'x' is outside"),
        ([1, 1, 20, 20], "three points"),
        ([1, 1, 20, 20, 3], "three points"),
        ([-60, -40, 120, 90] * 20_000 + [1, 1], "longer than any object's"),
    ],
)
def test_a_polygon_that_no_picture_holds_is_refused_by_name(
    root: DatasetRoot, take: Path, polygon: list[Any], words: str
) -> None:
    coco(take, [[polygon]])
    other = take.parent / "garden"
    for camera in ("ego", "phone"):
        picture(other / camera / "1.png", **HW)
        save(other / camera / "1" / "pot.png", square(5, 5, 10, **HW))
    code = (
        "import resource, sys; from pathlib import Path;"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({MOST_BYTES}, {MOST_BYTES}));"
        "from egoexo_tools.cli import main; main()"
    )
    command = ["import", "images", str(take.parent), "--root", str(root.path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--executor", "inline", "--quiet"],
        capture_output=True,
        text=True,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert words in told and "coco.json, annotation 0 of 'pot'" in told
    assert sorted(path.stem for path in root.table("takes").iterdir()) == ["garden", "kitchen"]
    assert ("pot", "aria_ego", 1) not in {key for key in states(root) if key[0] == "kitchen"}


def test_a_take_of_refused_masks_alone_fails_by_name(root: DatasetRoot, take: Path) -> None:
    for camera in ("ego", "phone"):
        (take / camera / "1" / "cup.png").unlink()
    coco(take, [[[float("nan"), 1, 20, 1, 20, 20]]])
    assert "coco.json, annotation 0 of 'pot'" in load(root, take.parent).text()


def test_pictures_are_measured_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    save(path, np.zeros((8, 8), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4) + (30_000).to_bytes(4)
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    path.write_bytes(data)
    for read in (read_mask, read_picture):
        with pytest.raises(DataError, match=r"bomb.png .*pixels"):
            read(path)


def test_two_annotations_of_one_object_are_joined_and_said_so(
    root: DatasetRoot, take: Path
) -> None:
    coco(
        take,
        [
            [[0, 0, 10, 0, 10, 10, 0, 10]],
            [20, 0, 30, 0, 30, 10, 20, 10],
            rle(square(0, 5, 10, **HW)),
        ],
    )
    load(root, take.parent).check()
    assert areas(root)["pot"] == 250
    assert "annotation 1 of 'pot': several masks of one object are merged" in left_out_text(
        root, STAGE
    )


@pytest.mark.parametrize("segmentation", [None, [], {}, "x", 3, [[]], [None], {"size": [1]}])
def test_an_annotation_without_an_outline_is_named(
    root: DatasetRoot, take: Path, segmentation: Any
) -> None:
    coco(take, [segmentation])
    load(root, take.parent).check()
    assert "coco.json, annotation 0 of 'pot'" in left_out_text(root, STAGE)
    assert set(areas(root)) == {"cup"}


# Mask pictures


def rgba(alpha: Any, colour: Any) -> np.ndarray:
    image = np.zeros((48, 64, 4), np.uint8)
    image[..., :3] = np.asarray(colour)[..., None]
    image[..., 3] = alpha
    return image


SQUARE = square(5, 5, 10, **HW)
DRAWN = square(5, 5, 10, **HW) * 255


@pytest.mark.parametrize(
    ("image", "area"),
    [
        (rgba(255, DRAWN), 100),  # white on black, opaque: as GIMP and Preview save it
        (rgba(0, DRAWN), 100),  # a constant alpha says nothing, whichever it is
        (rgba(128, DRAWN), 100),
        (rgba(254 + SQUARE, DRAWN), 100),  # nothing of it is transparent
        (rgba(DRAWN, 0), 100),  # black on nothing
        (rgba(DRAWN, DRAWN), 100),
        (rgba(DRAWN, 255), 100),  # white everywhere, most of it transparent
        (SQUARE, 100),
        (SQUARE.astype(np.uint16), 100),
        (np.dstack([SQUARE.astype(np.uint16)] * 3), 100),
        (np.dstack([SQUARE, 0 * SQUARE, 0 * SQUARE]), 100),
        (np.zeros((48, 64), np.uint8), 0),
    ],
)
def test_a_mask_picture_means_the_same_in_every_command(
    tmp_path: Path, image: np.ndarray, area: int
) -> None:
    from omama.matching.predict_pair import read_mask as predict_reads

    save(tmp_path / "cup.png", image)
    assert read_mask(tmp_path / "cup.png").area() == area
    assert predict_reads(tmp_path / "cup.png") == read_mask(tmp_path / "cup.png")


def test_a_mask_picture_with_two_readings_is_refused_with_both(tmp_path: Path) -> None:
    save(tmp_path / "cup.png", rgba(square(0, 0, 30, **HW) * 255, DRAWN))
    with pytest.raises(DataError, match="900 pixels are not transparent, 100 of them"):
        read_mask(tmp_path / "cup.png")


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_palette_s_numbers_count_and_not_its_colours(
    tmp_path: Path, transparency: int | None
) -> None:
    from PIL import Image

    image = Image.fromarray(SQUARE).convert("L")
    image = Image.frombytes("P", image.size, SQUARE.tobytes())
    image.putpalette([255, 255, 255, 0, 0, 0])
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "cup.png", **options)
    assert read_mask(tmp_path / "cup.png").area() == 100


def test_jpeg_masks_are_read_where_they_are_black_and_white(tmp_path: Path) -> None:
    big = square(100, 100, 200, height=480, width=640)
    save(tmp_path / "cup.jpg", big * 255)
    assert abs(read_mask(tmp_path / "cup.jpg").area() - 40_000) < 100
    save(tmp_path / "grey.jpg", big * 90)
    with pytest.raises(DataError, match=r"grey.jpg is not a readable mask.* save it as PNG"):
        read_mask(tmp_path / "grey.jpg")


def test_no_mask_file_is_passed_over_in_silence(root: DatasetRoot, take: Path) -> None:
    masks = take / "ego" / "1"
    (masks / "cup.png").rename(masks / "CUP.PNG")
    save(masks / "lid.jpg", square(0, 0, 20, **HW) * 255)
    (masks / "pan.heic").write_bytes(b"....ftypheic....")
    (masks / "notes.txt").write_text("?")
    (masks / "._cup.png").write_bytes(b"AppleDouble")
    (masks / ".DS_Store").write_bytes(b"x")
    (take / "ego" / "._1.json").write_bytes(b"x")
    (take / "ego" / "7").mkdir()
    save(take / "ego" / "7" / "cup.png", SQUARE)
    (take / "__MACOSX").mkdir()
    load(root, take.parent).check()
    told = left_out_text(root, STAGE, reasons=99)
    for named in ("pan.heic is HEIC", "notes.txt is neither a picture", "ego/7 is a folder"):
        assert named in told
    assert "._" not in told and "DS_Store" not in told and "MACOSX" not in told
    assert states(root)["CUP", "aria_ego", 1]
    assert ("cup", "aria_ego", 1) not in states(root)  # notes and HEIC may be of any object


def test_iphone_pictures_are_named_with_what_to_do(root: DatasetRoot, take: Path) -> None:
    for stem in ("1", "2"):
        (take / "ego" / f"{stem}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (take / "ego" / "1.png").unlink()
    told = load(root, take.parent).text()
    assert "1.heic is HEIC" in told and "export it as JPEG" in told and "it has phone" in told
    renamed = take / "ego" / "1.jpg"
    renamed.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert "1.jpg is HEIC" in load(root, take.parent).text()


def test_harmless_spellings_are_understood(root: DatasetRoot, tmp_path: Path) -> None:
    take = tmp_path / "photos" / "kitchen"
    picture(take / "ego" / "0030.PNG", **HW)
    picture(take / "Phone" / "30.jpeg", **HW)
    save(take / "ego" / "30" / "cafe\u0301.png", SQUARE)
    entry = {
        "label": "caf\u00e9",
        "segmentation": {"size": ["48", 64.0], "counts": rle(SQUARE)["counts"]},
    }
    text = "\ufeff" + json.dumps([entry]).replace(",", ",\r\n")
    (take / "Phone" / "000030.JSON").write_text(text, encoding="utf-16")
    load(root, take.parent).check()
    assert states(root) == {("caf\u00e9", "aria_ego", 30): True, ("caf\u00e9", "Phone", 30): True}
    windows = coco(take, [rle(SQUARE)])
    windows.write_text(windows.read_text().replace("ego/1.png", "ego\\\\0030.PNG"))
    load(root, take.parent).check()
    assert states(root)["pot", "aria_ego", 30]


def test_cameras_of_other_rigs(root: DatasetRoot, tmp_path: Path) -> None:
    take = tmp_path / "photos" / "robot"
    for camera in ("042322070307", "3rd_view", "Aria01"):
        picture(take / camera / "1.png", **HW)
        save(take / camera / "1" / "cup.png", SQUARE)
    load(root, take.parent).check()
    (row,) = read_manifest(root, "takes").to_pylist()
    assert (row["ego_camera"], row["exo_cameras"]) == ("Aria01", ["042322070307", "3rd_view"])
    other = tmp_path / "other" / "arm"
    for camera in ("042322070307", "3rd_view"):
        picture(other / camera / "1.png", **HW)
        save(other / camera / "1" / "cup.png", SQUARE)
    (other.parent / "cameras.json").write_text('\ufeff{"042322070307": "Ego", "3rd_view": "exo"}')
    again = DatasetRoot(tmp_path / "again")
    load(again, other.parent).check()
    (row,) = read_manifest(again, "takes").to_pylist()
    assert (row["ego_camera"], row["exo_cameras"]) == ("aria_042322070307", ["3rd_view"])
    (other.parent / "cameras.json").write_text('{"3rd_view": "side"}')
    assert "cameras.json must hold a view for each camera" in load(again, other.parent).text()


# The release


def test_a_release_with_marks_and_values_that_are_none(root: DatasetRoot, tmp_path: Path) -> None:
    take = plain_take()
    track = take["object_masks"]["cup_0"][EXO]
    track["annotation"]["30"] = None
    track["annotated_frames"] = ["0", 30.0, "0060", None]
    entries = [takes_entry("a"), takes_entry("b", duration_sec="NaN!"), {"take_uid": "c"}]
    relations = {"train": {"a": take, "b": plain_take(), "c": plain_take()}}
    release = write_release(tmp_path / "release", relations, entries=entries)
    text = release.takes_json.read_text().replace('"NaN!"', "NaN")
    release.takes_json.write_text("\ufeff" + text, encoding="utf-8")
    path = release.path / "annotations" / "relations_train.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    release.splits_json.write_text(
        "\ufeff" + json.dumps({"train": ["a", "b", "c", None]}), encoding="utf-8"
    )
    run_ingest(root, release, run=INLINE).check()
    assert read_manifest(root, "takes")["take_uid"].to_pylist() == ["a", "b"]
    rows = read_manifest(root, "exclusions").to_pylist()
    told = {(row["take_uid"], row["frame_idx"]): row["reason"] for row in rows}
    assert "undecodable mask: null" in told["a", 30]
    assert "None in annotated_frames is not a frame number" in told["a", None]
    assert told["c", None] == "entry 2 of takes.json has no take_name"
    assert "None in train is not a take_uid" in told[None, None]
    masks = [
        row for row in read_manifest(root, "masks", units=["a"]).to_pylist() if row["camera"] == EXO
    ]
    assert [(row["frame_idx"], row["visible"]) for row in masks] == [(0, True), (60, False)]
    assert "NaN" not in root.takes_json.read_text()


# Predictions and exports


def test_names_that_an_export_changed_come_back(tmp_path: Path) -> None:
    assert match_names(["green box-lid"], ["green box/lid", "red cup"]) == {
        "green box-lid": "green box/lid"
    }
    assert match_names(["cafe\u0301"], ["caf\u00e9"]) == {"cafe\u0301": "caf\u00e9"}
    assert match_names(["a-b"], ["a/b", "a\\b", "c"]) == {"a-b": "a/b"}  # as the export did it
    assert match_names(["a-b", "a/b"], ["a/b"]) == {}


def test_long_names_and_names_that_a_disk_confuses_become_folders() -> None:
    long = "\u043a\u0440\u0443\u0436\u043a\u0430 " * 25
    names = folder_names([long, long + "!", "Cup", "cup", "caf\u00e9", "cafe\u0301", "a/b", ".x"])
    assert max(len(name.encode()) for name in names.values()) < 220
    assert len({name.casefold() for name in names.values()}) == 8
    assert names["Cup"] == "Cup" and names["cup"] == "cup_2" and names["a/b"] == "a-b"


def test_long_names_and_names_in_two_cases_are_exported_and_listed(tmp_path: Path) -> None:
    """Both exports that make folders or lists of names, on a disk that may not see case."""
    from egoexo_tools.manifests import write_manifest

    root = make_tiny_root(tmp_path / "root")
    long = "\u043a\u0440\u0443\u0436\u043a\u0430 " * 25  # 325 bytes
    renamed = {"red cup": long, "green box/lid": "Cup", "blue bowl": "cup"}
    (take,) = [t for t in read_manifest(root, "takes").to_pylist() if t["split"] == "val"]
    rows = read_manifest(root, "masks", units=[take["take_uid"]]).to_pylist()
    for row in rows:
        row["object_name"] = renamed[row["object_name"]]
    write_manifest(root, "masks", take["take_uid"], rows)
    run_export(root, "lm-eec", tmp_path / "out", run=INLINE).check()
    content = json.loads(next((tmp_path / "out" / "val").glob("*/annotation.json")).read_text())
    assert len({name.casefold() for name in content["masks"]}) == 3
    assert max(len(name.encode()) for name in content["masks"]) <= 200
    listed = json.loads((tmp_path / "out" / "object_names_val.json").read_text())
    assert set(listed[take["take_uid"]].values()) >= {long}
    assert set(content["object_names"].values()) == set(renamed.values())
    run_export(root, "sam2", tmp_path / "sam2", run=INLINE).check()
    numbers = json.loads(next((tmp_path / "sam2/val/objects").glob("*.json")).read_text())
    assert set(numbers.values()) <= set(renamed.values())


def lm_eec_folder(root: DatasetRoot, out: Path, *, name: str, pad: int) -> Path:
    """What LM-EEC would write for the val take: the ego mask of the pot, whatever it is."""
    (take_uid,) = [
        t["take_uid"] for t in read_manifest(root, "takes").to_pylist() if t["split"] == "val"
    ]
    folder = out / take_uid / f"{EGO}__cam01" / name
    folder.mkdir(parents=True)
    for frame in (0, 30, 60, 90):
        mask = rle(square(40, 40, 60, height=140, width=224))
        (folder / f"{frame:0{pad}d}.json").write_text(json.dumps(mask))
        (folder / f"._{frame}.json").write_bytes(b"AppleDouble")
    (out / take_uid / f"._{EGO}__cam01").write_bytes(b"AppleDouble")
    return out


@pytest.mark.parametrize("pad", [1, 5])
def test_lm_eec_s_own_predictions_come_back(tmp_path: Path, pad: int) -> None:
    root = make_tiny_root(tmp_path / "root")
    folder = lm_eec_folder(root, tmp_path / "theirs", name="green box-lid", pad=pad)
    done = import_predictions(root, folder, "theirs")
    assert (done.predictions, done.left_out) == (4, [])
    from egoexo_tools.manifests import read_tables

    ids = read_tables([root.runs / "theirs" / "predictions.parquet"], "predictions")["pair_id"]
    assert {pair_id.split("/", 3)[3] for pair_id in ids.to_pylist()} == {"green box/lid"}
    assert sorted(int(pair_id.split("/")[2]) for pair_id in ids.to_pylist()) == [0, 30, 60, 90]


def test_the_lm_eec_export_has_a_mask_everywhere(tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    run_export(root, "lm-eec", tmp_path / "out", run=INLINE).check()
    for path in (tmp_path / "out").glob("*/*/annotation.json"):
        content = json.loads(path.read_text())
        cameras = {folder.name for folder in path.parent.iterdir() if folder.is_dir()}
        for masks in content["masks"].values():
            assert set(masks) == cameras
            for frames in masks.values():
                assert set(frames) == {"0", "30", "60", "90"}


@pytest.mark.slow
@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("by_object", [True, False])
def test_sam2_s_palettes_become_a_run(tmp_path: Path, objects: bool, by_object: bool) -> None:
    root = make_tiny_root(tmp_path / "root")
    run_export(root, "sam2", tmp_path / "out", run=INLINE).check()
    annotations = tmp_path / "out" / "val" / "Annotations"
    theirs = tmp_path / "theirs"
    for path in annotations.glob("*.cam01/*.png"):
        labels = np.asarray(__import__("PIL.Image").Image.open(path))
        if by_object:
            for number in (1, 2):
                target = theirs / path.parent.name / f"{number:03d}" / path.name
                save(target, np.uint8(labels == number) * 255)
        else:
            target = theirs / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    if objects:
        (annotations.parent / "objects").rename(theirs / "objects")
    done = import_predictions(root, theirs, "sam2")
    expected = [
        row for row in read_manifest(root, "pairs").to_pylist()
        if row["direction"] == Direction.EGO2EXO and row["split"] == "val"
    ]  # fmt: skip
    assert done.predictions > 0 and done.left_out == []
    assert done.predictions <= len(expected)


# Videos


def test_vp8_frames_that_are_never_shown_are_not_counted(tmp_path: Path) -> None:
    path = SHARED_CASES / "vp8_hidden_frames.webm"
    if not path.is_file():
        path = write_video(
            tmp_path / "hidden.webm",
            60,
            codec="libvpx",
            options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k", "preset": ""},
        )
        with av.open(str(path)) as container:
            packets = sum(1 for packet in container.demux(video=0) if packet.size)
        if packets == 60:
            pytest.skip("this encoder hides no frames")
    theirs = every_frame(path)
    info = probe(path)
    assert info.frames == len(theirs) and info.fps > 1
    ours = dict(read_frames(path, range(info.frames)))
    assert len(ours) == len(theirs)
    assert all(np.abs(ours[i].astype(int) - theirs[i]).max() <= 2 for i in ours)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_other_containers_tell_their_length_and_are_read_from_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    from egoexo_tools.video.container import VideoFile

    path = write_video(tmp_path / f"x.{suffix}", 90, options={"g": "15"})
    info = probe(path)
    assert info.frames == 90 and abs(info.fps - 30) < 0.1 and abs(info.duration_seconds - 3) < 0.05
    from_start = lambda self, run: pytest.fail("from the start")  # noqa: E731
    monkeypatch.setattr(VideoFile, "_from_beginning", from_start)
    found = {idx: number_in(rgb) for idx, rgb in read_frames(path, [31, 32, 50, 89])}
    assert found == {31: 31, 32: 32, 50: 50, 89: 89}


def test_a_video_whose_settings_change_gives_every_frame(tmp_path: Path) -> None:
    from video_factory import join_as_one_track

    small = write_video(tmp_path / "a.mp4", 12, height=120, width=176)
    large = write_video(tmp_path / "b.mp4", 12, height=144, width=192)
    path = join_as_one_track(tmp_path / "both.mp4", small, large)
    frames = dict(read_frames(path, range(24)))
    assert [number_in(frames[i]) for i in range(24)] == [*range(12), *range(12)]
    assert {frames[0].shape, frames[23].shape} == {(120, 176, 3), (144, 192, 3)}
    assert [number_in(rgb) for _, rgb in read_frames(path, [20, 3])] == [3, 8]
