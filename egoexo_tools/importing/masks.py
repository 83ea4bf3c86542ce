"""Collects the masks of own pictures by camera: PNG, SAM-style JSON, COCO JSON.

docs/import.md shows where they are placed. Unusable masks are noted with their file, and so is
every other file in a folder, because it may be meant as data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from egoexo_tools.aliases import Row
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
    unambiguous,
)
from egoexo_tools.parsing.mask_json import PictureMasks, is_coco, read_coco, read_sam
from egoexo_tools.parsing.pictures import MASK_PICTURES, read_mask
from egoexo_tools.vocab import view_of

ASPECT_TOLERANCE = 0.01
"""How much a mask's aspect ratio may differ from its picture's; sides of copies are rounded."""

LeaveOut: TypeAlias = Callable[..., None]
"""Notes a reason, followed by camera, object_name and frame_idx as far as they are known."""
Sizes: TypeAlias = Mapping[tuple[str, int], tuple[int, int, int, int]]
"""(camera, frame_idx) → height and width of the kept frame, then of the picture."""


@dataclass
class CameraMasks:
    """The masks of a camera's pictures."""

    frames: dict[int, PictureMasks] = field(default_factory=dict)
    """frame_idx → masks, of every picture that was annotated."""
    notes: list[str] = field(default_factory=list)
    """About files that belong to no picture."""


@dataclass
class AnnotationFiles:
    """The COCO files of some folders."""

    pictures: dict[str, PictureMasks] = field(default_factory=dict)
    """By `picture_key`."""
    notes: list[str] = field(default_factory=list)
    is_incomplete: bool = False
    """An annotation file cannot be read: it may hold masks of any picture."""


def picture_key(path: Path) -> str:
    """The same for every spelling of a picture's path."""
    return plain_name(str(path.resolve()))


def read_annotation_files(paths: Iterable[Path]) -> AnnotationFiles:
    """Read JSON files as COCO; other content is noted."""
    annotations = AnnotationFiles()
    for path in paths:
        try:
            content = load_json(path)
            if not is_coco(content):
                annotations.notes.append(f"{path} is not a COCO file, and not named like a picture")
                annotations.is_incomplete |= isinstance(content, dict) and (
                    "annotations" in content or "images" in content
                )
                continue
            coco = read_coco(path, content)
        except DataError as error:
            annotations.notes.append(str(error))
            annotations.is_incomplete = True
            continue
        annotations.notes += [reason for _, reason in coco.notes]
        annotations.is_incomplete |= bool(coco.notes)
        for picture, masks in coco.pictures.items():
            if not picture.is_file():
                annotations.notes.append(f"{path} lists {picture.name}, which is not at {picture}")
            # By resolved path: COCO files name pictures relative to themselves, or through links.
            key = picture_key(picture)
            annotations.pictures.setdefault(key, PictureMasks()).merge(masks, str(path))
    return annotations


def annotation_files(folder: Path, pictures: Iterable[Path] = ()) -> list[Path]:
    """A folder's JSON files without those of single pictures and cameras.json."""
    stems = _index_stems(path.stem for path in pictures)
    return [
        path
        for path in list_folder(folder)
        if path.suffix.lower() == ".json" and path.is_file()
        and path.name.lower() != CAMERAS_JSON and _find_stem(path, stems) is None
    ]  # fmt: skip


def read_camera_masks(camera: CameraFolder, annotations: Sequence[AnnotationFiles]) -> CameraMasks:
    """The masks of a camera, from its own folder and from COCO files."""
    result = CameraMasks()
    for frame_idx, picture in camera.pictures.items():
        for files in annotations:
            if (masks := files.pictures.get(picture_key(picture))) is not None:
                result.frames.setdefault(frame_idx, PictureMasks()).merge(masks, str(picture))
    frame_of = {plain_name(path.stem): idx for idx, path in camera.pictures.items()}
    stems, pictures = _index_stems(frame_of), set(camera.pictures.values())
    for path in list_folder(camera.folder):
        if path in pictures:
            continue
        # A file or folder named after a picture holds masks of it.
        stem = _find_stem(path, stems)
        is_json = path.suffix.lower() == ".json"
        if path.is_dir() and stem is not None:
            masks = read_mask_folder(path)
        elif is_json and stem is not None:
            masks = read_sam(path)
        else:
            if not (is_json and path.is_file()):  # annotation_files has the other JSON files
                result.notes.append(not_read(path))
            continue
        result.frames.setdefault(frame_of[stem], PictureMasks()).merge(masks, str(path))
    is_incomplete = any(files.is_incomplete for files in annotations)
    for masks in result.frames.values():
        masks.is_incomplete |= is_incomplete
    return result


def read_mask_folder(folder: Path) -> PictureMasks:
    """The masks of a picture from a folder of `<object>.png`."""
    picture = PictureMasks()
    for path in list_folder(folder):
        if path.suffix.lower() not in MASK_PICTURES or not path.is_file():
            picture.refuse(None, not_read(path))
            continue
        name = plain_name(path.stem)
        if not is_text(name):
            picture.refuse(None, f"{printable(str(path))}: its name is not valid text; rename it")
            continue
        try:
            rle = read_mask(path)
        except DataError as error:
            picture.refuse(name, str(error))
            continue
        # Equal masks in two files (cup.png, cup.gif) do no harm.
        if name in picture.masks and picture.masks[name] != rle:
            picture.refuse(name, f"{path} and another file hold different masks of {name!r}")
        elif name not in picture.unknown:
            picture.masks[name] = rle
    return picture


def mask_rows(
    take_uid: str, cameras: Mapping[str, CameraMasks], sizes: Sizes, leave_out: LeaveOut
) -> list[Row]:
    """Rows of the masks manifest by object and camera: visible or absent in annotated frames."""
    for camera, masks in cameras.items():
        for frame_idx, picture in masks.frames.items():
            _refuse_other_shapes(
                picture, camera, frame_idx, sizes[camera, frame_idx][2:], leave_out
            )
    # An object that has only empty masks is not an object of the take.
    pictures = [picture for masks in cameras.values() for picture in masks.frames.values()]
    names = sorted({name for p in pictures for name, rle in p.masks.items() if rle.area()})
    lookalikes = _find_lookalikes(names, leave_out)
    rows = []
    for name in names:
        for camera, masks in cameras.items():
            for frame_idx, picture in sorted(masks.frames.items()):
                rle = picture.masks.get(name)
                may_be_visible = (
                    picture.is_incomplete
                    or name in picture.unknown
                    or lookalikes[name] & set(picture.masks)
                )
                if rle is None and may_be_visible:
                    continue  # no row: neither visible nor absent
                row: Row = {
                    "take_uid": take_uid,
                    "object_name": name,
                    "camera": camera,
                    "frame_idx": frame_idx,
                    "view": str(view_of(camera)),
                    "visible": rle is not None and rle.area() > 0,
                }
                if rle is not None and row["visible"]:
                    box_xywh = [float(side) for side in rle.box_xywh()]
                    row |= {**mask_to_row(rle), "area": rle.area(), "bbox_xywh": box_xywh}
                rows.append(row)
    return rows


def _find_lookalikes(names: Sequence[str], leave_out: LeaveOut) -> dict[str, set[str]]:
    """Name → the other names that differ from it in upper and lower case only, with a note."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.casefold(), []).append(name)
    for group in spellings.values():
        if len(group) > 1:
            leave_out(
                f"{' and '.join(map(repr, group))} may be one object in two spellings, or two "
                "objects: where one has a mask, the other is neither visible nor absent; give one "
                "object one name"
            )
    return {name: {*group} - {name} for group in spellings.values() for name in group}


def _refuse_other_shapes(
    picture: PictureMasks, camera: str, frame_idx: int, hw: tuple[int, ...], leave_out: LeaveOut
) -> None:
    """Refuse masks of another aspect ratio than the picture's; a smaller copy's mask is fine."""
    height, width = hw
    for name, rle in list(picture.masks.items()):
        if abs(rle.width * height / (rle.height * width) - 1) > ASPECT_TOLERANCE:
            reason = (
                f"the mask of {name!r} has {rle.height}x{rle.width} pixels (height x width), its "
                f"picture {camera}/{frame_idx} is shown at {height}x{width}; they must have the "
                "same shape"
            )
            picture.refuse(name, reason)
            leave_out(reason, camera, name, frame_idx)


def _index_stems(stems: Iterable[str]) -> dict[str | int, str]:
    """Picture names by name, and by frame number where only one picture has the number."""
    names = [plain_name(stem) for stem in stems]
    numbers = unambiguous((frame_number(name), name) for name in names)
    index: dict[str | int, str] = {name: name for name in names}
    return index | {number: name for number, name in numbers.items() if number is not None}


def _find_stem(path: Path, index: Mapping[str | int, str]) -> str | None:
    """The picture that a file or folder is named after, also with a padded number; or None."""
    name = plain_name(path.name if path.is_dir() else path.stem)
    number = frame_number(name)
    return index.get(name) or (None if number is None else index.get(number))
