"""Masks in JSON from outside: one `{size, counts}`, a SAM-style list, a COCO file.

A value that cannot be used costs its own mask: it is named in `notes`, and its object counts as
unknown in that picture, never as absent. Outlines are measured before they are drawn, since
pycocotools takes memory for every pixel of an outline's length, wherever that lies.
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
    whole_number,
)

NAME_KEYS = ("object_name", "label", "name", "category", "category_name")
"""Where an entry may hold the object's name."""
MOST_MASK_PIXELS = 1 << 27
_MOST_OUTLINE = 4_000_000
"""Pixels along all of an object's outlines: a hundred times a 4K picture's own."""
_OUTSIDE = 1.0
"""How far outside of its picture a point may lie, in picture sides; tools draw over the edge."""

Note: TypeAlias = tuple[str | None, str]
"""Object name (None: not of one object), and what is to be said of it."""


@dataclass
class PictureMasks:
    """What is known of one picture."""

    masks: dict[str, MaskRle] = field(default_factory=dict)
    """object_name → mask, empty ones among them (absent, and said so)."""
    notes: list[Note] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    """Objects with a mask here that could not be used."""
    is_open: bool = False
    """Something of it could not be read, so that nobody can say which objects are absent."""

    def add(self, name: str, rle: MaskRle, where: str) -> None:
        """Another mask of one file; two of one object are joined, which is noted."""
        if name in self.unknown:
            return  # one of its parts could not be used, so that the whole is not known
        known = self.masks.get(name)
        if known is not None:
            try:
                rle = joined(known, rle)
            except DataError as error:
                return self.refuse(name, f"{where}: {error}")
            self.notes.append((name, f"{where}: masks of one object in one picture were joined"))
        self.masks[name] = rle

    def refuse(self, name: str | None, reason: str) -> None:
        """A mask that cannot be used; without a name it could be any object's."""
        self.notes.append((name, reason))
        if name is None:
            self.is_open = True
        else:
            self.unknown.add(name)
            self.masks.pop(name, None)

    def merge(self, other: "PictureMasks", where: str) -> None:
        """What another file says of the same picture; two different masks refuse each other."""
        self.notes += other.notes
        self.unknown |= other.unknown
        self.is_open |= other.is_open
        for name, rle in other.masks.items():
            if name not in self.masks:
                self.masks[name] = rle
            elif self.masks[name] != rle:
                ours = self.masks[name].area()
                self.refuse(
                    name,
                    f"{where} gives {name!r} a mask of {rle.area():,} pixels, another file one of "
                    f"{ours:,}; keep one of them",
                )
        for name in self.unknown & set(self.masks):
            del self.masks[name]


@dataclass
class CocoMasks:
    """A COCO file: what it says of each picture that it lists, and of itself."""

    pictures: dict[Path, PictureMasks]
    notes: list[Note]


def joined(first: MaskRle, second: MaskRle) -> MaskRle:
    """The union of two masks; DataError for different sizes."""
    from pycocotools import mask as coco

    if (first.height, first.width) != (second.height, second.width):
        raise DataError(
            f"masks of {first.height}x{first.width} and {second.height}x{second.width} pixels "
            "cannot be joined"
        )
    merged = coco.merge([first.to_json(), second.to_json()])
    return MaskRle.from_json(merged).validate()


def read_rle(value: Any, where: str) -> MaskRle:
    """`{"size": [height, width], "counts"}` → a mask that is checked; DataError names `where`.

    Sides may be text; counts are COCO's text (also as Python prints bytes, `b'...'`) or a list of
    run lengths.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: segmentation must be {{size, counts}}, not {kind_of(value)}")
    size = value.get("size")
    sides = [whole_number(side) for side in size] if isinstance(size, list | tuple) else []
    if len(sides) != 2 or None in sides:
        raise DataError(f"{where}: size must be [height, width], not {size!r:.80}")
    try:
        rle = MaskRle.from_json({"size": sides, "counts": _counts(value.get("counts"))}).validate()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if rle.height * rle.width > MOST_MASK_PIXELS:
        raise DataError(f"{where}: a mask of {rle.height}x{rle.width} pixels is not read")
    return rle


def _counts(counts: Any) -> Any:
    if isinstance(counts, list):
        runs = [whole_number(run) for run in counts]
        if None in runs or any(not 0 <= (run or 0) <= MAX_SIDE**2 for run in runs):
            raise DataError("counts must be run lengths in pixels, whole numbers from 0 up")
        return runs
    if isinstance(counts, str) and counts.startswith(("b'", 'b"')):
        try:
            # Literals alone: nothing in the file is run.
            return ast.literal_eval(counts)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError("the counts are not COCO compressed run lengths") from None
    if not isinstance(counts, str | bytes):
        raise DataError(f"counts must be text or a list, not {kind_of(counts)}")
    return counts


def read_mask_json(path: Path) -> MaskRle:
    """The only mask of a JSON file: `{size, counts}`, or a SAM-style list of one."""
    content = load_json(path)
    if isinstance(content, dict) and "counts" in content:
        return read_rle(content, str(path))
    entries = sam_entries(content)
    if entries is None or len(entries) != 1 or not isinstance(entries[0], dict):
        raise DataError(f"{path} is no mask; it must hold size [height, width] and counts")
    return read_rle(entries[0].get("segmentation"), str(path))


def sam_entries(content: Any) -> list[Any] | None:
    """The list of a SAM-style file; None if it is none."""
    found = content.get("annotations") if isinstance(content, dict) else content
    return found if isinstance(found, list) else None


def read_sam(path: Path) -> PictureMasks:
    """A list of `{"object_name", "segmentation": {size, counts}}`, or `{"annotations": [...]}`."""
    found = PictureMasks()
    try:
        entries = sam_entries(load_json(path))
    except DataError as error:
        found.refuse(None, str(error))
        return found
    if entries is None:
        found.refuse(None, f"{path} must hold a list of masks, as SAM writes it")
        return found
    for number, entry in enumerate(entries):
        name = object_name(entry) if isinstance(entry, dict) else None
        where = f"{path}, mask {number}"
        if name is None:
            found.refuse(
                None,
                f'{where} has no name; add "object_name", the same for the same object in the '
                "other view",
            )
            continue
        _add(found, name, f"{where} of {name!r}", partial(read_rle, entry.get("segmentation")))
    return found


def object_name(entry: Mapping[str, Any]) -> str | None:
    """The name that an entry gives its object, composed; None where it gives none."""
    return next((name for key in NAME_KEYS if (name := _name(entry.get(key))) is not None), None)


def _name(value: Any) -> str | None:
    """Text, or a number as text."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    is_name = isinstance(text, str) and bool(text.strip()) and is_text(text)
    return plain_name(text) if is_name else None


def is_coco(content: Any) -> bool:
    """Whether a JSON value wants to be a COCO file."""
    return isinstance(content, dict) and {"images", "annotations"} <= set(content)


def read_coco(path: Path, content: Any) -> CocoMasks:
    """Picture → masks, for every image that a COCO file lists (without annotations: no masks).

    The name of an object is the annotation's own (NAME_KEYS), else its category's. Raises
    DataError where the file holds no lists of images and annotations.
    """
    if not is_coco(content) or not all(
        isinstance(content[key], list) for key in ("images", "annotations")
    ):
        raise DataError(f"{path} is not a COCO file: it must hold lists of images and annotations")
    found = CocoMasks({}, [])
    images = _images(path, content["images"], found)
    names = _categories(content.get("categories"))
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}, annotation {number}"
        image = images.get(_id(entry.get("image_id")) or "") if isinstance(entry, dict) else None
        if image is None:
            found.notes.append((None, f"{where} names no image of the file"))
            continue
        picture = found.pictures[image.picture]
        name = object_name(entry) or names.get(_id(entry.get("category_id")) or "")
        if name is None:
            why = "its category is not in the file, or has no name, or two"
            picture.refuse(None, f"{where} has no object name: {why}")
            continue
        read = partial(_segmentation, entry.get("segmentation"), image.size)
        _add(picture, name, f"{where} of {name!r}", read)
    return found


@dataclass(frozen=True)
class _Image:
    picture: Path
    size: tuple[int, int] | None
    """height, width"""


def _images(path: Path, entries: Sequence[Any], found: CocoMasks) -> dict[str, _Image]:
    images: dict[str, _Image] = {}
    doubtful: set[str] = set()
    for number, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        key = _id(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not is_text(name) or key is None:
            lacks = "file_name" if key is not None or not isinstance(name, str) else "id"
            found.notes.append((None, f"{path}, image {number} has no {lacks}"))
            continue
        sides = whole_number(entry.get("height")), whole_number(entry.get("width"))
        height, width = (side if side and 0 < side <= MAX_SIDE else 0 for side in sides)
        picture = path.parent / posix_path(name)
        image = _Image(picture, (height, width) if height and width else None)
        found.pictures.setdefault(picture, PictureMasks())
        if key in images and images[key] != image:
            # Its annotations could belong to either: neither can be called complete.
            found.pictures[images[key].picture].is_open = found.pictures[picture].is_open = True
            doubtful.add(key)
            found.notes.append((None, f"{path}: two images have the id {key}; number them anew"))
        images[key] = image
    return {key: image for key, image in images.items() if key not in doubtful}


def _categories(entries: Any) -> dict[str, str]:
    """id → name; an id that two categories have names neither."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for entry in entries if isinstance(entries, list) else ():
        key = _id(entry.get("id")) if isinstance(entry, dict) else None
        name = _name(entry.get("name")) if isinstance(entry, dict) else None
        if key is None or name is None:
            continue
        if found.setdefault(key, name) != name:
            twice.add(key)
    return {key: name for key, name in found.items() if key not in twice}


def _id(value: Any) -> str | None:
    """Ids that are numbers in one place and text in another are the same; None is no id."""
    number = whole_number(value)
    if number is not None:
        return str(number)
    return value.strip() or None if isinstance(value, str) else None


def _add(picture: PictureMasks, name: str, where: str, read: Callable[[str], MaskRle]) -> None:
    try:
        picture.add(name, read(where), where)
    except DataError as error:
        picture.refuse(name, str(error))


def _segmentation(value: Any, size: tuple[int, int] | None, where: str) -> MaskRle:
    if isinstance(value, Mapping):
        return read_rle(value, where)
    if value is REPEATED:
        raise DataError(f"{where}: its segmentation is {value!r}")
    if not isinstance(value, list) or not value:
        raise DataError(f"{where} has no segmentation (a box is no mask)")
    if size is None:
        raise DataError(f"{where} is an outline, and its image has no height and width")
    if not isinstance(value[0], list):
        value = [value]  # one outline without the list around it
    polygons = [_polygon(polygon, size, where) for polygon in value]
    length = sum(_length(polygon) for polygon in polygons)
    if length > _MOST_OUTLINE:
        raise DataError(f"{where} has outlines of {length:,.0f} pixels, which is no object's")
    from pycocotools import mask as coco

    rle = read_rle(coco.merge(coco.frPyObjects(polygons, *size)), where)
    if not rle.area():
        raise DataError(f"{where} has an outline that holds no pixel")
    return rle


def _polygon(value: Any, size: tuple[int, int], where: str) -> list[float]:
    # Four numbers pycocotools would take for a box.
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        raise DataError(
            f"{where}: a polygon needs three points at least, as a list [x, y, x, y, x, y]"
        )
    numbers = [finite_number(number) for number in value]
    height, width = size
    for place, number in enumerate(numbers):
        side = height if place % 2 else width
        if number is None or not -_OUTSIDE * side <= number <= (1 + _OUTSIDE) * side:
            raise DataError(
                f"{where}: the polygon's number {value[place]!r:.40} lies outside of its picture "
                f"of {width}x{height} pixels"
            )
    return [number for number in numbers if number is not None]


def _length(polygon: Sequence[float]) -> float:
    """Along the outline, the longer side of each step, as it is drawn."""
    ends = [*polygon[2:], *polygon[:2]]
    steps = [abs(end - start) for start, end in zip(polygon, ends, strict=True)]
    return sum(map(max, steps[::2], steps[1::2]))
