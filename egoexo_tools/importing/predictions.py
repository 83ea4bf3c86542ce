"""Other people's predictions → a run of the root, to score, report and compare.

Reads every format of `read_predictions`, and palette PNGs of videos (see `outside.palette`). A
value that cannot be used costs its own row, which `<run>/left_out.csv` names with its reason.
Object names are brought back to the root's where an export or a disk had to change them.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
from egoexo_tools.parsing.lenient import frame_number, is_text, printable
from egoexo_tools.parsing.mask_json import read_rle
from egoexo_tools.parsing.names import match_names
from egoexo_tools.parsing.palette import PaletteVideo, find_videos, read_objects, read_video
from egoexo_tools.runs import RunFolder, join_pair_id
from egoexo_tools.vocab import Direction, view_of

LEFT_OUT = "left_out.csv"


@dataclass(frozen=True)
class Imported:
    """What an import came to."""

    predictions: int
    left_out: list[str] = field(default_factory=list)
    """What could not be used, and why."""


def import_predictions(
    root: DatasetRoot, path: Path, run_name: str, *, direction: Direction | None = None
) -> int:
    """Write `<root>/runs/<run_name>/predictions.{parquet,json}`; the number of predictions.

    Raises DataError where nothing of it can be used, and writes nothing then.
    """
    return import_run(root, path, run_name, direction=direction).predictions


def import_run(
    root: DatasetRoot, path: Path, run_name: str, *, direction: Direction | None = None
) -> Imported:
    """The same, with what was left out."""
    problems: list[str] = []
    videos = find_videos(path, problems) if path.is_dir() else []
    if videos:
        rows, chosen = _palette_rows(root, videos, direction, problems)
    else:
        rows, chosen = _other_rows(root, path, direction, problems)
    rows = _once(rows, problems)
    if not rows:
        reasons = "; ".join(problems[:3])
        raise DataError(f"{path} holds no predictions that can be used: {reasons}" if reasons else
                        f"{path} holds no predictions")  # fmt: skip
    run = RunFolder.of(root, run_name)
    write_table(run.predictions, "predictions", rows, metadata={"run": run_name})
    table = read_tables([run.predictions], "predictions")
    write_predictions(run.predictions_json, table, direction=chosen)
    _write_left_out(run.predictions.parent / LEFT_OUT, problems)
    return Imported(len(rows), problems)


def _once(rows: list[Row], problems: list[str]) -> list[Row]:
    """Each pair's prediction; of a pair that has two different ones, neither."""
    found: dict[str, Row] = {}
    twice: set[str] = set()
    for row in rows:
        if found.setdefault(row["pair_id"], row) != row:
            twice.add(row["pair_id"])
    problems.extend(f"{pair_id} has two different predictions" for pair_id in sorted(twice))
    return [row for pair_id, row in found.items() if pair_id not in twice]


def _other_rows(
    root: DatasetRoot, path: Path, direction: Direction | None, problems: list[str]
) -> tuple[list[Row], Direction]:
    predictions = read_predictions(path, direction=direction)
    problems.extend(predictions.notes)
    known = _objects_and_cameras(root)
    rows: list[Row] = []
    for take_uid in predictions.take_uids:
        objects, cameras = known.get(take_uid, ({}, set()))
        try:
            masks = predictions.read_take(take_uid)
        except DataError as error:
            problems.append(f"{path}: take {take_uid} is left out ({error})")
            continue
        names = match_names(masks, list(objects))
        rows.extend(_rows(take_uid, masks, predictions, names, cameras, problems))
    return rows, predictions.direction


def _objects_and_cameras(root: DatasetRoot) -> dict[str, tuple[dict[str, None], set[str]]]:
    """take_uid → its object names (in order) and cameras."""
    table = read_manifest(root, "masks", columns=["take_uid", "object_name", "camera"])
    tracks = table.group_by(["take_uid", "object_name", "camera"]).aggregate([]).to_pylist()
    found: dict[str, tuple[dict[str, None], set[str]]] = {}
    for row in tracks:
        objects, cameras = found.setdefault(row["take_uid"], ({}, set()))
        objects[row["object_name"]] = None
        cameras.add(row["camera"])
    return found


def _rows(
    take_uid: str,
    masks: TakeMasks,
    predictions: Predictions,
    names: Mapping[str, str],
    cameras: set[str],
    problems: list[str],
) -> Iterator[Row]:
    for name, pairs in masks.items():
        of_object = f"{predictions.path}: {take_uid}, {name!r}"
        if not isinstance(pairs, Mapping) or not is_text(name):
            why = f"its camera pairs are {kind_of(pairs)}" if is_text(name) else "no name"
            problems.append(f"{of_object}: {why}")
            continue
        for pair, frames in pairs.items():
            where = f"{of_object}, {pair}"
            if not isinstance(frames, Mapping):
                problems.append(f"{where}: its frames are {kind_of(frames)}")
                continue
            try:
                source, dest = split_cameras(pair, predictions.direction, cameras)
            except DataError as error:
                problems.append(f"{where}: {error}")
                continue
            for frame, entry in frames.items():
                try:
                    yield _row(join_pair_id, take_uid, source, dest, frame, names.get(name, name),
                               entry)  # fmt: skip
                except (DataError, TypeError, ValueError) as error:
                    problems.append(f"{where}, frame {frame}: {error}")


def _row(
    pair_id: Any, take_uid: str, source: str, dest: str, frame: Any, name: str, entry: Any
) -> Row:
    number = frame_number(frame)
    if number is None:
        raise DataError(f"{frame!r} is no frame number")
    if not isinstance(entry, Mapping):
        raise DataError("it is not {pred_mask: {size, counts}, confidence}")
    mask = read_rle(entry.get("pred_mask"), "its mask")
    if "confidence" not in entry:
        raise DataError("it has no confidence")
    confidence = parse_confidence(entry["confidence"])
    return _prediction(pair_id(take_uid, source, dest, number, name), mask, confidence)


def _prediction(pair_id: str, mask: MaskRle, confidence: float | None) -> Row:
    if confidence is None:
        confidence = confidence_from_area(mask.area(), mask.height * mask.width)
    return {"pair_id": pair_id, "confidence": confidence, **mask_to_row(mask)}


def _palette_rows(
    root: DatasetRoot,
    videos: Iterable[PaletteVideo],
    direction: Direction | None,
    problems: list[str],
) -> tuple[list[Row], Direction]:
    """A video is a destination camera; the pairs of the root say what was to be found in it."""
    videos = list(videos)
    views = {view_of(video.camera) for video in videos}
    if direction is None:
        if len(views) > 1:
            raise SettingsError("the videos are of both views; choose one with --direction")
        direction = next(choice for choice in Direction if choice.dest in views)
    wanted = _wanted_pairs(root, direction)
    rows: list[Row] = []
    for video in videos:
        if view_of(video.camera) is not direction.dest:
            problems.append(
                f"{video.path} is of the {direction.source} view, not where {direction} looks"
            )
            continue
        objects = read_objects(video.path.parent, video.take_uid)
        if objects is None:
            objects = object_numbers(root, video.take_uid)
        if not objects:
            problems.append(f"{video.path}: the root has no take {video.take_uid!r}")
            continue
        seen = len(rows)
        for frame_idx, name, mask in read_video(video, objects, problems):
            for pair_id in wanted.get((video.take_uid, video.camera, frame_idx, name), ()):
                rows.append(_prediction(pair_id, mask, None))
        if len(rows) == seen:
            problems.append(f"{video.path}: no pair of the root looks for its objects there")
    return rows, direction


def _wanted_pairs(
    root: DatasetRoot, direction: Direction
) -> dict[tuple[str, str, int, str], list[str]]:
    """(take_uid, dest_camera, frame_idx, object_name) → pair_ids."""
    columns = ["pair_id", "direction", "take_uid", "dest_camera", "frame_idx", "object_name"]
    found: dict[tuple[str, str, int, str], list[str]] = {}
    for row in read_manifest(root, "pairs", columns=columns).to_pylist():
        if row["direction"] == direction:
            key = (row["take_uid"], row["dest_camera"], row["frame_idx"], row["object_name"])
            found.setdefault(key, []).append(row["pair_id"])
    return found


def _write_left_out(path: Path, problems: list[str]) -> None:
    if not problems:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["reason"], *([printable(problem)] for problem in problems)])
    write_atomic(path, text.getvalue())
