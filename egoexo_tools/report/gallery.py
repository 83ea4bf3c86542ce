"""The pictures of a run's example samples: source and destination side by side, zoomed in.

The window is cropped around the masks, so that small objects are visible; a small map in a corner
shows its position in the frame. Pictures are JPEGs as data URIs.
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
from egoexo_tools.report.causes import CAUSES, select_examples
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import RunFolder
from egoexo_tools.viewing import painting

CARD_WIDTH, CARD_HEIGHT = 320, 240
MARGIN = 1.8
"""Side of the window divided by the side of the masks' common box."""
# Enlarging more than twice shows no more detail.
SMALLEST_WINDOW = 120
"""Least height of the window, in pixels of the frame."""
MAP_WIDTH = 72
# Low, so that the object stays visible under two overlapping masks.
OPACITY = 0.25

Window: TypeAlias = tuple[int, int, int, int]
"""y, x, height, width in pixels of the frame."""
Drawing: TypeAlias = tuple[MaskRle | None, painting.Colour, bool]
"""Mask, colour, and whether its outline is dashed."""


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
    chooses_proposals: bool
    """The prediction is one of the proposals, so that the oracle IoU is its upper bound."""
    confidence: float | None
    cause: str
    cause_name: str
    groups: str
    """The selections that it belongs to (best, median, worst, causes), space-separated."""
    source_picture: str | None
    """data URI; None if the frame cannot be read."""
    dest_picture: str | None


@dataclass(frozen=True)
class SampleMasks:
    """The masks that are drawn into the frames of some samples."""

    predicted: dict[str, MaskRle]
    """pair_id → mask"""
    true: dict[tuple[str, str, str, int], MaskRle]
    """(take_uid, object_name, camera, frame_idx) → mask, for both views."""


def make_cards(run: ScoredRun, missing: list[str]) -> list[Card]:
    """The cards of a run's example samples; adds to `missing` what cannot be shown."""
    if run.scores is None:
        return []
    if run.root is None:
        missing.append(f"{run.name} is not in a dataset root: no frames, so no pictures")
        return []
    samples = select_examples(run.scores, chooses_proposals=run.stamp.chooses_proposals)
    masks = load_masks(run, samples, missing)
    cards = []
    for row in samples.to_dict("records"):
        source, dest = (
            None if picture is None else painting.data_uri(picture)
            for picture in draw_sample(run.root, row, masks)
        )
        cards.append(
            Card(
                direction=str(run.direction),
                object_name=row["object_name"],
                take_name=run.take_names.get(row["take_uid"], row["take_uid"]),
                take_uid=row["take_uid"],
                scenario=row["scenario"] or "unknown",
                frame_idx=row["frame_idx"],
                source_camera=row["source_camera"],
                dest_camera=row["dest_camera"],
                visible=bool(row["visible"]),
                iou=none_if_nan(row["iou"]) if row["visible"] else None,
                oracle_iou=none_if_nan(row["oracle_iou"]),
                chooses_proposals=run.stamp.chooses_proposals,
                confidence=none_if_nan(row["confidence"]),
                cause=row["cause"],
                cause_name=CAUSES[row["cause"]],
                groups=row["groups"],
                source_picture=source,
                dest_picture=dest,
            )
        )
    unread = sum(card.source_picture is None or card.dest_picture is None for card in cards)
    if unread:
        missing.append(
            f"{run.name}: frames of {unread:,} of {len(cards):,} samples shown are not on disk; "
            "write them with `egoexo-tools frames`"
        )
    return cards


def load_masks(run: ScoredRun, samples: pd.DataFrame, missing: list[str]) -> SampleMasks:
    """The masks of some samples of a run; adds to `missing` what cannot be read."""
    masks = SampleMasks({}, {})
    if run.root is None:
        return masks
    if RunFolder(run.folder).predictions.is_file():
        masks.predicted.update(painting.predicted_masks(run.folder, samples["pair_id"].tolist()))
    else:
        missing.append(f"{run.name} has no predictions.parquet: pictures show no predicted masks")
    # Take by take, so that a damaged take only loses its own masks.
    for take_uid, rows in samples.groupby("take_uid"):
        keys = [
            (row["object_name"], row[camera], row["frame_idx"])
            for row in rows.to_dict("records")
            for camera in ("source_camera", "dest_camera")
        ]
        try:
            true = painting.true_masks(run.root, str(take_uid), keys)
        except DataError as error:
            missing.append(f"pictures without true masks: {error}")
            continue
        masks.true.update({(str(take_uid), *key): mask for key, mask in true.items()})
    return masks


def draw_sample(
    root: DatasetRoot, row: dict[Any, Any], masks: SampleMasks
) -> tuple[Rgb | None, Rgb | None]:
    """Source and destination frame of a sample with its masks; None if a frame cannot be read."""
    take_uid, frame_idx = row["take_uid"], row["frame_idx"]
    cameras = source, dest = row["source_camera"], row["dest_camera"]
    source_mask, truth = (
        masks.true.get((take_uid, row["object_name"], camera, frame_idx)) for camera in cameras
    )
    predicted = masks.predicted.get(row["pair_id"])
    dest_drawings: list[Drawing] = [
        (truth, painting.TRUTH, False),
        (predicted, painting.PREDICTION, True),
    ]
    return (
        _draw_frame(root, take_uid, source, frame_idx, [(source_mask, painting.SOURCE, False)]),
        _draw_frame(root, take_uid, dest, frame_idx, dest_drawings),
    )


def _draw_frame(
    root: DatasetRoot, take_uid: str, camera: str, frame_idx: int, drawings: Sequence[Drawing]
) -> Rgb | None:
    try:
        return draw_masks(painting.read_frame(root, take_uid, camera, frame_idx), drawings)
    except DataError:
        return None


def draw_masks(frame: Rgb, drawings: Sequence[Drawing]) -> Rgb:
    """The part of a frame around its masks, at most CARD_WIDTH x CARD_HEIGHT, with the masks."""
    masks = [
        (mask.decode_at(*frame.shape[:2]), colour, dashed)
        for mask, colour, dashed in drawings
        if mask is not None
    ]
    # Around the prediction too, so that a wrong mask is in the picture.
    window = window_around([inside for inside, _, _ in masks], frame.shape[:2])
    y, x, height, width = window
    scale = min(CARD_WIDTH / width, CARD_HEIGHT / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    part = frame[y : y + height, x : x + width]
    picture = np.asarray(cv2.resize(part, size, interpolation=interpolation), np.uint8)
    covered = np.zeros(picture.shape[:2], np.bool_)
    for inside, colour, dashed in masks:
        shape = inside[y : y + height, x : x + width].astype(np.float32)
        # Interpolated and cut at one half, so that an enlarged mask has smooth edges.
        smooth = np.asarray(cv2.resize(shape, size, interpolation=cv2.INTER_LINEAR)) >= 0.5
        picture = painting.tint(picture, smooth, colour, dashed=dashed, opacity=OPACITY)
        covered |= smooth
    # A map of half the frame or more shows nothing that the picture does not show.
    if height * width < 0.5 * frame.shape[0] * frame.shape[1]:
        _draw_map(picture, frame, window, covered)
    return picture


def window_around(masks: Sequence[Bool], frame_hw: tuple[int, ...]) -> Window:
    """A window in the cards' proportions around all masks; the whole frame without masks."""
    height, width = frame_hw
    covered = np.zeros(frame_hw[:2], np.bool_)
    for mask in masks:
        covered |= mask
    rows, cols = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, height, width
    # high and wide start as the size of the common box, including the margin.
    high, wide = ((ends[-1] - ends[0] + 1) * MARGIN for ends in (rows, cols))
    high = max(high, wide * CARD_HEIGHT / CARD_WIDTH, SMALLEST_WINDOW)
    high, wide = min(int(high), height), min(int(high * CARD_WIDTH / CARD_HEIGHT), width)
    y, x = (int(ends[-1] + ends[0]) // 2 for ends in (rows, cols))
    top = min(max(y - high // 2, 0), height - high)
    left = min(max(x - wide // 2, 0), width - wide)
    return top, left, high, wide


def _draw_map(picture: Rgb, frame: Rgb, window: Window, covered: Bool) -> None:
    """Draw a small copy of the frame, with the window's rectangle, into the emptiest corner."""
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
    # The map must not cover the masks.
    corner = min(corners, key=lambda place: int(covered[place].sum()))
    picture[corner] = small[:rows, :cols]


def none_if_nan(value: float | None) -> float | None:
    """A table stores a missing number as NaN."""
    return None if value is None or np.isnan(value) else float(value)
