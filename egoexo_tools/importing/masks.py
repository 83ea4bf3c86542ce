"""Gathers the masks of somebody's own pictures: PNG, SAM-style JSON, COCO JSON, by camera.

Where each lies is told in `import_images`. All of it comes from outside: what cannot be used is
noted with its file, and everything else in a folder is noted as well, so that nothing that could
be data is passed over in silence.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from egoexo_tools.errors import DataError
from egoexo_tools.importing.cameras import CAMERAS_JSON, CameraFolder, not_read
from egoexo_tools.masks.columns import mask_to_row
from egoexo_tools.parsing.lenient import (
    frame_number,
    is_text,
    list_folder,
    load_json,
    plain_name,
    printable,
)
from egoexo_tools.parsing.mask_json import PictureMasks, is_coco, read_coco, read_sam
from egoexo_tools.parsing.pictures import MASK_PICTURES, read_mask
from egoexo_tools.vocab import view_of

ASPECT_TOLERANCE = 0.01

LeaveOut: TypeAlias = Callable[..., None]
"""Notes a reason; then camera, object_name and frame_idx as far as they are known."""
Sizes: TypeAlias = Mapping[tuple[str, int], tuple[int, int, int, int]]
"""(camera, frame_idx) → height and width of the kept frame, and of its picture."""


@dataclass
class CameraMasks:
    """What is known of a camera's pictures."""

    frames: dict[int, PictureMasks] = field(default_factory=dict)
    """frame_idx → masks, of every picture that anybody has looked at."""
    notes: list[str] = field(default_factory=list)
    """Of files that belong to no picture."""


@dataclass
class AnnotationFiles:
    """The COCO files of some folders."""

    pictures: dict[str, PictureMasks] = field(default_factory=dict)
    """By `picture_key`."""
    notes: list[str] = field(default_factory=list)
    is_incomplete: bool = False
    """A file that wants to hold annotations cannot be read: it may speak of any picture."""


def picture_key(path: Path) -> str:
    """The same for the same picture, however its path is spelled."""
    return plain_name(str(path.resolve()))


def read_annotation_files(paths: Iterable[Path]) -> AnnotationFiles:
    """Every JSON file of these that is no picture's own."""
    found = AnnotationFiles()
    for path in paths:
        try:
            content = load_json(path)
            if not is_coco(content):
                found.notes.append(f"{path} is not a COCO file, and not named like a picture")
                found.is_incomplete |= isinstance(content, dict) and (
                    "annotations" in content or "images" in content
                )
                continue
            coco = read_coco(path, content)
        except DataError as error:
            found.notes.append(str(error))
            found.is_incomplete = True
            continue
        found.notes += [reason for _, reason in coco.notes]
        found.is_incomplete |= bool(coco.notes)
        for picture, masks in coco.pictures.items():
            if not picture.is_file():
                found.notes.append(f"{path} lists {picture.name}, which is not at {picture}")
            found.pictures.setdefault(picture_key(picture), PictureMasks()).merge(masks, str(path))
    return found


def annotation_files(folder: Path, pictures: Iterable[Path] = ()) -> list[Path]:
    """A folder's JSON files but its pictures' own and cameras.json."""
    own = _index(path.stem for path in pictures)
    return [
        path
        for path in list_folder(folder)
        if path.suffix.lower() == ".json" and path.is_file()
        and path.name.lower() != CAMERAS_JSON and _own_stem(path, own) is None
    ]  # fmt: skip


def read_camera_masks(camera: CameraFolder, files: Sequence[AnnotationFiles]) -> CameraMasks:
    """The masks of a camera, from its own folder and from the COCO files that are given."""
    found = CameraMasks()
    is_incomplete = any(file.is_incomplete for file in files)
    for frame_idx, picture in camera.pictures.items():
        for file in files:
            if (masks := file.pictures.get(picture_key(picture))) is not None:
                found.frames.setdefault(frame_idx, PictureMasks()).merge(masks, str(picture))
    frame_of = {plain_name(path.stem): idx for idx, path in camera.pictures.items()}
    own, pictures = _index(frame_of), set(camera.pictures.values())
    for path in list_folder(camera.folder):
        if path in pictures:
            continue
        stem = _own_stem(path, own)
        is_json = path.suffix.lower() == ".json"
        if path.is_dir() and stem is not None:
            masks = read_mask_folder(path)
        elif is_json and stem is not None:
            masks = read_sam(path)
        else:
            if not (is_json and path.is_file()):  # those are read as COCO
                found.notes.append(not_read(path))
            continue
        found.frames.setdefault(frame_of[stem], PictureMasks()).merge(masks, str(path))
    for masks in found.frames.values():
        masks.is_incomplete |= is_incomplete
    return found


def read_mask_folder(folder: Path) -> PictureMasks:
    """`<object>.png` → the object's mask, for each picture file of a folder."""
    found = PictureMasks()
    for path in list_folder(folder):
        if path.suffix.lower() not in MASK_PICTURES or not path.is_file():
            found.refuse(None, not_read(path))
            continue
        name = plain_name(path.stem)
        if not is_text(name):
            found.refuse(None, f"{printable(str(path))}: its name is no text; rename it")
            continue
        try:
            rle = read_mask(path)
        except DataError as error:
            found.refuse(name, str(error))
            continue
        if name in found.masks and found.masks[name] != rle:
            found.refuse(name, f"{path} and another file hold different masks of {name!r}")
        elif name not in found.unknown:
            found.masks[name] = rle
    return found


def mask_rows(
    take_uid: str, cameras: Mapping[str, CameraMasks], sizes: Sizes, leave_out: LeaveOut
) -> list[dict[str, Any]]:
    """Rows of the masks manifest, ego camera first: visible or absent where anyone has looked."""
    for camera, masks in cameras.items():
        for frame_idx, found in masks.frames.items():
            _check_shapes(found, camera, frame_idx, sizes[camera, frame_idx][2:], leave_out)
    pictures = [found for masks in cameras.values() for found in masks.frames.values()]
    names = sorted({name for one in pictures for name, rle in one.masks.items() if rle.area()})
    twins = _twins(names, leave_out)
    return [
        {"take_uid": take_uid, **row}
        for name in names
        for camera, masks in cameras.items()
        for row in _track(name, camera, masks.frames, twins[name])
    ]


def _twins(names: Sequence[str], leave_out: LeaveOut) -> dict[str, set[str]]:
    """Name → the others that differ from it in upper and lower case alone, which is said."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.casefold(), []).append(name)
    for same in spellings.values():
        if len(same) > 1:
            leave_out(
                f"{' and '.join(map(repr, same))} may be one object, spelled in two ways, or two: "
                "where one is drawn, the other is neither visible nor absent; give one object one "
                "name"
            )
    return {name: {*same} - {name} for same in spellings.values() for name in same}


def _check_shapes(
    found: PictureMasks, camera: str, frame_idx: int, hw: tuple[int, ...], leave_out: LeaveOut
) -> None:
    """Masks drawn on a smaller copy are fine; one of a turned or another picture is not."""
    height, width = hw
    for name, rle in list(found.masks.items()):
        if abs(rle.width * height / (rle.height * width) - 1) > ASPECT_TOLERANCE:
            reason = (
                f"the mask of {name!r} has {rle.height}x{rle.width} pixels (height x width), its "
                f"picture {camera}/{frame_idx} is shown at {height}x{width}; it must have the "
                "same shape"
            )
            found.refuse(name, reason)
            leave_out(reason, camera, name, frame_idx)


def _track(
    name: str, camera: str, frames: Mapping[int, PictureMasks], twins: set[str]
) -> Iterator[dict[str, Any]]:
    for frame_idx, found in sorted(frames.items()):
        rle = found.masks.get(name)
        if rle is None and (
            found.is_incomplete or name in found.unknown or twins & set(found.masks)
        ):
            continue  # it may be there: neither visible nor absent
        visible = rle is not None and rle.area() > 0
        row: dict[str, Any] = {
            "object_name": name,
            "camera": camera,
            "frame_idx": frame_idx,
            "view": str(view_of(camera)),
            "visible": visible,
        }
        if rle is not None and visible:
            row |= mask_to_row(rle)
            row |= {"area": rle.area(), "bbox_xywh": [float(side) for side in rle.box_xywh()]}
        yield row


def _index(stems: Iterable[str]) -> dict[str | int, str]:
    """Picture names by themselves, and by their number where it is one picture's only."""
    names = [plain_name(stem) for stem in stems]
    numbers = [(frame_number(name), name) for name in names]
    times = Counter(number for number, _ in numbers)
    by_number = {number: name for number, name in numbers if number is not None}
    unique: dict[str | int, str] = {
        number: name for number, name in by_number.items() if times[number] == 1
    }
    return {**unique, **{name: name for name in names}}


def _own_stem(path: Path, index: Mapping[str | int, str]) -> str | None:
    """The picture that a file or folder is named after, padded numbers among them; else None."""
    name = plain_name(path.name if path.is_dir() else path.stem)
    number = frame_number(name)
    return index.get(name) or (None if number is None else index.get(number))
