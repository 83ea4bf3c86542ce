"""Draws masks over frames, and joins pictures side by side.

Pictures are (H, W, 3) uint8, RGB. Masks of any size are drawn at the size of the picture.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import pyarrow.compute as pc

from egoexo_tools.arrays import Bool, Int32, Rgb
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path
from egoexo_tools.manifests import read_manifest, read_tables
from egoexo_tools.masks.columns import RLE_COLUMNS, mask_from_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import RunFolder
from egoexo_tools.video.pictures import read_image

Colour: TypeAlias = tuple[int, int, int]

# Colour-blind readers can distinguish blue and orange.
SOURCE: Colour = (40, 120, 255)
TRUTH: Colour = SOURCE
PREDICTION: Colour = (255, 140, 0)
OPACITY = 0.45
DASH = 7
"""Length of the strokes of a dashed outline, in pixels."""
PANEL_HEIGHT = 360
PAGE_QUALITY = 80
"""JPEG quality of a page's pictures; its HTML contains up to a hundred of them."""
CAPTION_HEIGHT = 22


def read_frame(root: DatasetRoot, take_uid: str, camera: str, frame_idx: int) -> Rgb:
    """A frame on disk; DataError if it is missing or damaged."""
    return read_image(root.frame(take_uid, camera, frame_idx))


def true_mask(
    root: DatasetRoot, take_uid: str, object_name: str, camera: str, frame_idx: int
) -> MaskRle | None:
    """The annotated mask; None if the object is absent or not annotated."""
    key = (object_name, camera, frame_idx)
    return true_masks(root, take_uid, [key]).get(key)


def true_masks(
    root: DatasetRoot, take_uid: str, keys: Iterable[tuple[str, str, int]]
) -> dict[tuple[str, str, int], MaskRle]:
    """(object_name, camera, frame_idx) → annotated mask in one take, for the keys with a mask."""
    names, cameras, frame_idxs = (list(set(column)) for column in zip(*keys, strict=True))
    condition = (
        pc.field("object_name").isin(names)
        & pc.field("camera").isin(cameras)
        & pc.field("frame_idx").isin(frame_idxs)
        & pc.field("visible")
    )
    # The filter passes other combinations of these values too; callers look keys up.
    rows = read_manifest(root, "masks", units=[take_uid], filters=condition).to_pylist()
    return {
        (row["object_name"], row["camera"], row["frame_idx"]): mask_from_row(row) for row in rows
    }


def predicted_masks(run: Path, pair_ids: Sequence[str]) -> dict[str, MaskRle]:
    """pair_id → mask in a run's predictions.parquet, for these pairs."""
    columns = ("pair_id", *RLE_COLUMNS)
    table = read_tables(
        [RunFolder(run).predictions],
        "predictions",
        columns=columns,
        filters=pc.field("pair_id").isin(list(pair_ids)),
    )
    return {
        row["pair_id"]: mask_from_row(row)
        for row in table.to_pylist()
        if row["rle_counts"] is not None
    }


def overlay(picture: Rgb, mask: MaskRle | None, colour: Colour) -> Rgb:
    """`picture` with the mask tinted and outlined; unchanged for None."""
    return picture if mask is None else tint(picture, mask.decode_at(*picture.shape[:2]), colour)


def tint(
    picture: Rgb, inside: Bool, colour: Colour, *, dashed: bool = False, opacity: float = OPACITY
) -> Rgb:
    """A copy of `picture` (H, W, 3) with the pixels `inside` (H, W) tinted and outlined."""
    tinted = picture.copy()
    pixels = (1 - opacity) * picture[inside] + opacity * np.array(colour)
    tinted[inside] = pixels.astype(np.uint8)
    outer = outlines(inside)
    # OpenCV has no dashed lines: every other piece of the outline is drawn.
    if dashed:
        strokes = [o[i : i + DASH] for o in outer for i in range(0, len(o), 2 * DASH)]
        cv2.polylines(tinted, strokes, False, colour, thickness=2)
    else:
        cv2.drawContours(tinted, outer, -1, colour, thickness=2)
    return tinted


def outlines(inside: Bool) -> list[Int32]:
    """The outer outlines of a mask (H, W), each (n, 1, 2): x, y of every pixel on it."""
    mask = inside.view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(contour, np.int32) for contour in contours]


def join_panels(panels: Sequence[tuple[str, Rgb]]) -> Rgb:
    """Captioned pictures side by side, all PANEL_HEIGHT high."""
    columns = []
    for caption, picture in panels:
        width = round(picture.shape[1] * PANEL_HEIGHT / picture.shape[0])
        panel = cv2.resize(picture, (width, PANEL_HEIGHT), interpolation=cv2.INTER_AREA)
        bar = np.zeros((CAPTION_HEIGHT, width, 3), np.uint8)
        font, white = cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
        cv2.putText(bar, caption, (4, 16), font, 0.45, white, 1, cv2.LINE_AA)
        columns.append(np.vstack([bar, panel]))
    return np.hstack(columns)


def data_uri(picture: Rgb, *, most_height: int | None = None) -> str:
    """`data:image/jpeg;base64,...`, reduced to `most_height` pixels if it is higher."""
    share = min((most_height or picture.shape[0]) / picture.shape[0], 1.0)
    small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, PAGE_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def write_picture(path: Path, picture: Rgb) -> None:
    """Write as PNG or JPEG, depending on the suffix."""
    is_encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not is_encoded:
        raise DataError(f"cannot write {path} as a picture")
    with atomic_path(path) as partial:
        partial.write_bytes(data.tobytes())
