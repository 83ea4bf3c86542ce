"""Reads masks in JSON: one `{size, counts}`, a SAM-style list, or a COCO file.

An unusable mask leaves out that mask alone: it is named in `notes`, and its object counts as
unknown in the picture, never as absent. Polygons are measured before they are drawn, because
pycocotools allocates memory for every pixel of a polygon's length, even far outside the picture.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import MAX_SIDE
from egoexo_tools.parsing.json_text import REPEATED, kind_of
from egoexo_tools.parsing.lenient import (
    finite_number,
    is_text,
    load_json,
    plain_name,
    posix_path,
    unambiguous,
    whole_number,
)

NAME_KEYS = ("object_name", "label", "name", "category", "category_name")
"""Keys under which an entry may hold the object's name, the first one first."""
MOST_MASK_PIXELS = 1 << 27
_MOST_OUTLINE_PIXELS = 4_000_000
"""Limit for the length of an object's polygons: hundreds of times around a 4K picture."""
_MOST_OUTSIDE = 1.0
"""How far outside of its picture a point may be, in picture sides; tools draw over the edge."""

Note: TypeAlias = tuple[str | None, str]
"""Object name (None: not about one object), and the message."""


@dataclass
class PictureMasks:
    """The masks of one picture."""

    masks: dict[str, MaskRle] = field(default_factory=dict)
    """object_name → mask; an empty mask says that the object is absent."""
    notes: list[Note] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    """Objects whose mask could not be used."""
    is_incomplete: bool = False
    """A part could not be read that may hold any object's mask: no object counts as absent."""

    def add(self, name: str, rle: MaskRle, where: str) -> None:
        """Add a mask of a file. Several masks of one object are merged, with a note."""
        if name in self.unknown:
            return  # a part of the object is missing already
        first = self.masks.get(name)
        if first is not None:
            try:
                rle = merge_masks(first, rle)
            except DataError as error:
                return self.refuse(name, f"{where}: {error}")
            self.notes.append((name, f"{where}: several masks of one object are merged"))
        self.masks[name] = rle

    def refuse(self, name: str | None, reason: str) -> None:
        """Note an unusable mask; without a name it could be any object's."""
        self.notes.append((name, reason))
        if name is None:
            self.is_incomplete = True
        else:
            self.unknown.add(name)
            self.masks.pop(name, None)

    def merge(self, other: "PictureMasks", where: str) -> None:
        """Add what another file says of the same picture; contradicting masks are refused."""
        self.notes += other.notes
        self.unknown |= other.unknown
        self.is_incomplete |= other.is_incomplete
        for name, rle in other.masks.items():
            first = self.masks.setdefault(name, rle)
            if first != rle:
                self.refuse(
                    name,
                    f"{where} gives {name!r} a mask of {rle.area():,} pixels, another file one of "
                    f"{first.area():,}; keep one of them",
                )
        for name in self.unknown & set(self.masks):
            del self.masks[name]


@dataclass
class CocoMasks:
    """The masks of a COCO file by picture, and notes about the file itself."""

    pictures: dict[Path, PictureMasks]
    notes: list[Note]


def merge_masks(first: MaskRle, second: MaskRle) -> MaskRle:
    """The union of two masks; DataError for different sizes."""
    from pycocotools import mask as coco

    if (first.height, first.width) != (second.height, second.width):
        raise DataError(
            f"masks of {first.height}x{first.width} and {second.height}x{second.width} pixels "
            "cannot be merged"
        )
    return MaskRle.from_json(coco.merge([first.to_json(), second.to_json()])).validate()


def read_rle(value: Any, where: str) -> MaskRle:
    """`{"size": [height, width], "counts"}` → a validated mask; DataError names `where`.

    The sides may be text. The counts are COCO's text (also as Python prints bytes, `b'...'`) or a
    list of run lengths.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: segmentation must be {{size, counts}}, not {kind_of(value)}")
    size = value.get("size")
    sides = [whole_number(side) for side in size] if isinstance(size, list | tuple) else []
    if len(sides) != 2 or None in sides:
        raise DataError(f"{where}: size must be [height, width], not {size!r:.80}")
    try:
        rle = MaskRle.from_json(
            {"size": sides, "counts": _read_counts(value.get("counts"))}
        ).validate()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if rle.height * rle.width > MOST_MASK_PIXELS:
        raise DataError(
            f"{where}: a mask of {rle.height}x{rle.width} pixels is too large; at most "
            f"{MOST_MASK_PIXELS:,} are read"
        )
    return rle


def _read_counts(counts: Any) -> Any:
    if isinstance(counts, list):
        runs = [whole_number(run) for run in counts]
        if None in runs or any(not 0 <= (run or 0) <= MAX_SIDE**2 for run in runs):
            raise DataError("counts must be run lengths in pixels, whole numbers from 0 up")
        return runs
    if isinstance(counts, str) and counts.startswith(("b'", 'b"')):
        try:
            # Only literals: no code of the file is run.
            return ast.literal_eval(counts)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError("the counts are not COCO compressed run lengths") from None
    if not isinstance(counts, str | bytes):
        raise DataError(f"counts must be text or a list, not {kind_of(counts)}")
    return counts


def read_mask_json(path: Path) -> MaskRle:
    """The mask of a JSON file that holds one: `{size, counts}`, or a SAM-style list of one."""
    content = load_json(path)
    if isinstance(content, dict) and "counts" in content:
        return read_rle(content, str(path))
    entries = sam_entries(content)
    if entries is None or len(entries) != 1 or not isinstance(entries[0], dict):
        raise DataError(f"{path} is not a mask; it must hold size [height, width] and counts")
    return read_rle(entries[0].get("segmentation"), str(path))


def sam_entries(content: Any) -> list[Any] | None:
    """The list in a SAM-style file; None for other content."""
    entries = content.get("annotations") if isinstance(content, dict) else content
    return entries if isinstance(entries, list) else None


def read_sam(path: Path) -> PictureMasks:
    """A list of `{"object_name", "segmentation": {size, counts}}`, or `{"annotations": [...]}`."""
    picture = PictureMasks()
    try:
        entries = sam_entries(load_json(path))
    except DataError as error:
        picture.refuse(None, str(error))
        return picture
    if entries is None:
        picture.refuse(None, f"{path} must hold a list of masks, as SAM writes it")
        return picture
    for number, entry in enumerate(entries):
        name = object_name(entry) if isinstance(entry, dict) else None
        where = f"{path}, mask {number}"
        if name is None:
            picture.refuse(
                None,
                f'{where} has no name; add "object_name", the same for the same object in the '
                "other view",
            )
            continue
        _add(picture, name, f"{where} of {name!r}", partial(read_rle, entry.get("segmentation")))
    return picture


def object_name(entry: Mapping[str, Any]) -> str | None:
    """The object's name in an entry, composed (NFC); None where it has none."""
    return next((name for key in NAME_KEYS if (name := _name(entry.get(key))) is not None), None)


def _name(value: Any) -> str | None:
    """Text, or a number as text."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    is_name = isinstance(text, str) and bool(text.strip()) and is_text(text)
    return plain_name(text) if is_name else None


def is_coco(content: Any) -> bool:
    """Whether a JSON value has the keys of a COCO file."""
    return isinstance(content, dict) and {"images", "annotations"} <= set(content)


def read_coco(path: Path, content: Any) -> CocoMasks:
    """Picture → masks, for every image that a COCO file lists, with annotations or without.

    An object's name is the annotation's own (NAME_KEYS), or its category's. Raises DataError where
    the file holds no lists of images and annotations.
    """
    if not is_coco(content) or not all(
        isinstance(content[key], list) for key in ("images", "annotations")
    ):
        raise DataError(f"{path} is not a COCO file: it must hold lists of images and annotations")
    coco = CocoMasks({}, [])
    images = _read_images(path, content["images"], coco)
    categories = content.get("categories")
    names = unambiguous(
        (key, name)
        for entry in (categories if isinstance(categories, list) else ())
        if isinstance(entry, dict)
        if (key := _id(entry.get("id"))) and (name := _name(entry.get("name"))) is not None
    )
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}, annotation {number}"
        image = images.get(_id(entry.get("image_id")) or "") if isinstance(entry, dict) else None
        if image is None:
            coco.notes.append((None, f"{where} names no image of the file"))
            continue
        picture = coco.pictures[image.picture]
        name = object_name(entry) or names.get(_id(entry.get("category_id")) or "")
        if name is None:
            fault = "its category is not in the file, has no name, or has two"
            picture.refuse(None, f"{where} has no object name: {fault}")
            continue
        read = partial(_read_segmentation, entry.get("segmentation"), image.size)
        _add(picture, name, f"{where} of {name!r}", read)
    return coco


@dataclass(frozen=True)
class _Image:
    picture: Path
    size: tuple[int, int] | None
    """height, width"""


def _read_images(path: Path, entries: Sequence[Any], coco: CocoMasks) -> dict[str, _Image]:
    """id → image; the images' pictures are added to `coco`, and notes about invalid entries."""
    images: dict[str, _Image] = {}
    ambiguous: set[str] = set()
    for number, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        key = _id(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not is_text(name) or key is None:
            missing = "file_name" if key is not None or not isinstance(name, str) else "id"
            coco.notes.append((None, f"{path}, image {number} has no {missing}"))
            continue
        sides = whole_number(entry.get("height")), whole_number(entry.get("width"))
        height, width = (side if side and 0 < side <= MAX_SIDE else 0 for side in sides)
        picture = path.parent / posix_path(name)
        image = _Image(picture, (height, width) if height and width else None)
        coco.pictures.setdefault(picture, PictureMasks())
        if key in images and images[key] != image:
            # The annotations of this id may belong to either picture: neither is complete.
            coco.pictures[images[key].picture].is_incomplete = coco.pictures[
                picture
            ].is_incomplete = True
            ambiguous.add(key)
            coco.notes.append((None, f"{path}: two images have the id {key}; renumber them"))
        images[key] = image
    return {key: image for key, image in images.items() if key not in ambiguous}


def _id(value: Any) -> str | None:
    """An id as text, since files mix 7 and "7"; None for an invalid id."""
    number = whole_number(value)
    if number is not None:
        return str(number)
    return value.strip() or None if isinstance(value, str) else None


def _add(picture: PictureMasks, name: str, where: str, read: Callable[[str], MaskRle]) -> None:
    try:
        picture.add(name, read(where), where)
    except DataError as error:
        picture.refuse(name, str(error))


def _read_segmentation(value: Any, size: tuple[int, int] | None, where: str) -> MaskRle:
    if isinstance(value, Mapping):
        return read_rle(value, where)
    if value is REPEATED:
        raise DataError(f"{where}: its segmentation is {value!r}")
    if not isinstance(value, list) or not value:
        raise DataError(f"{where} has no segmentation; a box alone is not a mask")
    if size is None:
        raise DataError(f"{where} is a polygon, and its image has no height and width")
    if not isinstance(value[0], list):
        value = [value]  # one polygon without the list around it
    polygons = [_read_polygon(polygon, size, where) for polygon in value]
    length = 0.0
    for polygon in polygons:
        ends = [*polygon[2:], *polygon[:2]]
        steps = [abs(end - start) for start, end in zip(polygon, ends, strict=True)]
        # pycocotools draws as many pixels per edge as its longer side has.
        length += sum(map(max, steps[::2], steps[1::2]))
    if length > _MOST_OUTLINE_PIXELS:
        raise DataError(
            f"{where} has outlines of {length:,.0f} pixels, longer than any object's "
            f"({_MOST_OUTLINE_PIXELS:,})"
        )
    from pycocotools import mask as coco

    rle = read_rle(coco.merge(coco.frPyObjects(polygons, *size)), where)
    if not rle.area():
        raise DataError(f"{where} has a polygon that covers no pixel")
    return rle


def _read_polygon(value: Any, size: tuple[int, int], where: str) -> list[float]:
    # pycocotools would read four numbers as a box.
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        raise DataError(
            f"{where}: a polygon needs at least three points, as a list [x, y, x, y, x, y]"
        )
    height, width = size
    numbers = []
    for place, number in enumerate(map(finite_number, value)):
        side = height if place % 2 else width
        if number is None or not -_MOST_OUTSIDE * side <= number <= (1 + _MOST_OUTSIDE) * side:
            raise DataError(
                f"{where}: the polygon's number {value[place]!r:.40} is outside of its picture of "
                f"{width}x{height} pixels"
            )
        numbers.append(number)
    return numbers
