"""The pictures of a run's chosen samples: source and destination side by side, zoomed in.

The window is cut around the masks, so that small objects can be seen; a small map in a corner
shows where it lies in the frame. Pictures are JPEGs as data URIs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import pandas as pd

from egoexo_tools.arrays import Bool, Rgb
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.report.causes import CAUSES, choose
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import RunFolder
from egoexo_tools.viewing.painting import (
    PREDICTION,
    SOURCE,
    TRUTH,
    Colour,
    data_uri,
    predicted_masks,
    read_frame,
    tint,
    true_masks,
)

CARD_WIDTH, CARD_HEIGHT = 320, 240
MARGIN = 1.8
"""Side of the window over the side of the masks' common box."""
SMALLEST_WINDOW = 120
"""Of the frame's pixels, high: no zoom beyond twice the frame's sharpness."""
MAP_WIDTH = 72
OPACITY = 0.25
"""Of one mask: two may lie on each other, and the object should still be seen."""

Window: TypeAlias = tuple[int, int, int, int]
"""y, x, height, width in pixels of the frame."""
Drawing: TypeAlias = tuple[MaskRle | None, Colour, bool]
"""Mask, colour, dashed."""


@dataclass(frozen=True)
class Card:
    """One sample of the gallery."""

    direction: str
    object_name: str
    take_name: str
    take_uid: str
    scenario: str
    frame_idx: int
    source_camera: str
    dest_camera: str
    visible: bool
    iou: float | None
    oracle_iou: float | None
    chosen: bool
    """The prediction is one of the proposals, so that the best of them says something about it."""
    confidence: float | None
    cause: str
    cause_name: str
    groups: str
    """best, median, worst and causes that it was chosen for, space-separated."""
    source_picture: str | None
    """data URI; None where the frame cannot be read."""
    dest_picture: str | None


@dataclass(frozen=True)
class Masks:
    """What is drawn into the frames of some samples."""

    predicted: dict[str, MaskRle]
    """pair_id → mask"""
    true: dict[tuple[str, str, str, int], MaskRle]
    """(take_uid, object_name, camera, frame_idx) → mask, of both views."""


def make_cards(run: ScoredRun, missing: list[str]) -> list[Card]:
    """The cards of a run's chosen samples; adds to `missing` what cannot be shown."""
    if run.scores is None:
        return []
    if run.root is None:
        missing.append(f"{run.name} lies in no dataset root: no frames, so no gallery")
        return []
    chosen = choose(run.scores, chooses_proposals=run.stamp.chooses_proposals)
    masks = masks_of(run, chosen, missing)
    cards = []
    for row in chosen.to_dict("records"):
        source, dest = (
            None if picture is None else data_uri(picture)
            for picture in pictures_of(run.root, row, masks)
        )
        cards.append(_card(run, row, (source, dest)))
    unread = sum(card.source_picture is None or card.dest_picture is None for card in cards)
    if unread:
        missing.append(
            f"{run.name}: frames of {unread:,} of {len(cards):,} shown samples are not on disk; "
            "`egoexo-tools frames` writes them"
        )
    return cards


def masks_of(run: ScoredRun, rows: pd.DataFrame, missing: list[str]) -> Masks:
    """The masks of some samples of a run; adds to `missing` what there is not."""
    if run.root is None:
        return Masks({}, {})
    return Masks(_predicted(run, rows, missing), _true_masks(run.root, rows, missing))


def _predicted(run: ScoredRun, chosen: pd.DataFrame, missing: list[str]) -> dict[str, MaskRle]:
    if not RunFolder(run.folder).predictions.is_file():
        missing.append(f"{run.name} has no predictions.parquet: pictures show no predicted masks")
        return {}
    return predicted_masks(run.folder, chosen["pair_id"].tolist())


def _true_masks(
    root: DatasetRoot, chosen: pd.DataFrame, missing: list[str]
) -> dict[tuple[str, str, str, int], MaskRle]:
    """(take_uid, object_name, camera, frame_idx) → mask, of both views."""
    found: dict[tuple[str, str, str, int], MaskRle] = {}
    # A take at a time: one that is damaged costs its own masks alone.
    for take_uid, rows in chosen.groupby("take_uid"):
        keys = [
            (row["object_name"], row[camera], row["frame_idx"])
            for row in rows.to_dict("records")
            for camera in ("source_camera", "dest_camera")
        ]
        try:
            masks = true_masks(root, str(take_uid), keys)
        except DataError as error:
            missing.append(f"pictures without true masks: {error}")
            continue
        found |= {(str(take_uid), *key): mask for key, mask in masks.items()}
    return found


def pictures_of(
    root: DatasetRoot, row: dict[Any, Any], masks: Masks
) -> tuple[Rgb | None, Rgb | None]:
    """Source and destination frame of a sample with its masks; None for one that is not there."""
    take_uid, name, frame_idx = row["take_uid"], row["object_name"], row["frame_idx"]
    source, dest = (
        masks.true.get((take_uid, name, row[camera], frame_idx))
        for camera in ("source_camera", "dest_camera")
    )
    predicted = masks.predicted.get(row["pair_id"])
    return (
        _picture(root, take_uid, row["source_camera"], frame_idx, [(source, SOURCE, False)]),
        _picture(
            root,
            take_uid,
            row["dest_camera"],
            frame_idx,
            [(dest, TRUTH, False), (predicted, PREDICTION, True)],
        ),
    )


def _picture(
    root: DatasetRoot, take_uid: str, camera: str, frame_idx: int, drawings: Sequence[Drawing]
) -> Rgb | None:
    try:
        frame = read_frame(root, take_uid, camera, frame_idx)
    except DataError:
        return None
    return painted(frame, drawings)


def painted(frame: Rgb, drawings: Sequence[Drawing]) -> Rgb:
    """The part of a frame around its masks, at most CARD_WIDTH x CARD_HEIGHT, masks drawn in."""
    masks = [
        (mask.decode_at(*frame.shape[:2]), colour, dashed)
        for mask, colour, dashed in drawings
        if mask is not None
    ]
    window = window_around([inside for inside, _, _ in masks], frame.shape[:2])
    y, x, height, width = window
    scale = min(CARD_WIDTH / width, CARD_HEIGHT / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    sharp = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    part = frame[y : y + height, x : x + width]
    picture = np.asarray(cv2.resize(part, size, interpolation=sharp), np.uint8)
    covered = np.zeros(picture.shape[:2], np.bool_)
    for inside, colour, dashed in masks:
        shape = inside[y : y + height, x : x + width].astype(np.float32)
        # Interpolated and cut at one half: enlarged, a mask has curves and no stairs.
        smooth = np.asarray(cv2.resize(shape, size, interpolation=cv2.INTER_LINEAR)) >= 0.5
        picture = tint(picture, smooth, colour, dashed=dashed, opacity=OPACITY)
        covered |= smooth
    # Of half the frame or more, a map says nothing that the picture does not.
    if height * width < 0.5 * frame.shape[0] * frame.shape[1]:
        _put_map(picture, frame, window, covered)
    return picture


def window_around(masks: Sequence[Bool], frame_hw: tuple[int, ...]) -> Window:
    """A window in the cards' proportions around all masks, within the frame; else all of it."""
    height, width = frame_hw
    covered = np.zeros(frame_hw[:2], np.bool_)
    for mask in masks:
        covered |= mask
    rows, cols = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, height, width
    high, wide = ((ends[-1] - ends[0] + 1) * MARGIN for ends in (rows, cols))
    high = max(high, wide * CARD_HEIGHT / CARD_WIDTH, SMALLEST_WINDOW)
    high, wide = min(int(high), height), min(int(high * CARD_WIDTH / CARD_HEIGHT), width)
    y, x = (int(ends[-1] + ends[0]) // 2 for ends in (rows, cols))
    top = min(max(y - high // 2, 0), height - high)
    left = min(max(x - wide // 2, 0), width - wide)
    return top, left, high, wide


def _put_map(picture: Rgb, frame: Rgb, window: Window, covered: Bool) -> None:
    """Draw the whole frame, small, with the window's rectangle, into the emptiest corner."""
    share = MAP_WIDTH / max(frame.shape[:2])
    small = cv2.resize(frame, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    y, x, height, width = (round(value * share) for value in window)
    cv2.rectangle(small, (x, y), (x + width, y + height), (255, 255, 255), 1)
    small = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    rows, cols = (min(a, b) for a, b in zip(small.shape[:2], picture.shape[:2], strict=True))
    corners = [
        (slice(top, top + rows), slice(left, left + cols))
        for top in (picture.shape[0] - rows, 0)
        for left in (picture.shape[1] - cols, 0)
    ]
    corner = min(corners, key=lambda place: int(covered[place].sum()))
    picture[corner] = small[:rows, :cols]


def _card(run: ScoredRun, row: dict[Any, Any], pictures: tuple[str | None, str | None]) -> Card:
    return Card(
        direction=str(run.direction),
        object_name=row["object_name"],
        take_name=run.take_names.get(row["take_uid"], row["take_uid"]),
        take_uid=row["take_uid"],
        scenario=row["scenario"] or "unknown",
        frame_idx=row["frame_idx"],
        source_camera=row["source_camera"],
        dest_camera=row["dest_camera"],
        visible=bool(row["visible"]),
        iou=known(row["iou"]) if row["visible"] else None,
        oracle_iou=known(row["oracle_iou"]),
        chosen=run.stamp.chooses_proposals,
        confidence=known(row["confidence"]),
        cause=row["cause"],
        cause_name=CAUSES[row["cause"]],
        groups=row["groups"],
        source_picture=pictures[0],
        dest_picture=pictures[1],
    )


def known(value: float | None) -> float | None:
    """None for NaN, which is what a table has where there is no number."""
    return None if value is None or np.isnan(value) else float(value)
