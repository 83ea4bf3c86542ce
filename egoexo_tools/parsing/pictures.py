"""Reads pictures and object masks that other programs wrote, the same for every command.

A mask picture marks one object:

- one channel, or colours: every pixel that is not 0 (a palette's numbers, not its colours);
- with transparency: a constant alpha channel is ignored. Otherwise the opaque pixels are the
  object, if either all of them are black or none is; a mask with both is ambiguous and refused;
- JPEG, which blurs values: accepted where nearly every pixel is nearly black or nearly white.

Sizes are checked before a pixel is decoded, so that no file takes more memory than a large
photograph. Files are decoded to their last byte: a truncated picture is refused.
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
_MOST_MASK_PIXELS, _MOST_16_BIT_PIXELS = 1 << 26, 1 << 24
"""Masks: colours with transparency take four bytes per pixel, those of 16 bits eight more, and a
decoder may hold a second copy."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"avif")
_DARK, _BRIGHT, _MOST_BETWEEN = 64, 192, 0.02
"""A JPEG mask's values must be below the first or above the second; the third is the share that may
be between them, as edges are."""


def read_picture(path: Path) -> Bytes:
    """A picture as viewers show it (with a phone's rotation), (H, W, 3) uint8 BGR."""
    import cv2

    with _open_picture(path, MOST_PIXELS) as image:
        image.load()  # Pillow raises for a truncated file; OpenCV would fill in grey
        # Only some builds of OpenCV read these formats.
        if image.format in {"HEIF", "AVIF"}:
            from PIL import ImageOps

            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
            return np.ascontiguousarray(rgb[..., ::-1])
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"{path} is not a picture that can be read; use JPEG or PNG")
    return np.asarray(picture, np.uint8)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as stored, read from its header."""
    with _open_picture(path, MOST_PIXELS) as image:
        width, height = image.size
    return height, width


def read_mask(path: Path) -> MaskRle:
    """The mask of one object in a picture file; DataError for an unreadable or ambiguous one."""
    with _open_picture(path, _MOST_MASK_PIXELS) as image:
        if image.format in {"JPEG", "MPO"}:
            values = np.asarray(image.convert("L"))
            share = float(((values > _DARK) & (values < _BRIGHT)).mean())
            if share > _MOST_BETWEEN:
                raise DataError(
                    f"{path} is not a readable mask: JPEG blurs it, and {share:.0%} of its pixels "
                    "are neither black nor white; save it as PNG"
                )
            mask = np.asarray(values >= 128, np.bool_)
        elif "transparency" in image.info or image.mode in {"LA", "PA", "RGBA", "La", "RGBa"}:
            mask = _mask_with_alpha(image, path)
        else:
            mask = _nonzero(_read_16_bit(image, path) if _is_16_bit(image, path) else image)
    return MaskRle.encode(mask)


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """A palette or grey picture's numbers, (H, W) of 8 or 16 bits; DataError for colours."""
    with _open_picture(path, _MOST_MASK_PIXELS) as image:
        if image.mode not in {"P", "L", "1", "I;16", "I;16B", "I"}:
            raise DataError(
                f"{path} holds colours ({image.mode}), not numbers; save it as a palette PNG"
            )
        labels = np.asarray(image)
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def heif_advice(path: Path) -> str:
    """What to do about an iPhone's picture."""
    return (
        f"{path} is HEIC, the format of iPhone pictures; export it as JPEG (on the phone: "
        "Settings, Camera, Formats, Most Compatible), or `pip install pillow-heif`"
    )


def _is_16_bit(image: Any, path: Path) -> bool:
    """Whether the file is a PNG of 16-bit colours, of which Pillow would drop the lower byte."""
    if image.format != "PNG" or len(image.getbands()) == 1:
        return False
    with path.open("rb") as file:
        header = file.read(26)
    return header[12:16] == b"IHDR" and header[24] == 16


def _read_16_bit(image: Any, path: Path) -> NDArray[Any]:
    """The picture's (H, W, C) numbers, colours first and transparency last."""
    import cv2

    _check_size(image.size, path, _MOST_16_BIT_PIXELS)
    values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3:
        raise DataError(f"{path} has colours of 16 bits that cannot be read; save it with 8 bits")
    return np.asarray(values)


def _mask_with_alpha(image: Any, path: Path) -> Bool:
    if image.mode in {"LA", "RGBA"} and _is_16_bit(image, path):
        values = _read_16_bit(image, path)
        values = values if values.shape[2] == 4 else values[..., :1]  # OpenCV makes colours of grey
        coloured, opaque = _nonzero(values[..., :3]), _nonzero(values[..., 3:])
    # The palette's numbers mark the object, not its colours; only the alpha needs the colours.
    elif image.mode == "P":
        coloured, opaque = _nonzero(image), _nonzero(image.convert("RGBA").getchannel("A"))
    else:
        whole = image if image.mode.lower() in {"la", "rgba"} else image.convert("RGBA")
        coloured, opaque = _nonzero(whole, whole.getbands()[:-1]), _nonzero(whole.getchannel("A"))
    if opaque.all() or not opaque.any():
        return coloured
    overlap = coloured & opaque
    if not overlap.any() or np.array_equal(overlap, opaque):
        return opaque
    raise DataError(
        f"{path} can be read in two ways: {int(opaque.sum()):,} pixels are not transparent, "
        f"{int(overlap.sum()):,} of them are not black; save the mask without transparency, the "
        "object white on black"
    )


def _nonzero(values: Any, bands: Sequence[str] | None = None) -> Bool:
    """The pixels of an array or an image that are not 0 in one of the channels."""
    if isinstance(values, np.ndarray):
        return np.asarray(values.any(axis=2), np.bool_)
    mask = None
    # One channel at a time, since all together would take their memory together.
    for band in bands or values.getbands():
        channel = np.asarray(values if len(values.getbands()) == 1 else values.getchannel(band))
        if channel.dtype.kind == "f" and not np.isfinite(channel).all():
            raise DataError("some of its pixels are NaN or infinite; save it as PNG")
        mask = channel != 0 if mask is None else np.logical_or(mask, channel, out=mask)
    return np.asarray(mask, np.bool_)


@contextmanager
def _open_picture(path: Path, most_pixels: int) -> Iterator[Any]:
    """The file as a Pillow image, not decoded yet; every fault in it becomes a DataError."""
    from PIL import Image

    _check_header(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes and metadata; sizes are checked here
        try:
            with Image.open(path) as image:
                _check_size(image.size, path, most_pixels)
                # A phone's MPO holds a preview beside the picture.
                pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if pages > 1:
                    raise DataError(f"{path} holds {pages} pictures; save the one to be used")
                yield image
        except DataError as error:
            if str(path) in str(error):
                raise
            raise DataError(f"{path} is not a readable mask: {error}") from error
        except FileNotFoundError:
            raise DataError(f"{path} is missing") from None
        except Image.DecompressionBombError:
            raise DataError(
                f"{path} claims more than twice the {most_pixels:,} pixels that are read; save it "
                "smaller"
            ) from None
        except Exception as error:  # decoders raise many types
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"{path} is not a picture that can be read ({first_line}); use JPEG or PNG"
            ) from error


def _check_size(size: tuple[int, int], path: Path, most_pixels: int) -> None:
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or width * height > most_pixels:
        raise DataError(
            f"{path} claims {width:,}x{height:,} pixels; at most {most_pixels:,} are read; save it "
            "smaller"
        )


def _check_header(path: Path) -> None:
    """Raises DataError for an empty or unreadable file, and for HEIC without its reader."""
    try:
        with path.open("rb") as file:
            header = file.read(12)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if not header:
        raise DataError(f"{path} is not a picture that can be read: it is empty")
    # By content, because people rename iPhone pictures to .jpg.
    if header[4:8] == b"ftyp" and header[8:12] in _HEIF_BRANDS:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise DataError(heif_advice(path)) from None
