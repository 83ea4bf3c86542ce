"""Predictions as others write them, brought to one shape, take by take; and ours written.

Read: the official JSON (`{"ego-exo": {"version", "challenge", "results": {take_uid: {"masks":
{object: {"<source>_<dest>": {frame: {"pred_mask", "confidence"}}}}, "subsample_idx"}}}}`), O-MaMa's
(the same without version, confidence in a list of one), LM-EEC's folder of one
`{size, counts}` a frame at `<take_uid>/<source>__<dest>/<object>/<frame>.json`, and a run's
predictions.parquet. What is inside a take is checked where it is matched with the truth.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import VERSION, members, parsed, read_json
from egoexo_tools.layout import atomic_path
from egoexo_tools.manifests import read_tables
from egoexo_tools.parsing.json_text import REPEATED
from egoexo_tools.parsing.lenient import (
    finite_number,
    frame_number,
    list_folder,
    load_json,
)
from egoexo_tools.parsing.mask_json import read_rle
from egoexo_tools.parsing.names import NAMES_FILE
from egoexo_tools.parsing.pair_folders import PairFolder, direction_of, json_files, pair_folders
from egoexo_tools.runs import split_pair_id
from egoexo_tools.vocab import Direction, view_of

logger = logging.getLogger(__name__)

VISIBLE_SHARE = 0.001
"""LM-EEC calls an object visible where its mask covers more than this share of the image."""

_NOTES = 5
"""Of what is not read, how much is said; an import lists all of it."""
TakeMasks = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""object_name → "<source>_<dest>" → frame → {"pred_mask", "confidence", "top_proposal_idxs"?}."""


@dataclass(frozen=True)
class Predictions:
    """Where predictions lie and which takes they are about; a take is read when asked for."""

    path: Path
    direction: Direction
    take_uids: tuple[str, ...]
    read_take: Callable[[str], TakeMasks] = field(repr=False)
    notes: tuple[str, ...] = ()
    """What lies there and is not read."""


def read_predictions(path: Path, *, direction: Direction | None = None) -> Predictions:
    """Open predictions of any of the formats above.

    `direction` chooses where a file holds both; DataError where it is needed and not given, or
    where the file is none of the formats.
    """
    if path.suffix.lower() == ".parquet" and not path.is_dir():
        return _from_table(path, direction)
    read = _from_folder if path.is_dir() else _from_json
    return _with_names(read(path, direction))


def _with_names(found: Predictions) -> Predictions:
    """Object names that an export changed are brought back, the same for every command."""
    for note in found.notes[:_NOTES]:
        logger.warning("%s", note)
    replaced = replaced_names(found.path)
    if not replaced:
        return found

    def read_take(take_uid: str) -> TakeMasks:
        masks = found.read_take(take_uid)
        names = replaced.get(take_uid, {})
        back = {name: names[name] for name in masks if name in names and names[name] not in masks}
        return {back.get(name, name): pairs for name, pairs in masks.items()}

    return replace(found, read_take=read_take)


def replaced_names(path: Path) -> dict[str, dict[str, str]]:
    """take_uid → {name in the export: object}, from object_names_<split>.json beside `path`."""
    found: dict[str, dict[str, str]] = {}
    places = [path] if path.is_dir() else []
    for place in [*places, path.resolve().parent]:
        for file in list_folder(place):
            if not (file.name.startswith(NAMES_FILE) and file.suffix.lower() == ".json"):
                continue
            content = load_json(file)
            for take_uid, names in content.items() if isinstance(content, dict) else ():
                if isinstance(names, dict):
                    texts = {new: old for new, old in names.items() if isinstance(old, str)}
                    found.setdefault(take_uid, {}).update(texts)
    return found


def _from_json(path: Path, direction: Direction | None) -> Predictions:
    value = read_json(path)
    found = [choice for choice in Direction if choice.dashed in value]
    if not found:
        raise DataError(
            f"{path} holds no predictions: it has neither ego-exo nor exo-ego at its top level"
        )
    chosen = _choose(found, direction, path)
    part = members(value[chosen.dashed]) or {}
    results = members(part.get("results"))
    if results is None:
        raise DataError(f"{path}: {chosen.dashed} has no results")

    def read_take(take_uid: str) -> TakeMasks:
        take = parsed(results[take_uid], f"{path}: take {take_uid}")
        if take is REPEATED:
            raise DataError(f"{path} holds take {take_uid} twice, and not the same")
        masks = take.get("masks") if isinstance(take, dict) else None
        if not isinstance(masks, dict):
            raise DataError(f"{path}: take {take_uid} has no masks")
        return normalize_predictions(masks)

    return Predictions(path, chosen, tuple(results), read_take)


def _from_folder(path: Path, direction: Direction | None) -> Predictions:
    """LM-EEC's folder. Object names may hold `/`: what lies between is the name."""
    notes: list[str] = []
    pairs: dict[str, list[PairFolder]] = {}
    for take in list_folder(path):
        if not take.is_dir():
            if not take.name.startswith(NAMES_FILE):
                notes.append(f"{take} is no take's folder; it is not read")
        elif found := pair_folders(take, notes):
            pairs[take.name] = found
        else:
            notes.append(f"{take} holds no <source>__<dest> folder; it is not read")
    directions = sorted({pair.direction for found in pairs.values() for pair in found})
    if not directions:
        raise DataError(
            f"{path} holds no predictions: a folder has <take_uid>/<source>__<dest>/<object>/"
            f"<frame>.json{''.join(f'; {note}' for note in notes[:3])}"
        )
    chosen = _choose(directions, direction, path)

    def read_take(take_uid: str) -> TakeMasks:
        masks: dict[str, dict[str, dict[str, Any]]] = {}
        for pair in pairs[take_uid]:
            if pair.direction is not chosen:
                continue
            for file in json_files(pair.path):
                name = file.parent.relative_to(pair.path).as_posix()
                frames = masks.setdefault(name, {}).setdefault(f"{pair.source}_{pair.dest}", {})
                key = file.stem
                while key in frames:  # 30.json and 30.JSON: neither can be used
                    key = f"0{key}"
                frames[key] = {"pred_mask": _read_mask(file), "confidence": None}
        return normalize_predictions(masks)

    return Predictions(path, chosen, tuple(pairs), read_take, tuple(notes))


def normalize_predictions(masks: Mapping[str, Any]) -> TakeMasks:
    """A take's predictions with plain frame numbers and masks as text; the rest stays as it came.

    A frame that is there twice, as "30" and "030", has no prediction that can be used.
    """
    return {
        name: {
            pair: _plain_frames(frames) if isinstance(frames, dict) else frames
            for pair, frames in pairs.items()
        }
        if isinstance(pairs, dict)
        else pairs
        for name, pairs in masks.items()
    }


def _plain_frames(frames: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, entry in frames.items():
        number = frame_number(key)
        plain = key if number is None else str(number)
        found[plain] = None if plain in found else _plain_entry(entry)
    return found


def _plain_entry(entry: Any) -> Any:
    mask = entry.get("pred_mask") if isinstance(entry, dict) else None
    if not isinstance(mask, dict) or _is_plain(mask):
        return entry
    try:
        return {**entry, "pred_mask": read_rle(mask, "").to_json()}
    except DataError:
        return entry  # it is reported where it is matched


def _is_plain(mask: Mapping[str, Any]) -> bool:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(counts, str) or counts.startswith(("b'", 'b"')):
        return False
    return isinstance(size, list) and all(type(side) is int for side in size)


def _from_table(path: Path, direction: Direction | None) -> Predictions:
    """A run's predictions.parquet; the pair_id holds everything else."""
    try:
        table = read_tables([path], "predictions").sort_by("pair_id")
    except DataError as error:
        raise DataError(
            f"{path} is no table of predictions as a run of ours holds it ({error}); give the "
            "official JSON instead"
        ) from error
    takes: dict[str, list[int]] = {}
    found: set[Direction] = set()
    for row, pair_id in enumerate(table.column("pair_id").to_pylist()):
        take_uid, source, dest, _, _ = split_pair_id(pair_id)
        takes.setdefault(take_uid, []).append(row)
        found.add(direction_of(source, dest))
    chosen = _choose(sorted(found), direction, path)

    def read_take(take_uid: str) -> TakeMasks:
        return _nested(table.take(takes[take_uid]).to_pylist(), chosen)

    return Predictions(path, chosen, tuple(takes), read_take)


def _nested(rows: Iterable[Mapping[str, Any]], direction: Direction) -> TakeMasks:
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


def write_predictions(path: Path, table: pa.Table, *, direction: Direction) -> int:
    """Write rows of the `predictions` schema as an official prediction file; returns their number.

    The masks keep the size that they have: for the official protocol that is
    `metrics.official_size` of the destination images.
    """
    takes: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        takes.setdefault(split_pair_id(row["pair_id"])[0], []).append(row)
    results = {uid: _official_take(_nested(rows, direction)) for uid, rows in takes.items()}
    value = {direction.dashed: {**VERSION, "results": results}}
    with atomic_path(path) as partial:
        partial.write_bytes(msgspec.json.encode(value))
    return int(table.num_rows)


def _official_take(masks: TakeMasks) -> dict[str, Any]:
    frames: set[int] = set()
    for pairs in masks.values():
        for of_pair in pairs.values():
            frames.update(map(int, of_pair))
            for entry in of_pair.values():
                entry.pop("top_proposal_idxs")
    return {"masks": masks, "subsample_idx": sorted(frames)}


def confidence_from_area(area: int, pixels: int) -> float:
    """LM-EEC's confidence: 1.0 if the mask covers more than 0.1 % of the image, else 0.0."""
    return float(area > VISIBLE_SHARE * pixels)


def parse_confidence(value: Any) -> float | None:
    """A confidence as a number, or as O-MaMa's list of one; None stays None (not given).

    Raises DataError for anything else, NaN and infinity included.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    number = float(value) if isinstance(value, bool) else finite_number(value)
    if number is not None:
        return number
    raise DataError(f"confidence {value!r} is no finite number")


def split_cameras(pair: str, direction: Direction, known: Collection[str] = ()) -> tuple[str, str]:
    """`aria01_214-1_cam01` → source and destination camera; camera names hold `_` themselves.

    Cameras that are known decide; else a destination that begins with a digit is taken for the
    end of the source's name. DataError where there is no reading, or two of known cameras.
    """
    readings = [
        (pair[:position], pair[position + 1 :])
        for position, char in enumerate(pair)
        if char == "_" and 0 < position < len(pair) - 1
    ]
    views = (direction.source, direction.dest)
    readings = [two for two in readings if tuple(map(view_of, two)) == views]
    sure = [two for two in readings if set(two) <= set(known)]
    # A camera's own `_` leaves a rest such as "214-1_cam01", which starts with a digit.
    chosen = sure or [two for two in readings if not two[1][0].isdigit()] or readings
    if not chosen:
        raise DataError(f"{pair!r} is no <source>_<dest> camera pair of {direction}")
    if len(sure) > 1:
        raise DataError(f"{pair!r} can be read as {' and as '.join(map(str, sure))}")
    return chosen[0]


def _read_mask(path: Path) -> Any:
    try:
        return load_json(path)
    except DataError:
        return None  # an unreadable mask is reported with its sample


def _choose(found: list[Direction], wanted: Direction | None, path: Path) -> Direction:
    if wanted is not None and wanted not in found:
        raise DataError(f"{path} holds {' and '.join(found)} predictions, not {wanted}")
    if wanted is None and len(found) > 1:
        raise DataError(f"{path} holds both directions; choose one with --direction")
    return wanted or found[0]
