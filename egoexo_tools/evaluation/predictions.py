"""Predictions in several formats, read take by take into one structure, and the official writer.

Reads the official JSON (`{"ego-exo": {"version", "challenge", "results": {take_uid: {"masks":
{object: {"<source>_<dest>": {frame: {"pred_mask", "confidence"}}}}, "subsample_idx"}}}}`), O-MaMa's
JSON (without version, confidence in a list of one), LM-EEC's folder with one `{size, counts}` per
frame at `<take_uid>/<source>__<dest>/<object>/<frame>.json`, and a run's predictions.parquet. The
entries of a take are checked when they are matched with the ground truth.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import VERSION
from egoexo_tools.evaluation.large_json import open_json, open_members, parse_value
from egoexo_tools.layout import atomic_path
from egoexo_tools.manifests import read_tables
from egoexo_tools.parsing.json_text import REPEATED
from egoexo_tools.parsing.lenient import finite_number, frame_number, list_folder, load_json
from egoexo_tools.parsing.mask_json import read_rle
from egoexo_tools.parsing.names import NAMES_FILE
from egoexo_tools.parsing.pair_folders import PairFolder, direction_of, json_files, pair_folders
from egoexo_tools.runs import split_pair_id
from egoexo_tools.vocab import Direction, view_of

logger = logging.getLogger(__name__)

VISIBLE_SHARE = 0.001
"""LM-EEC predicts an object as visible if its mask covers more than this share of the image."""

# Warnings printed about files that are not read; `egoexo-tools import` lists all of them.
_MOST_WARNINGS = 5

TakeMasks = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""object_name → "<source>_<dest>" → frame → {"pred_mask", "confidence", "top_proposal_idxs"?}."""


@dataclass(frozen=True)
class Predictions:
    """The takes of a prediction file or folder in one direction; each is read when it is needed."""

    path: Path
    direction: Direction
    take_uids: tuple[str, ...]
    read_take: Callable[[str], TakeMasks] = field(repr=False)
    notes: tuple[str, ...] = ()
    """One sentence for each file that is not read."""


def read_predictions(path: Path, *, direction: Direction | None = None) -> Predictions:
    """Open predictions in any of the formats above.

    `direction` selects one if the file contains both. Raises DataError if it is needed and not
    given, and if the file has none of the formats.
    """
    if path.suffix.lower() == ".parquet" and not path.is_dir():
        return _open_table(path, direction)
    predictions = _open_folder(path, direction) if path.is_dir() else _open_json(path, direction)
    for note in predictions.notes[:_MOST_WARNINGS]:
        logger.warning("%s", note)
    original_names = read_object_names(path)
    if not original_names:
        return predictions

    def read_take(take_uid: str) -> TakeMasks:
        masks = predictions.read_take(take_uid)
        # A name that the take has already is not changed back: it could be another object.
        originals = {
            name: original
            for name, original in original_names.get(take_uid, {}).items()
            if name in masks and original not in masks
        }
        return {originals.get(name, name): pairs for name, pairs in masks.items()}

    return replace(predictions, read_take=read_take)


def read_object_names(path: Path) -> dict[str, dict[str, str]]:
    """take_uid → {name in the export: original}, from the object_names_<split>.json beside `path`.

    An export writes these files if it has to change object names, for example because of a `/`.
    """
    original_names: dict[str, dict[str, str]] = {}
    folders = [path] if path.is_dir() else []
    for folder in [*folders, path.resolve().parent]:
        for file in list_folder(folder):
            if not (file.name.startswith(NAMES_FILE) and file.suffix.lower() == ".json"):
                continue
            content = load_json(file)
            for take_uid, names in content.items() if isinstance(content, dict) else ():
                if isinstance(names, dict):
                    texts = {new: old for new, old in names.items() if isinstance(old, str)}
                    original_names.setdefault(take_uid, {}).update(texts)
    return original_names


def _open_json(path: Path, direction: Direction | None) -> Predictions:
    value = open_json(path)
    directions = [choice for choice in Direction if choice.dashed in value]
    if not directions:
        raise DataError(
            f"{path} contains no predictions: it has neither ego-exo nor exo-ego at its top level"
        )
    direction = _select_direction(directions, direction, path)
    results = open_members((open_members(value[direction.dashed]) or {}).get("results"))
    if results is None:
        raise DataError(f"{path}: {direction.dashed} has no results")

    def read_take(take_uid: str) -> TakeMasks:
        take = parse_value(results[take_uid], f"{path}: take {take_uid}")
        if take is REPEATED:
            raise DataError(f"{path} contains take {take_uid} twice, with different predictions")
        masks = take.get("masks") if isinstance(take, dict) else None
        if not isinstance(masks, dict):
            raise DataError(f"{path}: take {take_uid} has no masks")
        return normalize_predictions(masks)

    return Predictions(path, direction, tuple(results), read_take)


def _open_folder(path: Path, direction: Direction | None) -> Predictions:
    notes: list[str] = []
    pairs_by_take: dict[str, list[PairFolder]] = {}
    for take in list_folder(path):
        if not take.is_dir():
            if not take.name.startswith(NAMES_FILE):
                notes.append(f"{take} is not a take's folder; it is not read")
        elif pairs := pair_folders(take, notes):
            pairs_by_take[take.name] = pairs
        else:
            notes.append(f"{take} contains no <source>__<dest> folder; it is not read")
    directions = sorted({pair.direction for pairs in pairs_by_take.values() for pair in pairs})
    if not directions:
        raise DataError(
            f"{path} contains no predictions: a folder has <take_uid>/<source>__<dest>/<object>/"
            f"<frame>.json{''.join(f'; {note}' for note in notes[:3])}"
        )
    selected = _select_direction(directions, direction, path)

    def read_take(take_uid: str) -> TakeMasks:
        masks: dict[str, dict[str, dict[str, Any]]] = {}
        for pair in pairs_by_take[take_uid]:
            if pair.direction is not selected:
                continue
            for file in json_files(pair.path):
                # An object name may contain `/`: it is the whole path between pair and frame.
                name = file.parent.relative_to(pair.path).as_posix()
                frames = masks.setdefault(name, {}).setdefault(f"{pair.source}_{pair.dest}", {})
                key = file.stem
                # 30.json and 30.JSON: a padded key makes them a repeated frame, which is refused.
                while key in frames:
                    key = f"0{key}"
                try:
                    mask = load_json(file)
                except DataError:
                    mask = None  # reported with its sample
                frames[key] = {"pred_mask": mask, "confidence": None}
        return normalize_predictions(masks)

    return Predictions(path, selected, tuple(pairs_by_take), read_take, tuple(notes))


def _open_table(path: Path, direction: Direction | None) -> Predictions:
    try:
        table = read_tables([path], "predictions").sort_by("pair_id")
    except DataError as error:
        raise DataError(
            f"{path} is not a run's table of predictions ({error}); give the official JSON instead"
        ) from error
    rows_by_take: dict[str, list[int]] = {}
    directions: set[Direction] = set()
    for row, pair_id in enumerate(table.column("pair_id").to_pylist()):
        take_uid, source, dest, _, _ = split_pair_id(pair_id)
        rows_by_take.setdefault(take_uid, []).append(row)
        directions.add(direction_of(source, dest))
    selected = _select_direction(sorted(directions), direction, path)
    return Predictions(
        path,
        selected,
        tuple(rows_by_take),
        lambda take_uid: _take_masks(table.take(rows_by_take[take_uid]).to_pylist(), selected),
    )


def _select_direction(
    directions: list[Direction], requested: Direction | None, path: Path
) -> Direction:
    if requested is not None and requested not in directions:
        raise DataError(f"{path} contains {' and '.join(directions)} predictions, not {requested}")
    if requested is None and len(directions) > 1:
        raise DataError(f"{path} contains both directions; choose one with --direction")
    return requested or directions[0]


def _take_masks(rows: Iterable[Mapping[str, Any]], direction: Direction) -> TakeMasks:
    masks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        _, source, dest, frame_idx, name = split_pair_id(row["pair_id"])
        if direction_of(source, dest) is not direction:
            continue
        mask = {"size": [row["rle_height"], row["rle_width"]], "counts": row["rle_counts"]}
        masks.setdefault(name, {}).setdefault(f"{source}_{dest}", {})[str(frame_idx)] = {
            "pred_mask": mask,
            "confidence": row["confidence"],
            "top_proposal_idxs": row["top_proposal_idxs"],
        }
    return masks


def normalize_predictions(masks: Mapping[str, Any]) -> TakeMasks:
    """A take's predictions with unpadded frame numbers and masks as text.

    Other values stay as they are. Two keys of one frame ("30" and "030") become None: neither
    prediction can be used.
    """
    return {
        name: {
            pair: _normalize_frames(frames) if isinstance(frames, dict) else frames
            for pair, frames in pairs.items()
        }
        if isinstance(pairs, dict)
        else pairs
        for name, pairs in masks.items()
    }


def _normalize_frames(frames: Mapping[str, Any]) -> dict[str, Any]:
    normalized: dict[str, Any] = {}
    for frame, entry in frames.items():
        number = frame_number(frame)
        key = frame if number is None else str(number)
        mask = entry.get("pred_mask") if isinstance(entry, dict) else None
        if isinstance(mask, dict) and not _is_plain(mask):
            # A mask that cannot be read is reported when it is matched.
            with suppress(DataError):
                entry = {**entry, "pred_mask": read_rle(mask, "").to_json()}
        normalized[key] = None if key in normalized else entry
    return normalized


def _is_plain(mask: Mapping[str, Any]) -> bool:
    size, counts = mask.get("size"), mask.get("counts")
    # Bytes that went through str() have become "b'...'".
    if not isinstance(counts, str) or counts.startswith(("b'", 'b"')):
        return False
    return isinstance(size, list) and all(type(side) is int for side in size)


def write_predictions(path: Path, table: pa.Table, *, direction: Direction) -> int:
    """Write rows of the `predictions` schema as an official prediction file; returns their number.

    The masks keep their size: for the official protocol that must be `metrics.official_size` of
    the destination images.
    """
    rows_by_take: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows_by_take.setdefault(split_pair_id(row["pair_id"])[0], []).append(row)
    results = {}
    for take_uid, rows in rows_by_take.items():
        masks = _take_masks(rows, direction)
        frame_idxs: set[int] = set()
        for frames in (frames for pairs in masks.values() for frames in pairs.values()):
            frame_idxs.update(map(int, frames))
            for entry in frames.values():
                del entry["top_proposal_idxs"]  # not part of the official format
        results[take_uid] = {"masks": masks, "subsample_idx": sorted(frame_idxs)}
    value = {direction.dashed: {**VERSION, "results": results}}
    with atomic_path(path) as partial:
        partial.write_bytes(msgspec.json.encode(value))
    return int(table.num_rows)


def confidence_from_area(area: int, pixels: int) -> float:
    """LM-EEC's confidence: 1.0 if the mask covers more than VISIBLE_SHARE of the image, or 0.0."""
    return float(area > VISIBLE_SHARE * pixels)


def parse_confidence(value: Any) -> float | None:
    """A confidence as a number or as O-MaMa's list of one; None (not given) stays None.

    Raises DataError for anything else, NaN and infinity included.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    # finite_number rejects booleans, but a predicted visibility is a valid confidence.
    number = float(value) if isinstance(value, bool) else finite_number(value)
    if number is None:
        raise DataError(f"confidence {value!r} is not a finite number")
    return number


def split_cameras(
    pair: str, direction: Direction, cameras: Collection[str] = ()
) -> tuple[str, str]:
    """Source and destination camera of `aria01_214-1_cam01`; camera names contain `_` themselves.

    A split into two of `cameras` is preferred. Raises DataError if no split is possible, or more
    than one into `cameras`.
    """
    splits = [
        (pair[:position], pair[position + 1 :])
        for position, char in enumerate(pair)
        if char == "_" and 0 < position < len(pair) - 1
    ]
    views = (direction.source, direction.dest)
    splits = [names for names in splits if tuple(map(view_of, names)) == views]
    known_splits = [names for names in splits if set(names) <= set(cameras)]
    # "aria01" and "214-1_cam01": a destination that starts with a digit is a split inside the
    # name of the source camera.
    likely_splits = [names for names in splits if not names[1][0].isdigit()]
    if not splits:
        raise DataError(f"{pair!r} is not a <source>_<dest> camera pair of {direction}")
    if len(known_splits) > 1:
        raise DataError(f"{pair!r} can be read as {' and as '.join(map(str, known_splits))}")
    return (known_splits or likely_splits or splits)[0]
