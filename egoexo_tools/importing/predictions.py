"""Predictions of other programs → a run of the root, to score, report and compare.

Reads every format of `read_predictions`, and palette PNGs of videos (see `parsing.palette`). An
unusable value leaves out its own row, which `<run>/left_out.csv` names with its reason. Object
names that an export or a disk changed are mapped back to the root's.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.evaluation.predictions import (
    Predictions,
    TakeMasks,
    confidence_from_area,
    parse_confidence,
    read_predictions,
    split_cameras,
    write_predictions,
)
from egoexo_tools.formats.sam2 import object_numbers
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import read_manifest, read_tables, write_table
from egoexo_tools.masks.columns import mask_to_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.json_text import kind_of
from egoexo_tools.parsing.lenient import frame_number, is_text, printable, unambiguous
from egoexo_tools.parsing.mask_json import read_rle
from egoexo_tools.parsing.names import match_names
from egoexo_tools.parsing.palette import PaletteVideo, find_videos, read_objects, read_video
from egoexo_tools.runs import RunFolder, join_pair_id
from egoexo_tools.vocab import Direction, view_of

LEFT_OUT = "left_out.csv"


@dataclass(frozen=True)
class ImportResult:
    """The outcome of an import."""

    predictions: int
    """Number of predictions."""
    left_out: list[str]
    """A reason for every prediction or file that was not used."""


def import_predictions(
    root: DatasetRoot, path: Path, run_name: str, *, direction: Direction | None = None
) -> ImportResult:
    """Write `<root>/runs/<run_name>/predictions.{parquet,json}` and left_out.csv.

    Raises DataError, and writes nothing, where no prediction is usable.
    """
    problems: list[str] = []
    # The format follows from the content: palettes are in folders of another pattern.
    videos = find_videos(path, problems) if path.is_dir() else []
    if videos:
        rows, file_direction = _read_videos(root, videos, direction, problems)
    else:
        rows, file_direction = _read_other_formats(root, path, direction, problems)
    by_pair = unambiguous((row["pair_id"], row) for row in rows)
    contradictions = sorted({row["pair_id"] for row in rows} - set(by_pair))
    problems += [f"{pair_id} has two different predictions" for pair_id in contradictions]
    rows = list(by_pair.values())
    if not rows:
        reasons = f" that can be used: {'; '.join(problems[:3])}" if problems else ""
        raise DataError(f"{path} holds no predictions{reasons}")
    run = RunFolder.of(root, run_name)
    write_table(run.predictions, "predictions", rows, metadata={"run": run_name})
    table = read_tables([run.predictions], "predictions")
    write_predictions(run.predictions_json, table, direction=file_direction)
    left_out = run.predictions.parent / LEFT_OUT
    if problems:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([["reason"], *([printable(problem)] for problem in problems)])
        write_atomic(left_out, text.getvalue())
    else:
        left_out.unlink(missing_ok=True)
    return ImportResult(len(rows), problems)


def read_prediction(frame: Any, entry: Any) -> tuple[int, MaskRle, float | None]:
    """One frame's entry → frame_idx, mask and confidence; DataError for an invalid one."""
    frame_idx = frame_number(frame)
    if frame_idx is None:
        raise DataError(f"{frame!r} is not a frame number")
    if not isinstance(entry, Mapping):
        raise DataError("it is not {pred_mask: {size, counts}, confidence}")
    mask = read_rle(entry.get("pred_mask"), "its mask")
    if "confidence" not in entry:
        raise DataError("it has no confidence")
    return frame_idx, mask, parse_confidence(entry["confidence"])


def _read_other_formats(
    root: DatasetRoot, path: Path, direction: Direction | None, problems: list[str]
) -> tuple[list[Row], Direction]:
    predictions = read_predictions(path, direction=direction)
    problems.extend(predictions.notes)
    columns = ["take_uid", "object_name", "camera"]
    table = read_manifest(root, "masks", columns=columns)
    objects: dict[str, dict[str, None]] = {}  # take_uid → object names; ordered, unlike a set
    cameras: dict[str, set[str]] = {}
    for row in table.group_by(columns).aggregate([]).to_pylist():
        objects.setdefault(row["take_uid"], {})[row["object_name"]] = None
        cameras.setdefault(row["take_uid"], set()).add(row["camera"])
    rows: list[Row] = []
    for take_uid in predictions.take_uids:
        try:
            masks = predictions.read_take(take_uid)
        except DataError as error:
            problems.append(f"{path}: take {take_uid} is left out ({error})")
            continue
        names = match_names(masks, list(objects.get(take_uid, ())))
        take_cameras = cameras.get(take_uid, set())
        rows.extend(_take_rows(take_uid, masks, predictions, names, take_cameras, problems))
    return rows, predictions.direction


def _take_rows(
    take_uid: str,
    masks: TakeMasks,
    predictions: Predictions,
    names: Mapping[str, str],
    cameras: set[str],
    problems: list[str],
) -> Iterator[Row]:
    """A take's rows; `names` maps object names to the root's where they differ."""
    for name, pairs in masks.items():
        object_text = f"{predictions.path}: {take_uid}, {name!r}"
        if not is_text(name):
            problems.append(f"{object_text}: its name is not valid text")
            continue
        if not isinstance(pairs, Mapping):
            problems.append(f"{object_text}: its camera pairs are {kind_of(pairs)}")
            continue
        for pair, frames in pairs.items():
            if not isinstance(frames, Mapping):
                problems.append(f"{object_text}, {pair}: its frames are {kind_of(frames)}")
                continue
            try:
                source, dest = split_cameras(pair, predictions.direction, cameras)
            except DataError as error:
                problems.append(f"{object_text}, {pair}: {error}")
                continue
            for frame, entry in frames.items():
                try:
                    frame_idx, mask, confidence = read_prediction(frame, entry)
                    object_name = names.get(name, name)
                    pair_id = join_pair_id(take_uid, source, dest, frame_idx, object_name)
                    yield _row(pair_id, mask, confidence)
                except (DataError, TypeError, ValueError) as error:
                    problems.append(f"{object_text}, {pair}, frame {frame}: {error}")


def _row(pair_id: str, mask: MaskRle, confidence: float | None) -> Row:
    # LM-EEC and SAM 2 give no confidence; the mask's area stands in, by LM-EEC's rule.
    if confidence is None:
        confidence = confidence_from_area(mask.area(), mask.height * mask.width)
    return {"pair_id": pair_id, "confidence": confidence, **mask_to_row(mask)}


def _read_videos(
    root: DatasetRoot,
    videos: Sequence[PaletteVideo],
    direction: Direction | None,
    problems: list[str],
) -> tuple[list[Row], Direction]:
    """A video shows a destination camera; the root's pairs give the source cameras."""
    views = {view_of(video.camera) for video in videos}
    if direction is None:
        if len(views) > 1:
            raise SettingsError("the videos are of both views; select one with --direction")
        direction = next(d for d in Direction if d.dest in views)
    columns = ["pair_id", "direction", "take_uid", "dest_camera", "frame_idx", "object_name"]
    pair_ids: dict[tuple[str, str, int, str], list[str]] = {}  # by video, frame and object
    for pair in read_manifest(root, "pairs", columns=columns).to_pylist():
        if pair["direction"] == direction:
            key = (pair["take_uid"], pair["dest_camera"], pair["frame_idx"], pair["object_name"])
            pair_ids.setdefault(key, []).append(pair["pair_id"])
    rows: list[Row] = []
    for video in videos:
        if view_of(video.camera) is not direction.dest:
            problems.append(
                f"{video.path} is of the {direction.source} view, but {direction} predicts in the "
                f"{direction.dest} view"
            )
            continue
        objects = read_objects(video.path.parent, video.take_uid)
        if objects is None:
            objects = object_numbers(root, video.take_uid)
        if not objects:
            problems.append(f"{video.path}: the root has no take {video.take_uid!r}")
            continue
        count_before = len(rows)
        # A video has no source camera, so its mask counts for every pair that asks for the object.
        for frame_idx, name, mask in read_video(video, objects, problems):
            for pair_id in pair_ids.get((video.take_uid, video.camera, frame_idx, name), ()):
                rows.append(_row(pair_id, mask, None))
        if len(rows) == count_before:
            problems.append(f"{video.path}: no pair of the root has its objects and frames")
    return rows, direction
