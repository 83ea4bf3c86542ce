"""The inputs of fuzz.py: a kind is a maker of inputs and a reader.

A maker takes a random.Random and returns a changed copy of a valid input. A reader takes it and
returns, or raises DataError; any other exception is a finding, including an AssertionError for
inconsistent results.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_changes import EACH, Kind, Rng, bytes_changed, json_maker, text_changed
from lzstring import LZString
from small_release import plain_take, takes_entry
from video_factory import write_video

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import read_predictions
from egoexo_tools.importing.annotation_json import read_annotation_json
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle, runs_to_counts
from egoexo_tools.parsing.lenient import load_json
from egoexo_tools.parsing.mask_folders import read_stack
from egoexo_tools.parsing.mask_json import read_coco, read_sam
from egoexo_tools.parsing.pictures import read_mask, read_picture
from egoexo_tools.release.annotations import check_take
from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component, decompress_many
from egoexo_tools.release.relations import index_takes
from egoexo_tools.release.takes import read_split_file, read_takes
from egoexo_tools.video.frames import probe, read_frames

COUNTS = "0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmno"
ENCODED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"
SIDES = [0, 1, 2, 3, 5, 12, 48, 64, 97, 480, 3840, 32766, 32767, 32768, -1, 2**31, 2**63 - 1]


@cache
def good_masks() -> list[MaskRle]:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (5, 3), (12, 12), (48, 64), (97, 33)]
    masks = [rng.random(shape) < share for shape in shapes for share in (0, 0.03, 0.5, 1)]
    big = np.zeros((480, 640), bool)
    big[100:300, 50:400] = True
    return [MaskRle.encode(mask) for mask in [*masks, big]]


def make_rle(rng: Rng) -> list[tuple[int, int, str]]:
    masks = []
    for _ in range(EACH):
        good = rng.choice(good_masks())
        height, width, counts = good.height, good.width, good.counts
        way = rng.random()
        if way < 0.2:
            height, width = rng.choice(SIDES), rng.choice((width, rng.choice(SIDES)))
        elif way < 0.3:  # impossible runs
            runs = [rng.choice((-1, 0, 1, 7, height * width, 2**40, 2**62)) for _ in range(5)]
            counts = loose_counts(np.array(runs, np.int64))
        if way > 0.1:
            counts = text_changed(rng, counts, COUNTS)
        masks.append((height, width, counts))
    return masks


def loose_counts(runs: Any) -> str:
    """Like `runs_to_counts`, but for runs that no mask can have."""
    text = ""
    for place, run in enumerate(runs.tolist()):
        value = run - (int(runs[place - 2]) if place > 2 else 0)
        for _ in range(14):
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def read_rle(masks: Sequence[tuple[int, int, str]]) -> None:
    """Read each mask alone and all together; the results must agree."""
    good: list[MaskRle] = []
    areas = []
    for height, width, counts in masks:
        try:
            rle = MaskRle(height, width, counts)
        except DataError:
            continue
        good.append(rle)
        areas.append(read_one_rle(rle))
    columns = MaskColumns.from_rles(good)
    measured, _, problems = columns.measure()
    for area, together, problem in zip(areas, measured.tolist(), problems.tolist(), strict=True):
        assert (area is None) == bool(problem), (area, problem)
        assert together == (area or 0), (together, area)
    valid = np.flatnonzero(problems == 0)
    sizes = np.full(valid.size, 7, np.int64)
    assert len(columns.resize(valid, sizes, sizes + 4)) == valid.size


def read_one_rle(rle: MaskRle) -> int | None:
    """The mask's area; None if its counts are rejected."""
    try:
        runs = rle.runs()
    except DataError:
        return None
    assert runs.sum() == rle.height * rle.width and runs.min() >= 0
    assert np.array_equal(MaskRle(rle.height, rle.width, runs_to_counts(runs)).runs(), runs)
    x, y, w, h = rle.box_xywh()
    assert 0 <= x <= x + w < rle.width and 0 <= y <= y + h < rle.height
    assert rle.iou(rle) == 1.0
    if rle.height * rle.width <= 1 << 16:
        assert rle.decode().sum() == rle.area()
        assert rle.decode_at(9, 4).shape == (9, 4)
    return rle.area()


@cache
def good_texts() -> list[str]:
    counts = [mask.counts for mask in good_masks()]
    return [LZString.compressToEncodedURIComponent(t) for t in [*counts, "", "a", "abab" * 90]]


def make_lzstring(rng: Rng) -> list[str]:
    texts = []
    for _ in range(EACH):
        if rng.random() < 0.1:
            texts.append("".join(rng.choices(ENCODED, k=rng.randrange(60))))
        else:
            texts.append(text_changed(rng, rng.choice(good_texts()), ENCODED))
    return texts


def read_lzstring(texts: list[str]) -> None:
    """Decode each text alone, all together, and the first by the package: they must agree."""
    alone = []
    for text in texts:
        try:
            alone.append(decompress_from_encoded_uri_component(text))
        except DataError:
            alone.append(None)
    answers, offsets, problems = decompress_many(texts)
    for row, text in enumerate(alone):
        ascii_only = text is not None and text.isascii()
        assert bool(problems[row]) != ascii_only, (texts[row], text, problems[row])
        if ascii_only:
            assert answers[offsets[row] : offsets[row + 1]].tobytes().decode() == text
    if texts[0].isascii() and alone[0] is not None:
        assert LZString.decompressFromEncodedURIComponent(texts[0]) == alone[0]


def file_reader(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """A reader of bytes, which are written to a file of this name in the process's own folder."""
    path = Path(_folder().name) / name

    def reader(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return reader


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def read_all_relations(path: Path) -> None:
    for take in list(index_takes(path)):
        check_take(take.read())


def read_all_predictions(path: Path) -> None:
    predictions = read_predictions(path)
    for take_uid in predictions.take_uids:
        predictions.read_take(take_uid)


@cache
def good_png() -> bytes:
    import cv2

    picture = np.zeros((48, 64, 4), np.uint8)
    picture[5:20, 5:30] = 255
    return bytes(cv2.imencode(".png", picture)[1].tobytes())


@cache
def good_jpeg() -> bytes:
    import cv2

    rows = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    return bytes(cv2.imencode(".jpg", rows)[1].tobytes())


@cache
def good_stack() -> bytes:
    import io

    file = io.BytesIO()
    np.savez_compressed(file, np.random.default_rng(0).integers(0, 2, (3, 48, 64), np.uint8))
    return file.getvalue()


VIDEO_FORMS: list[tuple[str, str, dict[str, str]]] = [
    ("libx264", ".mp4", {"g": "10"}),
    ("libx264", ".mkv", {"g": "6", "bf": "2", "preset": "veryfast"}),
    ("libx265", ".mp4", {"x265-params": "log-level=none:keyint=10"}),
    ("libvpx-vp9", ".webm", {"g": "8"}),
    ("mpeg4", ".mp4", {"g": "12"}),
]


@cache
def good_videos() -> list[tuple[str, bytes]]:
    """(suffix, bytes) of one second of video in each usual codec."""
    videos = []
    for number, (codec, suffix, options) in enumerate(VIDEO_FORMS):
        path = Path(_folder().name) / f"good-{number}{suffix}"
        write_video(path, 24, codec=codec, height=64, width=160, options=options)
        videos.append((suffix, path.read_bytes()))
    return videos


def make_video(rng: Rng) -> tuple[str, bytes]:
    """Changed bytes anywhere, or only in the first or last kilobytes, which contain the index."""
    suffix, data = rng.choice(good_videos())
    way = rng.random()
    if way < 0.4:
        return suffix, bytes_changed(rng, data, max_changes=20)
    edge = min(2048, len(data) // 3)
    if way < 0.7:
        return suffix, bytes_changed(rng, data[:edge]) + data[edge:]
    return suffix, data[:-edge] + bytes_changed(rng, data[-edge:])


def read_video(video: tuple[str, bytes]) -> None:
    path = Path(_folder().name) / f"video{video[0]}"
    path.write_bytes(video[1])
    info = probe(path)
    assert 0 <= info.frames_present <= info.frames and info.height > 0 and info.width > 0
    last = -1
    for frame_idx, rgb in read_frames(path, [0, 7, max(0, info.frames - 1)], threads=1):
        assert frame_idx > last and rgb.ndim == 3 and rgb.dtype == np.uint8
        last = frame_idx


MASK = MaskRle.encode(np.pad(np.ones((10, 10), np.uint8), ((5, 33), (5, 49)))).to_json()
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
    "categories": [{"id": 7, "name": "cup"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "segmentation": [[1, 1, 20, 1, 20, 20]]},
        {"image_id": 1, "category_id": 7, "object_name": "lid", "segmentation": MASK},
    ],
}
ANNOTATION = {
    "masks": {"cup": {camera: {"0": MASK, "30": MASK} for camera in ("aria01", "cam01")}},
    "subsample_idx": [0, 30],
    "annotated_frames": {"cup": {"aria01": [0, 30], "cam01": [0, 30, 60]}},
}
PREDICTIONS = {
    "ego-exo": {
        "results": {
            "t": {
                "masks": {"cup": {"aria01_cam01": {"0": {"pred_mask": MASK, "confidence": 0.7}}}},
                "subsample_idx": [0],
            }
        },
        "version": "1",
        "challenge": "xview",
    }
}


def json_kind(value: Any, read: Callable[[Path], object], name: str) -> Kind:
    return Kind("files", json_maker(value), file_reader(read, name), ".json")


def picture_kind(good: Callable[[], bytes], name: str) -> Kind:
    def read(path: Path) -> None:
        with suppress(DataError):  # a JPEG may be a picture without being a mask
            read_mask(path)
        read_picture(path)

    return Kind(
        "files", lambda rng: bytes_changed(rng, good()), file_reader(read, name), Path(name).suffix
    )


def kinds() -> dict[str, Kind]:
    """Name → kind, in the order of running."""
    takes = {"annotations": {"t": plain_take(), "u": plain_take()}}
    splits = {"split_to_take_uids": {"train": ["a"], "val": ["b"], "test": []}}
    return {
        "rle": Kind("compiled", make_rle, read_rle),
        "lzstring": Kind("compiled", make_lzstring, read_lzstring),
        "relations": json_kind(takes, read_all_relations, "relations_train.json"),
        "takes": json_kind([takes_entry("a"), takes_entry("b")], read_takes, "takes.json"),
        "splits": json_kind(splits, read_split_file, "splits.json"),
        "predictions": json_kind(PREDICTIONS, read_all_predictions, "predictions.json"),
        "annotation": json_kind(
            ANNOTATION, lambda path: read_annotation_json(path, empty_is_absent=False), "a.json"
        ),
        "coco": json_kind(COCO, lambda path: read_coco(path, load_json(path)), "coco.json"),
        "sam": json_kind([{"object_name": "cup", "segmentation": MASK}], read_sam, "30.json"),
        "png": picture_kind(good_png, "cup.png"),
        "jpeg": picture_kind(good_jpeg, "30.jpg"),
        "stack": Kind(
            "files",
            lambda rng: bytes_changed(rng, good_stack()),
            file_reader(lambda path: read_stack(path, None), "0_masks.npz"),
            ".npz",
        ),
        "video": Kind("videos", make_video, read_video, ".bin"),
    }
