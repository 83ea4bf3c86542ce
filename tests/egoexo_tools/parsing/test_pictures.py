"""Pictures and mask pictures of other programs."""

import io
import tempfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from changed_files import MASK
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.pictures import read_mask, read_picture
from omama.matching.predict_pair import read_mask as read_mask_for_prediction

SQUARE = np.pad(np.ones((10, 10), np.uint8), ((5, 33), (5, 49)))
WHITE = SQUARE * 255


def png(mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(MASK.decode().astype(np.uint8) * 255).convert(mode).save(file, "PNG")
    return file.getvalue()


def bgra(alpha: Any, colour: Any) -> np.ndarray:
    image = np.zeros((48, 64, 4), np.uint8)
    image[..., :3] = np.asarray(colour)[..., None]
    image[..., 3] = alpha
    return image


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    st.integers(0, 400) | st.none(),
)
def test_a_damaged_picture_is_read_or_refused_by_name(
    mode: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(png(mode))
    for position, value in changes:
        data[position % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cup.png"
        path.write_bytes(bytes(data[:cut]))
        for read in (read_mask, read_picture):
            try:
                content = read(path)
            except DataError as error:
                assert "cup.png" in str(error)
                continue
            if bytes(data[:cut]) == png(mode) and isinstance(content, MaskRle):
                assert content == MASK


def test_sizes_are_checked_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4) + (30_000).to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    path.write_bytes(data)
    for read in (read_mask, read_picture):
        with pytest.raises(DataError, match=r"bomb.png .*pixels"):
            read(path)


@pytest.mark.parametrize(
    ("image", "area"),
    [
        (bgra(255, WHITE), 100),  # white on black, opaque: as GIMP and Preview save it
        (bgra(0, WHITE), 100),  # a constant alpha is ignored
        (bgra(128, WHITE), 100),
        (bgra(254 + SQUARE, WHITE), 100),  # no pixel is fully transparent
        (bgra(WHITE, 0), 100),  # black on a transparent ground
        (bgra(WHITE, WHITE), 100),
        (bgra(WHITE, 255), 100),  # white everywhere, most of it transparent
        (SQUARE, 100),
        (SQUARE.astype(np.uint16), 100),
        (np.dstack([SQUARE.astype(np.uint16)] * 3), 100),
        (np.dstack([SQUARE, 0 * SQUARE, 0 * SQUARE]), 100),
        (np.zeros((48, 64), np.uint8), 0),
    ],
)
def test_a_mask_picture_means_the_same_in_every_command(
    tmp_path: Path, image: np.ndarray, area: int
) -> None:
    path = tmp_path / "cup.png"
    cv2.imwrite(str(path), image)
    assert read_mask(path).area() == area
    assert read_mask_for_prediction(path) == read_mask(path)


def test_an_ambiguous_mask_picture_is_refused_with_both_readings(tmp_path: Path) -> None:
    large = np.pad(np.full((30, 30), 255, np.uint8), ((0, 18), (0, 34)))
    cv2.imwrite(str(tmp_path / "cup.png"), bgra(large, WHITE))
    with pytest.raises(DataError, match="900 pixels are not transparent, 100 of them"):
        read_mask(tmp_path / "cup.png")


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_palette_is_read_by_its_numbers_not_its_colours(
    tmp_path: Path, transparency: int | None
) -> None:
    image = Image.frombytes("P", (64, 48), SQUARE.tobytes())
    image.putpalette([255, 255, 255, 0, 0, 0])
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "cup.png", **options)
    assert read_mask(tmp_path / "cup.png").area() == 100


def test_jpeg_masks_must_be_black_and_white(tmp_path: Path) -> None:
    large = np.pad(np.ones((200, 200), np.uint8), ((100, 180), (100, 340)))
    cv2.imwrite(str(tmp_path / "cup.jpg"), large * 255)
    assert abs(read_mask(tmp_path / "cup.jpg").area() - 40_000) < 100
    cv2.imwrite(str(tmp_path / "grey.jpg"), large * 90)
    with pytest.raises(DataError, match=r"grey.jpg is not a readable mask.* save it as PNG"):
        read_mask(tmp_path / "grey.jpg")
