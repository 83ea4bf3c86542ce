"""Pictures and object masks from outside, read the same in every command.

A mask picture marks one object. What marks it:

- one channel, or colours: every pixel that is not 0 (a palette's numbers, not its colours);
- with transparency: a constant alpha says nothing, and the colours decide; where the colours say
  nothing, what is not transparent is the object; where both say something they must agree, else
  DataError gives both readings;
- JPEG, which blurs values: only where nearly every pixel is near black or near white.

The size is looked at before a pixel is decoded, so that no file takes more memory than a large
photograph. Files are decoded to their last byte: a picture that is cut off is refused.
"""

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Bytes
from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import MAX_SIDE

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_PICTURES = (*PICTURES, ".gif")
HEIF = (".heic", ".heif", ".avif")
MOST_PIXELS = 1 << 27
"""134 million: above the largest phone cameras in use, 400 MB in colour."""
_MOST_RAW_PIXELS, _MOST_DEEP_PIXELS = 1 << 26, 1 << 24
"""Of masks: colours and transparency take four bytes a pixel, those of 16 bits eight more, and some
of it is there twice."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"avif")
_DARK, _BRIGHT, _MOST_BETWEEN = 64, 192, 0.02
"""Of a JPEG mask: where its values must lie, and which share may lie between (its edges)."""


def read_picture(path: Path) -> Bytes:
    """A picture as it is shown (a phone's rotation applied), (H, W, 3) uint8 BGR."""
    import cv2

    with _opened(path, MOST_PIXELS) as image:
        image.load()  # OpenCV fills up what is cut off; Pillow says so
        # OpenCV reads these in some builds only.
        if image.format in {"HEIF", "AVIF"}:
            from PIL import ImageOps

            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
            return np.ascontiguousarray(rgb[..., ::-1])
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"{path} is not a picture that can be read; use JPEG or PNG")
    return np.asarray(picture, np.uint8)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as stored, from its head alone."""
    with _opened(path, MOST_PIXELS) as image:
        width, height = image.size
    return height, width


def read_mask(path: Path) -> MaskRle:
    """The mask of one object out of a picture file; DataError where it cannot be told."""
    with _opened(path, _MOST_RAW_PIXELS) as image:
        mask = _mask(image, path)
    return MaskRle.encode(mask)


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """A palette or grey picture's numbers, (H, W) of 8 or 16 bits; DataError for colours."""
    with _opened(path, _MOST_RAW_PIXELS) as image:
        if image.mode not in {"P", "L", "1", "I;16", "I;16B", "I"}:
            raise DataError(
                f"{path} holds colours ({image.mode}), not numbers; save it as a palette PNG"
            )
        labels = np.asarray(image)
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def _mask(image: Any, path: Path) -> Bool:
    if image.format in {"JPEG", "MPO"}:
        return _from_jpeg(np.asarray(image.convert("L")), path)
    if "transparency" in image.info or image.mode in {"LA", "PA", "RGBA", "La", "RGBa"}:
        return _with_alpha(image, path)
    return _marked(_deep(image, path) if _is_deep(image, path) else image)


def _is_deep(image: Any, path: Path) -> bool:
    """A PNG of 16-bit colours, of which Pillow keeps the upper byte: small numbers go."""
    return image.format == "PNG" and len(image.getbands()) > 1 and _is_16_bit(path)


def _deep(image: Any, path: Path) -> NDArray[Any]:
    """Its (H, W, C) numbers, colours first and transparency last."""
    import cv2

    _check_size(image.size, path, _MOST_DEEP_PIXELS)
    values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3:
        raise DataError(f"{path} is no mask that can be read: its colours have 16 bits; save it "
                        "with 8")  # fmt: skip
    return np.asarray(values)


def _with_alpha(image: Any, path: Path) -> Bool:
    if image.mode in {"LA", "RGBA"} and _is_deep(image, path):
        deep = _deep(image, path)
        deep = deep if deep.shape[2] == 4 else deep[..., :1]  # OpenCV makes colours of grey
        colours, opaque = _marked(deep[..., :3]), _marked(deep[..., 3:])
    # The palette's numbers mark the object, not its colours; only the alpha needs them.
    elif image.mode == "P":
        colours, opaque = _marked(image), _marked(image.convert("RGBA").getchannel("A"))
    else:
        whole = image if image.mode.lower() in {"la", "rgba"} else image.convert("RGBA")
        colours, opaque = _marked(whole, whole.getbands()[:-1]), _marked(whole.getchannel("A"))
    if opaque.all() or not opaque.any():
        return colours
    drawn = colours & opaque
    if not drawn.any() or np.array_equal(drawn, opaque):
        return opaque
    raise DataError(
        f"{path} can be read in two ways: {int(opaque.sum()):,} pixels are not transparent, "
        f"{int(drawn.sum()):,} of them are not black; save the mask without transparency, the "
        "object white on black"
    )


def _from_jpeg(values: Bytes, path: Path) -> Bool:
    between = float(((values > _DARK) & (values < _BRIGHT)).mean())
    if between > _MOST_BETWEEN:
        raise DataError(
            f"{path} is no mask that can be read: JPEG blurs it, and {between:.0%} of its pixels "
            "are neither black nor white; save it as PNG"
        )
    return np.asarray(values >= 128, np.bool_)


def _marked(values: Any, bands: Sequence[str] | None = None) -> Bool:
    """Every pixel that is not 0 in some channel of an array or an image, one channel at a time."""
    if isinstance(values, np.ndarray):
        return np.asarray(values.any(axis=2), np.bool_)
    marked = None
    # One after the other: at once they would take memory for every channel.
    for band in bands or values.getbands():
        channel = np.asarray(values if len(values.getbands()) == 1 else values.getchannel(band))
        if channel.dtype.kind == "f" and not np.isfinite(channel).all():
            raise DataError("some of its pixels are NaN or infinite; save it as PNG")
        marked = channel != 0 if marked is None else np.logical_or(marked, channel, out=marked)
    return np.asarray(marked, np.bool_)


def _is_16_bit(path: Path) -> bool:
    """Out of the PNG's head (IHDR): Pillow's mode of such a file is that of 8 bits."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[12:16] == b"IHDR" and head[24] == 16


@contextmanager
def _opened(path: Path, most_pixels: int) -> Iterator[Any]:
    """The file as a Pillow image that is not decoded yet; every fault of it as a DataError."""
    from PIL import Image

    _register_heif(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes and metadata; the size is checked here
        try:
            with Image.open(path) as image:
                _check_size(image.size, path, most_pixels)
                # A phone's MPO holds a preview beside the picture.
                pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if pages > 1:
                    raise DataError(f"{path} holds {pages} pictures; save the one that is meant")
                yield image
        except DataError as error:
            if str(path) in str(error):
                raise
            raise DataError(f"{path} is no mask that can be read: {error}") from error
        except FileNotFoundError:
            raise DataError(f"{path} is missing") from None
        except Image.DecompressionBombError:
            raise DataError(
                f"{path} says that it has more than twice the {most_pixels:,} pixels that are "
                "read; save it smaller"
            ) from None
        except Exception as error:  # a decoder's faults come as many types
            raise DataError(
                f"{path} is not a picture that can be read ({_first_line(error)}); use JPEG or PNG"
            ) from error


def _check_size(size: tuple[int, int], path: Path, most_pixels: int) -> None:
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or width * height > most_pixels:
        raise DataError(
            f"{path} says that it has {width:,}x{height:,} pixels; at most {most_pixels:,} are "
            "read, save it smaller"
        )


def _register_heif(path: Path) -> None:
    """An iPhone's HEIC is read where its reader is installed, else named with what to do."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
        if not head:
            raise DataError(f"{path} is not a picture that can be read: it is empty")
        return
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise DataError(heif_advice(path)) from None


def heif_advice(path: Path) -> str:
    """What to do about an iPhone's picture."""
    return (
        f"{path} is HEIC, the format of iPhone pictures; export it as JPEG (on the phone: "
        "Settings, Camera, Formats, Most Compatible), or `pip install pillow-heif`"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
