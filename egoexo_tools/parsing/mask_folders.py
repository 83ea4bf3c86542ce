"""O-MaMa's proposal files: `<frame>_masks.npz` (N, H, W) uint8 and `<frame>_boxes.npy` (N, 4).

The files come from other programs: sizes are checked before anything is unpacked.
"""

import copy
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from zlib_ng import zlib_ng

from egoexo_tools.aliases import Row
from egoexo_tools.arrays import Bytes, Float32
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.lenient import frame_number, list_folder

MOST_STACK_BYTES = 400_000_000
"""Limit for the masks of a frame: 300 of them at the size of a kept frame take 160 MB."""
_MOST_BOX_BYTES = 1 << 20
"""Limit for a file of boxes: 65,000 of them, a hundred times as many as a frame has."""
_MOST_HEADER_BYTES = 1 << 16
"""Limit for the header of an .npy file."""


def find_frames(folder: Path, left_out: list[Row]) -> Iterator[tuple[int, Path, Path | None]]:
    """(frame_idx, masks, boxes or None) in order of the frames.

    Other files, and a second file of one frame, are added to `left_out` (rows of exclusions).
    """
    masks: dict[int, Path] = {}
    boxes: dict[int, Path] = {}
    for path in list_folder(folder):
        stem, _, kind = path.name.rpartition("_")
        number = frame_number(stem)
        by_frame = {"masks.npz": masks, "boxes.npy": boxes}.get(kind.lower())
        if by_frame is None or number is None:
            left_out.append({"frame_idx": number, "reason": f"{path.name} is not read"})
        elif number in by_frame:
            left_out.append({"frame_idx": number, "reason": f"{path.name} is there twice"})
        else:
            by_frame[number] = path
    for number in sorted(masks):
        yield number, masks[number], boxes.get(number)
    for number in sorted(boxes.keys() - masks.keys()):
        left_out.append({"frame_idx": number, "reason": f"{boxes[number].name} has no masks"})


def read_stack(masks_path: Path, boxes_path: Path | None) -> tuple[Bytes, Float32 | None]:
    """Masks (N, H, W) and boxes (N, 4) x1, y1, w, h; DataError for damaged or too large files."""
    masks = _read_masks(masks_path)
    if boxes_path is None:
        return masks, None
    name, size = boxes_path.name, boxes_path.stat().st_size
    if size > _MOST_BOX_BYTES:
        raise DataError(f"{name} has {size:,} bytes; boxes have at most {_MOST_BOX_BYTES:,}")
    try:
        boxes = np.load(boxes_path, allow_pickle=False)
        # An empty list may have been saved with any shape.
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4) if boxes.size else np.zeros((0, 4))
    except Exception as error:  # NumPy raises many types for damaged files
        raise DataError(f"{name} cannot be read ({error})") from error
    if len(boxes) != len(masks) or not np.isfinite(boxes).all():
        raise DataError(f"{name} must hold {len(masks)} finite boxes, one for each mask")
    return masks, boxes.astype(np.float32)


def _read_masks(path: Path) -> Bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # np.savez's name for an unnamed array; other programs choose their own.
            info = archive.getinfo("arr_0.npy" if "arr_0.npy" in names else names[0])
            if info.file_size > MOST_STACK_BYTES:
                raise DataError(f"{path.name} unpacks to {info.file_size:,} bytes; not read")
            # zipfile allocates as much as the archive claims, before it reads.
            if info.compress_size > path.stat().st_size:
                raise DataError(f"{path.name} is cut off")
            data = np.frombuffer(_unpack(archive, info), np.uint8)
        header = io.BytesIO(data[:_MOST_HEADER_BYTES].tobytes())
        version = np.lib.format.read_magic(header)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
            np.lib.format.read_array_header_2_0)  # fmt: skip
        shape, is_fortran, dtype = read_header(header)
        # An empty array of any shape is a frame without proposals.
        if dtype.itemsize != 1 or dtype.hasobject or (len(shape) != 3 and np.prod(shape)):
            raise DataError(
                f"{path.name} holds {dtype} of shape {shape}, not masks (N, H, W) of uint8"
            )
        values = data[header.tell() :]
        # As Python integers: the sides in a damaged header may multiply past 64 bits.
        if len(values) != int(np.prod(shape, dtype=object)):
            raise DataError(f"{path.name} is cut off")
        if len(shape) != 3:
            return np.zeros((0, 1, 1), np.uint8)
        return values.reshape(shape, order="F" if is_fortran else "C")
    except DataError:
        raise
    except Exception as error:  # zipfile and NumPy raise many types for damaged files
        raise DataError(f"{path.name} cannot be read ({error or type(error).__name__})") from error


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes; never more than `info.file_size`, even if the data holds more."""
    if info.compress_type != zipfile.ZIP_DEFLATED:
        return archive.read(info)
    # zipfile unpacks with zlib, which takes five times as long as zlib-ng for the long runs of
    # zeros in masks. Declared as stored, the member is read as the compressed bytes that it is.
    packed_info = copy.copy(info)
    packed_info.compress_type, packed_info.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed_info.CRC  # that of the unpacked bytes, compared below
    unpacker = zlib_ng.decompressobj(wbits=-zlib_ng.MAX_WBITS)  # negative: no zlib header
    data = unpacker.decompress(archive.read(packed_info), info.file_size)
    if not unpacker.eof or len(data) != info.file_size or zlib_ng.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename} is damaged: wrong size or checksum")
    return data
