"""O-MaMa's mask archives: every compression is read, and damaged entries are refused."""

import io
import struct
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from changed_files import FEW_EXAMPLES
from hypothesis import given
from hypothesis import strategies as st

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.mask_folders import read_stack

MASKS = (np.random.default_rng(0).random((3, 48, 64)) < 0.3).astype(np.uint8)
COMPRESSED_SIZE, SIZE, CHECKSUM, METHOD = 20, 24, 16, 10
"""Offsets in an entry of the archive's directory."""


def archive(method: int, content: np.ndarray = MASKS) -> bytes:
    file, array = io.BytesIO(), io.BytesIO()
    np.save(array, content)
    with zipfile.ZipFile(file, "w", method) as members:
        members.writestr("arr_0.npy", array.getvalue())
    return file.getvalue()


def with_entry(data: bytes, offset: int, value: int) -> bytes:
    """The archive with another number in its directory."""
    changed = bytearray(data)
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<H" if offset == METHOD else "<I", changed, entry + offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_masks_are_read_whatever_compressed_them(method: int, tmp_path: Path) -> None:
    path = tmp_path / "0_masks.npz"
    path.write_bytes(archive(method))
    masks, boxes = read_stack(path, None)
    assert boxes is None and np.array_equal(masks, MASKS)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("strategy", [0, 2, 3, 4])  # default, Huffman only, runs, fixed codes
def test_every_deflate_encoding_is_read(level: int, strategy: int, tmp_path: Path) -> None:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    array = io.BytesIO()
    np.save(array, MASKS)
    packed = packer.compress(array.getvalue()) + packer.flush()
    path = tmp_path / "0_masks.npz"
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("arr_0.npy", packed)
    data = path.read_bytes()
    for offset, value in (
        (METHOD, zipfile.ZIP_DEFLATED),
        (SIZE, len(array.getvalue())),
        (CHECKSUM, zlib.crc32(array.getvalue())),
    ):
        data = with_entry(data, offset, value)
    path.write_bytes(data)
    assert np.array_equal(read_stack(path, None)[0], MASKS)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (COMPRESSED_SIZE, 4_000_000_000, "is cut off"),
        (COMPRESSED_SIZE, 5, "wrong size or checksum"),
        (SIZE, 100, "wrong size or checksum"),
        (SIZE, 10_000, "wrong size or checksum"),
        (SIZE, 2**32 - 2, r"unpacks to 4,294,967,294 bytes"),
        (CHECKSUM, 1, "wrong size or checksum"),
        (METHOD, 99, "cannot be read"),
    ],
)
def test_an_entry_that_does_not_match_its_data_is_refused(
    offset: int, value: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "0_masks.npz"
    path.write_bytes(with_entry(archive(zipfile.ZIP_DEFLATED), offset, value))
    with pytest.raises(DataError, match=f"0_masks.npz.*{message}"):
        read_stack(path, None)


def test_no_more_is_unpacked_than_the_archive_claims(tmp_path: Path) -> None:
    """Twenty megabytes behind an entry that claims a thousand bytes."""
    path = tmp_path / "0_masks.npz"
    big = archive(zipfile.ZIP_DEFLATED, np.zeros((20, 1000, 1000), np.uint8))
    path.write_bytes(with_entry(big, SIZE, 1000))
    tracemalloc.start()
    with pytest.raises(DataError, match="wrong size or checksum"):
        read_stack(path, None)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@FEW_EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4), st.integers())
def test_a_damaged_archive_is_read_whole_or_refused_by_name(
    changes: list[tuple[int, int]], cut: int
) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, MASKS)
    data = bytearray(file.getvalue())
    for position, value in changes:
        data[position % len(data)] = value
    data = data[: len(data) - cut % 50] if changes else data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0_masks.npz"
        path.write_bytes(bytes(data))
        try:
            masks, _ = read_stack(path, None)
        except DataError as error:
            assert "0_masks.npz" in str(error)
            return
        assert np.array_equal(masks, MASKS) or changes
