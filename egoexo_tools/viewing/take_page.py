"""One self-contained HTML page of a take: its cameras at the same instants, with predictions.

Reads a `TakeView` and the predictions of runs; the page needs no network and no other file. Masks,
proposals and predictions are outlines over the pictures, so that each can be switched on and off.
`page.html#frame=60&object=cup` opens at an instant and shows one object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import pyarrow.compute as pc

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.layout import write_atomic
from egoexo_tools.manifests import read_tables
from egoexo_tools.masks.columns import RLE_COLUMNS, mask_from_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import RunFolder, pair_id_prefix, read_stamp, split_pair_id
from egoexo_tools.video.pictures import read_image
from egoexo_tools.viewing.pages import render_page, require_jinja
from egoexo_tools.viewing.painting import data_uri
from egoexo_tools.viewing.view import TakeView
from egoexo_tools.vocab import FPS

# Outlines are vectors, so they stay sharp when the page enlarges a picture.
PICTURE_HEIGHT = 400
"""Greatest height of a picture, in pixels."""
THUMBNAIL_HEIGHT = 64
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class RunPrediction:
    """The prediction of one run for one object at one instant."""

    run: str
    """Name of the run's folder."""
    object_name: str
    source_camera: str
    confidence: float
    mask: MaskRle | None
    """None for an empty mask."""


PredictionsByMoment: TypeAlias = dict[tuple[str, int], list[RunPrediction]]
"""(destination camera, frame_idx) → predictions."""


def read_take_predictions(runs: Sequence[Path], take_uid: str) -> PredictionsByMoment:
    """The predictions of runs for a take; DataError for a folder without predictions.parquet."""
    predictions: PredictionsByMoment = {}
    for run in runs:
        path = RunFolder(run).predictions
        if not path.is_file():
            raise DataError(f"{run} has no {path.name}; give a run's folder, <root>/runs/<run>")
        columns = ["pair_id", "confidence", *RLE_COLUMNS]
        # Filtered by Parquet, so that other takes are not read into memory.
        in_take = pc.starts_with(pc.field("pair_id"), pair_id_prefix(take_uid))
        rows = read_tables([path], "predictions", columns=columns, filters=in_take).to_pylist()
        for row in rows:
            _, source, dest, frame_idx, object_name = split_pair_id(row["pair_id"])
            predictions.setdefault((dest, frame_idx), []).append(
                RunPrediction(
                    run=run.name,
                    object_name=object_name,
                    source_camera=source,
                    confidence=row["confidence"],
                    mask=mask_from_row(row) if row["rle_counts"] else None,
                )
            )
    return predictions


def write_take_page(view: TakeView, path: Path, runs: Sequence[Path] = ()) -> None:
    """Write the page; DataError if a picture is missing or jinja2 is not installed."""
    require_jinja("the page")
    predictions = read_take_predictions(runs, view.take_uid)
    stamps = {run: read_stamp(RunFolder(run)) for run in runs}
    content = {
        "view": view,
        "instants": [
            {
                "frame_idx": frame_idx,
                "seconds": frame_idx / FPS,
                "panels": [
                    _panel(view, camera, frame_idx, predictions.get((camera, frame_idx), []))
                    for camera in view.cameras
                ],
            }
            for frame_idx in view.frame_idxs
        ],
        "colours": {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in view.colours.items()},
        "runs": [
            {"name": run.name, "title": f"{run.name}: {stamp.title}" if stamp.title else run.name}
            for run, stamp in stamps.items()
        ],
    }
    write_atomic(path, render_page(TEMPLATES, "take", content))


def _panel(
    view: TakeView, camera: str, frame_idx: int, predictions: Sequence[RunPrediction]
) -> Json:
    """The template's values for one camera at one instant; only the name without a picture."""
    moment = view.moments.get((camera, frame_idx))
    if moment is None:
        return {"camera": camera, "picture": None}
    picture = read_image(moment.picture)
    height, width = picture.shape[:2]
    return {
        "camera": camera,
        "width": width,
        "height": height,
        "picture": data_uri(picture, most_height=PICTURE_HEIGHT),
        "thumbnail": data_uri(picture, most_height=THUMBNAIL_HEIGHT),
        "proposals": [_outline(rle, (height, width)) for rle in moment.proposals],
        "masks": [
            {"object": name, "outline": _outline(rle, (height, width))}
            for name, rle in moment.masks
        ],
        "predictions": [
            {
                "object": prediction.object_name,
                "run": prediction.run,
                "title": f"{prediction.object_name}, {prediction.run} from "
                f"{prediction.source_camera}, confidence {prediction.confidence:.2f}",
                "outline": _outline(prediction.mask, (height, width)),
            }
            for prediction in predictions
            if prediction.mask is not None
        ],
    }


def _outline(rle: MaskRle, hw: tuple[int, int]) -> str:
    """A mask's outlines and holes as an SVG path, in pixels of the picture."""
    mask = rle.decode_at(*hw).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # Less than a pixel off: a straight edge becomes two points instead of one per pixel.
    parts = [cv2.approxPolyDP(contour, 0.7, True)[:, 0] for contour in contours]
    return "".join(
        "M" + "L".join(f"{x} {y}" for x, y in part.tolist()) + "Z" for part in parts if len(part)
    )
