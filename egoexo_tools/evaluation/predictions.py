"""Predictions as others write them, brought to one shape, take by take; and ours written.

Read: the official JSON (`{"ego-exo": {"version", "challenge", "results": {take_uid: {"masks":
{object: {"<source>_<dest>": {frame: {"pred_mask", "confidence"}}}}, "subsample_idx"}}}}`), O-MaMa's
(the same without version, confidence in a list of one), LM-EEC's folder of one
`{size, counts}` a frame at `<take_uid>/<source>__<dest>/<object>/<frame>.json`, and a run's
predictions.parquet. What is inside a take is checked where it is matched with the truth.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import VERSION, members, parsed, read_json
from egoexo_tools.layout import DatasetRoot, atomic_path, component
from egoexo_tools.manifests import read_tables, write_table
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import RunFolder, join_pair_id, split_pair_id
from egoexo_tools.vocab import Direction, view_of

VISIBLE_SHARE = 0.001
"""LM-EEC calls an object visible where its mask covers more than this share of the image."""

TakeMasks = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""object_name → "<source>_<dest>" → frame → {"pred_mask", "confidence", "top_proposal_idxs"?}."""


@dataclass(frozen=True)
class Predictions:
    """Where predictions lie and which takes they are about; a take is read when asked for."""

    path: Path
    direction: Direction
    take_uids: tuple[str, ...]
    read_take: Callable[[str], TakeMasks] = field(repr=False)


def read_predictions(path: Path, *, direction: Direction | None = None) -> Predictions:
    """Open predictions of any of the formats above.

    `direction` chooses where a file holds both; DataError where it is needed and not given, or
    where the file is none of the formats.
    """
    if path.is_dir():
        return _from_folder(path, direction)
    if path.suffix == ".parquet":
        return _from_table(path, direction)
    return _from_json(path, direction)


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
        take = parsed(results[take_uid])
        masks = take.get("masks") if isinstance(take, dict) else None
        if not isinstance(masks, dict):
            raise DataError(f"{path}: take {take_uid} has no masks")
        return masks

    return Predictions(path, chosen, tuple(results), read_take)


def _from_folder(path: Path, direction: Direction | None) -> Predictions:
    """LM-EEC's folder. Object names may hold `/`: what lies between is the name."""
    take_uids = sorted(child.name for child in path.iterdir() if child.is_dir())
    pairs = {pair.name for uid in take_uids for pair in path.joinpath(uid).glob("*__*")}
    found = sorted({_direction_of(*name.split("__", 1)) for name in pairs})
    if not found:
        raise DataError(
            f"{path} holds no predictions: a folder has <take_uid>/<source>__<dest>/<object>/"
            "<frame>.json"
        )
    chosen = _choose(found, direction, path)

    def read_take(take_uid: str) -> TakeMasks:
        masks: dict[str, dict[str, dict[str, Any]]] = {}
        for pair in sorted(path.joinpath(component(take_uid)).glob("*__*")):
            source, dest = pair.name.split("__", 1)
            if _direction_of(source, dest) is not chosen:
                continue
            for file in sorted(pair.rglob("*.json")):
                name = file.parent.relative_to(pair).as_posix()
                frames = masks.setdefault(name, {}).setdefault(f"{source}_{dest}", {})
                frames[file.stem] = {"pred_mask": _read_mask(file), "confidence": None}
        return masks

    return Predictions(path, chosen, tuple(take_uids), read_take)


def _from_table(path: Path, direction: Direction | None) -> Predictions:
    """A run's predictions.parquet; the pair_id holds everything else."""
    table = read_tables([path], "predictions").sort_by("pair_id")
    takes: dict[str, list[int]] = {}
    found: set[Direction] = set()
    for row, pair_id in enumerate(table.column("pair_id").to_pylist()):
        take_uid, source, dest, _, _ = split_pair_id(pair_id)
        takes.setdefault(take_uid, []).append(row)
        found.add(_direction_of(source, dest))
    chosen = _choose(sorted(found), direction, path)

    def read_take(take_uid: str) -> TakeMasks:
        return _nested(table.take(takes[take_uid]).to_pylist(), chosen)

    return Predictions(path, chosen, tuple(takes), read_take)


def _nested(rows: Iterable[Mapping[str, Any]], direction: Direction) -> TakeMasks:
    masks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        _, source, dest, frame_idx, name = split_pair_id(row["pair_id"])
        if _direction_of(source, dest) is not direction:
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
        for entries in pairs.values():
            frames.update(map(int, entries))
            for entry in entries.values():
                entry.pop("top_proposal_idxs")
    return {"masks": masks, "subsample_idx": sorted(frames)}


def import_predictions(
    root: DatasetRoot, path: Path, run_name: str, *, direction: Direction | None = None
) -> int:
    """Other people's predictions → `<root>/runs/<run_name>/predictions.{parquet,json}`.

    Any format that `read_predictions` reads; returns the number of predictions. Object and camera
    names are kept as they came; `egoexo-tools evaluate` checks them against the truth. Raises
    DataError for a mask, frame or confidence that cannot be used, and writes nothing then.
    """
    predictions = read_predictions(path, direction=direction)
    rows: list[dict[str, Any]] = []
    for take_uid in predictions.take_uids:
        try:
            rows.extend(_rows(take_uid, predictions.read_take(take_uid), predictions))
        except AttributeError as error:
            raise DataError(f"{path}: take {take_uid} is damaged ({error!r})") from error
    if not rows:
        raise DataError(f"{path} holds no predictions")
    run = RunFolder.of(root, run_name)
    write_table(run.predictions, "predictions", rows, metadata={"run": run_name})
    table = read_tables([run.predictions], "predictions")
    return write_predictions(run.predictions_json, table, direction=predictions.direction)


def _rows(take_uid: str, masks: TakeMasks, predictions: Predictions) -> Iterable[dict[str, Any]]:
    for name, pairs in masks.items():
        for pair, entries in pairs.items():
            source, dest = split_cameras(pair, predictions.direction)
            for frame, entry in entries.items():
                where = f"{predictions.path}: {take_uid}, {name!r}, {pair}, frame {frame}"
                try:
                    mask = MaskRle.from_json(entry["pred_mask"])
                    confidence = confidence_of(entry["confidence"])
                    if confidence is None:
                        confidence = covers_enough(mask.area(), mask.height * mask.width)
                    pair_id = join_pair_id(take_uid, source, dest, int(frame), name)
                except (DataError, KeyError, TypeError, ValueError) as error:
                    raise DataError(f"{where}: {error}") from error
                yield {
                    "pair_id": pair_id,
                    "confidence": confidence,
                    "rle_height": mask.height,
                    "rle_width": mask.width,
                    "rle_counts": mask.counts,
                }


def covers_enough(area: int, pixels: int) -> float:
    """LM-EEC's confidence: 1.0 if the mask covers more than 0.1 % of the image, else 0.0."""
    return float(area > VISIBLE_SHARE * pixels)


def confidence_of(value: Any) -> float | None:
    """A confidence as a number, or as O-MaMa's list of one; None stays None (not given).

    Raises DataError for anything else, NaN and infinity included.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    if isinstance(value, bool | int | float) and abs(value) < float("inf"):
        return float(value)
    raise DataError(f"confidence {value!r} is no finite number")


def split_cameras(pair: str, direction: Direction) -> tuple[str, str]:
    """`aria01_214-1_cam01` → source and destination camera; camera names hold `_` themselves."""
    for position, char in enumerate(pair):
        source, dest = pair[:position], pair[position + 1 :]
        # A camera's own `_` leaves a rest such as "214-1_cam01", which starts with a digit.
        if char == "_" and source and dest and not dest[0].isdigit():
            views = (view_of(source), view_of(dest))
            if views == (direction.source, direction.dest):
                return source, dest
    raise DataError(f"{pair!r} is no <source>_<dest> camera pair of {direction}")


def _read_mask(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None  # an unreadable mask is reported with its sample


def _direction_of(source: str, dest: str) -> Direction:
    for direction in Direction:
        if (view_of(source), view_of(dest)) == (direction.source, direction.dest):
            return direction
    raise DataError(f"{source} and {dest} are cameras of one view; a pair has one of each")


def _choose(found: list[Direction], wanted: Direction | None, path: Path) -> Direction:
    if wanted is not None and wanted not in found:
        raise DataError(f"{path} holds {' and '.join(found)} predictions, not {wanted}")
    if wanted is None and len(found) > 1:
        raise DataError(f"{path} holds both directions; choose one with --direction")
    return wanted or found[0]
