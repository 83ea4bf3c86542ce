"""The objects of a take: their names, shapes, colours and textures.

Colours cover the gamut and differ from the table and, within a take, from each other. Each take
also has look-alikes: objects of the same shape and pattern with slightly different colours.
Textures have less contrast than an object's border, so that a segmentation finds whole objects.
"""

import colorsys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from egoexo_tools.arrays import Bytes, Float64
from egoexo_tools.synthetic.solids import BOX, ELLIPSOID, FRUSTUM, SHEET

TEXTURE_SIDE = 256
"""Pixels of a texture tile, which is solids.TILE_METRES wide."""

Colour = tuple[float, float, float]
"""Red, green and blue, 0..255."""

_NOUNS: Mapping[int, tuple[str, ...]] = {
    BOX: ("box", "tea tin", "book", "carton", "salt/pepper box", "sponge"),
    FRUSTUM: ("mug", "can", "jar", "cup", "crème pot", "measuring cup"),
    ELLIPSOID: ("ball", "melon", "jalapeño", "yarn ball"),
    SHEET: ("plate", "cutting board", "cloth", "coaster"),
}
_SPECIAL_NOUNS = ("salt/pepper box", "crème pot", "jalapeño", "tea tin")
"""Names that break naive code; each take's first objects get them if their shape allows it."""
_HUES = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "azure", "blue", "violet")
_HUE_ENDS = (12, 40, 65, 90, 150, 172, 195, 220, 255, 285)
LOOK_ALIKES = 2
"""Number of look-alikes: the last objects of a take resemble the first ones."""
FEWEST_OBJECTS = 2 * LOOK_ALIKES
"""Each look-alike needs an original."""
SMALL_OBJECT = -1 - LOOK_ALIKES
"""Index of the object that is small enough to be hidden."""
_TALL = 0.085
"""Half the height, in metres, of an object that hides the small one."""
_SMALL_FACTOR = 0.6


@dataclass(frozen=True)
class Appearance:
    """The appearance of an object; the scene defines its place and motion."""

    name: str
    kind: int
    size: tuple[float, float, float]
    """As in solids.SOLID, in metres."""
    wave: tuple[float, float, float]
    """As in solids.SOLID."""
    colour: Colour
    pattern_colour: Colour
    """The second colour of the pattern."""
    pattern: str
    pattern_seed: int

    @property
    def radius(self) -> float:
        """Of the footprint, in metres."""
        if self.kind == BOX:
            return float(np.hypot(self.size[0], self.size[1]))
        return max(self.size[0], self.size[1]) * (1 + self.wave[0])

    @property
    def height(self) -> float:
        """Of the centre above the table, in metres; of a sheet, the height of its upper side."""
        return self.size[2]

    def texture(self) -> Bytes:
        """(TEXTURE_SIDE, TEXTURE_SIDE, 3), periodic."""
        rng = np.random.default_rng(self.pattern_seed)
        field = PATTERNS[self.pattern](rng)[..., None]
        image = np.asarray(self.colour) * (1 - field) + np.asarray(self.pattern_colour) * field
        image += 5 * (_clouds(rng, 64)[..., None] - 0.5)
        return _to_uint8(image)


def draw_objects(rng: np.random.Generator, count: int, table: Colour) -> list[Appearance]:
    """`count` objects for a take whose table has this mean colour, look-alikes last.

    One of the objects is tall, and SMALL_OBJECT fits behind it.
    """
    colours: list[Colour] = [table]
    objects: list[Appearance] = []
    for _ in range(count - LOOK_ALIKES):
        colour = _distinct_colour(rng, colours)
        colours.append(colour)
        objects.append(_draw_object(rng, colour))
    tallest = max(range(len(objects) - 1), key=lambda item: objects[item].height)
    if objects[tallest].kind != SHEET:
        factor = max(1, _TALL / objects[tallest].height)
        objects[tallest] = _scale(objects[tallest], (1, 1, factor))
    objects[-1] = _scale(objects[-1], (_SMALL_FACTOR, _SMALL_FACTOR, _SMALL_FACTOR))
    for original in objects[:LOOK_ALIKES]:
        # The same shape and pattern, but slightly different size and colours.
        shift = rng.normal(size=3)
        shift *= 48 / np.linalg.norm(shift)
        factor = rng.uniform(0.88, 1.12)
        look_alike = replace(
            _scale(original, (factor, factor, factor)),
            colour=_clip(np.asarray(original.colour) + shift),
            pattern_colour=_clip(np.asarray(original.pattern_colour) + shift),
            pattern_seed=int(rng.integers(2**31)),
        )
        objects.append(look_alike)
    return _with_names(rng, objects)


def _draw_object(rng: np.random.Generator, colour: Colour) -> Appearance:
    kind = int(rng.choice([BOX, FRUSTUM, ELLIPSOID, SHEET], p=[0.36, 0.32, 0.16, 0.16]))
    wave = (0.0, 0.0, 0.0)
    size: tuple[float, float, float]
    if kind == BOX:
        size = (rng.uniform(0.048, 0.086), rng.uniform(0.048, 0.086), rng.uniform(0.025, 0.075))
    elif kind == FRUSTUM:
        radius = rng.uniform(0.05, 0.07)
        size = (radius * rng.uniform(0.75, 1.0), radius, rng.uniform(0.035, 0.08))
    elif kind == ELLIPSOID:
        size = (rng.uniform(0.052, 0.075), rng.uniform(0.052, 0.075), rng.uniform(0.048, 0.065))
    else:
        size = (rng.uniform(0.07, 0.1), rng.uniform(0.07, 0.1), 0.006)
        wave = (rng.uniform(0, 0.16), float(rng.integers(2, 6)), rng.uniform(0, 6.3))
    return Appearance(
        name="",
        kind=kind,
        size=size,
        wave=wave,
        colour=colour,
        pattern_colour=_pattern_colour(rng, colour),
        pattern=str(rng.choice(list(PATTERNS))),
        pattern_seed=int(rng.integers(2**31)),
    )


def _scale(item: Appearance, factors: tuple[float, float, float]) -> Appearance:
    a, b, c = (side * factor for side, factor in zip(item.size, factors, strict=True))
    return replace(item, size=(a, b, c))


def _with_names(rng: np.random.Generator, objects: list[Appearance]) -> list[Appearance]:
    """Add names like those of annotators: `red striped mug_0`; equal descriptions are numbered."""
    special_nouns = list(_SPECIAL_NOUNS)
    counts: Counter[str] = Counter()
    named_objects = []
    for item in objects:
        suitable = [noun for noun in special_nouns if noun in _NOUNS[item.kind]]
        noun = suitable[0] if suitable else str(rng.choice(_NOUNS[item.kind]))
        special_nouns = [other for other in special_nouns if other != noun]
        description = f"{colour_name(item.colour)} {item.pattern} {noun}"
        named_objects.append(replace(item, name=f"{description}_{counts[description]}"))
        counts[description] += 1
    return named_objects


def colour_name(colour: Colour) -> str:
    """A common word for a colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    if value < 0.22:
        return "black"
    if saturation < 0.2:
        return "white" if value > 0.75 else "grey"
    if value < 0.5 and hue * 360 < 45:
        return "brown"
    for end, name in zip(_HUE_ENDS, _HUES, strict=True):
        if hue * 360 < end:
            return name
    return "pink" if hue * 360 < 340 else "red"


def _distinct_colour(rng: np.random.Generator, colours: list[Colour]) -> Colour:
    """The one of twelve random colours that is furthest from all of `colours`."""
    candidates: list[Colour] = []
    for _ in range(12):
        saturation = rng.uniform(0.35, 1.0) if rng.random() > 0.12 else rng.uniform(0, 0.15)
        red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.3, 1.0))
        candidates.append((235 * red, 235 * green, 235 * blue))
    distance = np.linalg.norm(np.asarray(candidates)[:, None] - np.asarray(colours)[None], axis=2)
    return candidates[int(distance.min(axis=1).argmax())]


def _pattern_colour(rng: np.random.Generator, colour: Colour) -> Colour:
    """A colour at a distance of 35 to 70 grey levels, away from the ends of the range."""
    base = np.asarray(colour)
    step = rng.normal(size=3)
    # Turn channels around that would leave the range.
    step = np.where(base + 60 * np.sign(step) > 250, -abs(step), step)
    step = np.where(base + 60 * np.sign(step) < 5, abs(step), step)
    return _clip(base + step / np.linalg.norm(step) * rng.uniform(35, 70))


def _clip(colour: Float64) -> Colour:
    red, green, blue = np.clip(colour, 8, 245)
    return float(red), float(green), float(blue)


# The patterns of objects: rng → (side, side), periodic, from 0 (`colour`) to 1 (`pattern_colour`).


def striped(rng: np.random.Generator) -> Float64:
    x, y = _grid()
    along = x if rng.random() < 0.5 else y
    return _step(np.sin(2 * np.pi * rng.integers(5, 11) * along) - rng.uniform(-0.4, 0.4))


def diagonal(rng: np.random.Generator) -> Float64:
    x, y = _grid()
    return _step(np.sin(2 * np.pi * (rng.integers(3, 7) * x + rng.integers(3, 7) * y)))


def checked(rng: np.random.Generator) -> Float64:
    x, y = _grid()
    count = rng.integers(4, 8)
    return _step(np.sin(2 * np.pi * count * x) * np.sin(2 * np.pi * count * y))


def dotted(rng: np.random.Generator) -> Float64:
    x, y = _grid()
    count = rng.integers(5, 9)
    distance = np.hypot((x * count) % 1 - 0.5, (y * count) % 1 - 0.5)
    return _step(rng.uniform(0.24, 0.36) - distance, soft=0.03)


def marbled(rng: np.random.Generator) -> Float64:
    return _step(_clouds(rng, int(rng.choice([12, 20]))) - 0.5, soft=0.15)


def shaded(rng: np.random.Generator) -> Float64:
    x, y = _grid()
    along = x if rng.random() < 0.5 else y
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * 2 * along))


def plain(rng: np.random.Generator) -> Float64:
    return np.asarray(0.12 * _clouds(rng, 32))


def lettered(rng: np.random.Generator) -> Float64:
    page = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE), np.uint8)
    for row in range(4):
        text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUXYZ2345689"), 4))
        cv2.putText(page, text, (6, 50 + 64 * row), cv2.FONT_HERSHEY_DUPLEX, 2.0, 255, 5)
    return page / 255


PATTERNS: Mapping[str, Callable[[np.random.Generator], Float64]] = {
    pattern.__name__: pattern
    for pattern in (striped, diagonal, checked, dotted, marbled, shaded, plain, lettered)
}


def table_texture(rng: np.random.Generator, colour: Colour, side: int = 1024) -> Bytes:
    """(side // 2, side, 3): wood grain or cloth with this mean colour."""
    rows = side // 2
    if rng.random() < 0.5:
        grain = _noise(rng, (96, 5), (rows, side)) + 0.6 * _noise(rng, (rows // 2, 9), (rows, side))
    else:
        grain = _noise(rng, (rows // 4, side // 4), (rows, side))
    return _to_uint8(np.asarray(colour) * (1 + 0.035 * grain[..., None]))


def room_texture(rng: np.random.Generator, side: int = 512) -> Bytes:
    """(side, side, 3): a pale wall or floor with faint tiles."""
    colour = rng.uniform(120, 190) + rng.uniform(-14, 14, 3)
    image = np.tile(colour, (side, side, 1))
    lines = np.arange(side) % (side // 4) < 4
    image[lines] *= 0.9
    image[:, lines] *= 0.9
    return _to_uint8(image + 4 * _noise(rng, (side // 2, side // 2), (side, side))[..., None])


def table_colour(rng: np.random.Generator) -> Colour:
    """A muted colour: wood, linen or slate."""
    hue, saturation = rng.uniform(0.05, 0.13), rng.uniform(0.08, 0.34)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(0.5, 0.82))
    return 255 * red, 255 * green, 255 * blue


def _grid() -> tuple[Float64, Float64]:
    line = np.arange(TEXTURE_SIDE) / TEXTURE_SIDE
    x, y = np.meshgrid(line, line)
    return x, y


def _step(field: Float64, soft: float = 0.25) -> Float64:
    """A step from 0 to 1 where `field` is 0, with a ramp of width 2 * `soft`."""
    return np.asarray(np.clip(0.5 + field / (2 * soft), 0, 1))


def _clouds(rng: np.random.Generator, cells: int) -> Float64:
    """Smooth periodic noise around 0.5."""
    coarse = rng.random((cells, cells)).astype(np.float32)
    step = TEXTURE_SIDE // cells + 1
    # Interpolate across the wrapped border, so that the texture repeats without a seam.
    wrapped = np.pad(coarse, ((1, 1), (1, 1)), mode="wrap")
    size = (cells + 2) * step
    fine = cv2.resize(wrapped, (size, size), interpolation=cv2.INTER_CUBIC)
    inner = fine[step : step + cells * step, step : step + cells * step]
    return np.asarray(cv2.resize(inner, (TEXTURE_SIDE, TEXTURE_SIDE)), dtype=np.float64)


def _noise(rng: np.random.Generator, cells: tuple[int, int], shape: tuple[int, int]) -> Float64:
    """Normal noise with this number of cells, interpolated to (rows, columns)."""
    coarse = rng.normal(size=cells).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0])), dtype=np.float64)


def _to_uint8(image: Float64) -> Bytes:
    return np.asarray(np.clip(np.round(image), 0, 255), dtype=np.uint8)
