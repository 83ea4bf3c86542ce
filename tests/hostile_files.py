"""Files that are small on disk and huge in memory for a reader that believes them.

`FILES` writes them; `read_all` reads each of them in a process with a limit on its memory. A reader
must return an answer or raise a DataError.
"""

import io
import json
import os
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lzstring import LZString
from small_release import EGO, EXO, plain_take
from video_factory import write_video

MOST_BYTES = 1 << 30
HUGE_MASK = {"size": [32767, 32767], "counts": [32767 * 32767]}


def write(path: Path, value: Any) -> None:
    """JSON in which the text "NOTHINGS" stands for 36 MB of text that become 1.1 GB of lists."""
    nothings = "[" + "[]," * 12_000_000 + "0]"
    path.write_text(json.dumps(value).replace('"NOTHINGS"', nothings))


def write_png(path: Path, mode: int, depth: int, width: int, height: int, *, rows: int) -> None:
    """A PNG of zeros that claims a size and holds as many rows."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[mode]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    packer, data = zlib.compressobj(1), bytearray()
    for _ in range(rows):
        data += packer.compress(row)
    data += packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(kind + content).to_bytes(4)
        return len(content).to_bytes(4) + kind + content + sum_

    head = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if mode == 3 else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", bytes(data))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def write_stack(path: Path, count: int, *, claimed: int | None = None) -> None:
    """An O-MaMa file of `count` empty masks of 540x960."""
    head = io.BytesIO()
    shape = (claimed or count, 540, 960)
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w") as member,
    ):
        member.write(head.getvalue())
        for _ in range(count):
            member.write(bytes(540 * 960))


def write_long_counts(path: Path) -> None:
    """A relations file of 200 masks of a few kB, each of a million characters when unpacked."""
    packed = LZString.compressToEncodedURIComponent("1" * 1_000_000)
    take = plain_take()
    mask = {"width": 16, "height": 9, "encodedMask": packed}
    for camera in (EGO, EXO):
        take["object_masks"]["cup_0"][camera]["annotation"] = {str(n): mask for n in range(100)}
    path.write_text(json.dumps({"annotations": {"t": take}}))


def write_many_packets(path: Path, count: int = 100_000_000) -> None:
    """A video whose index claims a hundred million packets."""
    video = write_video(path.with_suffix(".mp4"), 12)
    data = bytearray(video.read_bytes())
    video.unlink()
    for kind, behind, values in ((b"stsz", 8, (1, count)), (b"stsc", 16, (count,)),
                                 (b"stts", 12, (count,))):  # fmt: skip
        place = data.find(kind) + behind
        data[place : place + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    path.write_bytes(data)


def coco(segmentation: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "categories": [{"id": 7, "name": "cup"}],
        "annotations": [{"image_id": 1, "category_id": 7, "segmentation": segmentation}],
    }


def predictions(pairs: Any) -> dict[str, Any]:
    return {"ego-exo": {"results": {"t": {"masks": {"cup": pairs}}}}}


def write_prediction_folder(path: Path) -> None:
    pair = path / "t" / f"{EGO}__{EXO}" / "cup"
    pair.mkdir(parents=True)
    write(pair / "0.json", "NOTHINGS")
    write(pair / "30.json", HUGE_MASK)


def write_palettes(path: Path) -> None:
    (path / "t.cam01").mkdir(parents=True)
    (path / "objects").mkdir()
    (path / "objects" / "t.json").write_text(json.dumps({n: f"cup{n}" for n in range(1, 5)}))
    write_png(path / "t.cam01" / "0.png", 3, 8, 32_000, 32_000, rows=1)
    write_png(path / "t.cam01" / "30.png", 0, 16, 32_000, 32_000, rows=1)
    write_png(path / "t.cam01" / "60.png", 3, 8, 8_000, 8_000, rows=8_000)


FILES: dict[str, Callable[[Path], None]] = {
    "coco lists": lambda p: write(p, coco("NOTHINGS")),
    "coco nan": lambda p: write(p, coco([[float("nan"), 1, 20, 1, 20, 20]])),
    "coco far": lambda p: write(p, coco([[2e8, 1, 20, 1, 20, 20]])),
    "coco infinite": lambda p: write(p, coco([[1e300, 1, 2, 2, 3, 3]])),
    "coco long": lambda p: write(p, coco([[0, 0, 60, 0, 60, 40] * 100_000])),
    "coco many": lambda p: write(p, coco([[0, 0, 1, 1, 2, 2]] * 1000 + [[9e9] * 6])),
    "coco rle": lambda p: write(p, coco(HUGE_MASK)),
    "sam lists": lambda p: write(p, [{"object_name": "cup", "segmentation": "NOTHINGS"}]),
    "sam rle": lambda p: write(p, [{"object_name": "cup", "segmentation": HUGE_MASK}]),
    "annotation lists": lambda p: write(p, {"masks": {"cup": "NOTHINGS"}}),
    "annotation rle": lambda p: write(p, {"masks": {"cup": {EGO: {"0": HUGE_MASK}}}}),
    "relations lists": lambda p: write(p, {"annotations": {"t": {"object_masks": "NOTHINGS"}}}),
    "relations texts": write_long_counts,
    "takes lists": lambda p: write(p, [{"take_uid": "t", "take_name": "t", "x": "NOTHINGS"}]),
    "splits lists": lambda p: write(p, {"train": "NOTHINGS"}),
    "manifest lists": lambda p: write(p, [{"uid": "a", "paths": "NOTHINGS"}]),
    "pairs lists": lambda p: write(p, "NOTHINGS"),
    "predictions lists": lambda p: write(p, predictions("NOTHINGS")),
    "predictions rle": lambda p: write(
        p, predictions({f"{EGO}_{EXO}": {"0": {"pred_mask": HUGE_MASK, "confidence": 1}}})
    ),
    "truth lists": lambda p: write(p, {"annotations": {"t": {"masks": {"cup": "NOTHINGS"}}}}),
    "folder": write_prediction_folder,
    "palettes": write_palettes,
    "picture size": lambda p: write_png(p, 2, 8, 32_000, 32_000, rows=1),
    "picture grey": lambda p: write_png(p, 0, 8, 8_192, 8_192, rows=8_192),
    "picture rgba": lambda p: write_png(p, 6, 8, 8_192, 8_192, rows=8_192),
    "picture deep": lambda p: write_png(p, 6, 16, 8_192, 8_192, rows=8_192),
    "stack size": lambda p: write_stack(p, 800),
    "stack shape": lambda p: write_stack(p, 2, claimed=2**31),
    "stack full": lambda p: write_stack(p, 300),
    "video packets": write_many_packets,
}


def read_all(folder: str) -> None:
    """Read every file with at most MOST_BYTES of memory; prints a line for each of them."""
    # Before the imports: without a limit pyarrow.dataset reserves a gigabyte.
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    from egoexo_tools.errors import DataError
    from egoexo_tools.evaluation.ground_truth import read_ground_truth
    from egoexo_tools.evaluation.predictions import read_predictions
    from egoexo_tools.formats.benchmark import read_pair_table
    from egoexo_tools.importing.annotation_json import read_annotation_json
    from egoexo_tools.importing.predictions import read_prediction
    from egoexo_tools.masks.encoding import encode_stack
    from egoexo_tools.parsing.bucket import read_manifest_files
    from egoexo_tools.parsing.lenient import load_json
    from egoexo_tools.parsing.mask_folders import read_stack
    from egoexo_tools.parsing.mask_json import read_coco, read_sam
    from egoexo_tools.parsing.palette import find_videos, read_objects, read_video
    from egoexo_tools.parsing.pictures import read_mask, read_picture
    from egoexo_tools.release.annotations import check_take
    from egoexo_tools.release.relations import index_takes
    from egoexo_tools.release.takes import read_split_file, read_takes
    from egoexo_tools.video.frames import probe, read_frames

    def read_coco_file(path: Path) -> Any:
        pictures = read_coco(path, load_json(path)).pictures.values()
        assert not any(picture.masks for picture in pictures)
        return [picture.notes for picture in pictures]

    def read_palettes(path: Path) -> Any:
        problems: list[str] = []
        (video,) = find_videos(path, problems)
        objects = read_objects(path, "t") or {}
        return sum(1 for _ in read_video(video, objects, problems)), problems

    def read_all_predictions(path: Path) -> Any:
        predictions = read_predictions(path)
        answers = []
        for take in predictions.take_uids:
            for pairs in predictions.read_take(take).values():
                for frames in pairs.values():
                    for frame, entry in frames.items():
                        try:
                            answers.append(read_prediction(frame, entry)[0])
                        except DataError as error:
                            answers.append(str(error))
        return answers

    readers: dict[str, Callable[[Path], Any]] = {
        "coco": read_coco_file,
        "sam": lambda path: read_sam(path).notes,
        "annotation": lambda path: read_annotation_json(path, empty_is_absent=False).faults,
        "relations": lambda path: [len(check_take(t.read()).exclusions) for t in index_takes(path)],
        "takes": read_takes,
        "splits": read_split_file,
        "manifest": lambda path: read_manifest_files(path.read_bytes(), str(path), lambda _: True),
        "pairs": lambda path: read_pair_table(path)[1][-1],
        "predictions": read_all_predictions,
        "folder": read_all_predictions,
        "palettes": read_palettes,
        "truth": lambda path: read_ground_truth(path).read_take("t"),
        "picture": lambda path: (read_mask(path).area(), read_picture(path).shape),
        "stack": lambda path: len(encode_stack(read_stack(path, None)[0])),
        "video": lambda path: (probe(path), len(list(read_frames(path, [0])))),
    }
    failed = []
    for path in sorted(Path(folder).iterdir()):
        child = os.fork()  # each file finds the memory of a new process, without its imports
        if child == 0:
            try:
                answer = str(readers[path.name.split(" ")[0]](path))[:200]
            except DataError as error:
                answer = f"refused: {error}"
            os.write(1, f"{path.name}: {answer}".replace("\n", " ").encode() + b"\n")
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            failed.append(path.name)
    assert not failed, failed
