"""The EvalAI submission: the predictions of both directions in one JSON file.

The benchmark's server wants every take and object of the ground truth, and an entry for every
source frame of every camera pair. What it wants but does not score (objects that only one view
has) is filled in empty; everything else that is missing stops here, before an upload is wasted.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.align import Problems
from egoexo_tools.evaluation.ground_truth import VERSION, GroundTruth, cameras_of, read_ground_truth
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.evaluation.predictions import (
    Predictions,
    TakeMasks,
    parse_confidence,
    read_predictions,
)
from egoexo_tools.layout import atomic_path
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.names import match_names
from egoexo_tools.vocab import Direction


def submit(
    ego2exo: Path,
    exo2ego: Path,
    *,
    out: Path,
    ground_truth: Mapping[Direction, Path],
    resize_predictions: bool = False,
) -> dict[Direction, int]:
    """Write the submission; returns the number of predictions of each direction.

    `ground_truth` names the official ground-truth file to check each direction against (often the
    same file twice; a direction that it lacks is not checked for completeness);
    `resize_predictions` brings masks to the size that the server compares at. Raises DataError
    with the list of what is missing or broken, and writes nothing then.
    """
    problems = Problems()
    counts: dict[Direction, int] = {}
    with atomic_path(out) as partial:
        with partial.open("wb") as file:
            for direction, path in zip(Direction, (ego2exo, exo2ego), strict=True):
                predictions = read_predictions(path, direction=direction)
                truth = ground_truth.get(direction)
                known = None if truth is None else read_ground_truth(truth)
                head = msgspec.json.encode(VERSION)[:-1]
                file.write(b"{" if direction is Direction.EGO2EXO else b",")
                file.write(msgspec.json.encode(direction.dashed) + b":" + head + b',"results":{')
                counts[direction] = 0
                for number, (take_uid, take, count) in enumerate(
                    _takes(predictions, known, resize_predictions, problems)
                ):
                    file.write(b"," * (number > 0) + msgspec.json.encode(take_uid) + b":")
                    file.write(msgspec.json.encode(take))
                    counts[direction] += count
                file.write(b"}}")
            file.write(b"}")
        if problems.counts:
            raise DataError(f"{out} was not written, the server would refuse:\n{problems.text()}")
    return counts


def truths_by_direction(paths: Sequence[Path]) -> dict[Direction, Path]:
    """Which direction each ground-truth file is for; one that does not say is for both."""
    found: dict[Direction, Path] = {}
    for path in paths:
        direction = read_ground_truth(path).direction
        for each in Direction if direction is None else (direction,):
            found[each] = path
    return found


def _takes(
    predictions: Predictions, truth: GroundTruth | None, resize: bool, problems: Problems
) -> Iterator[tuple[str, Json, int]]:
    """take_uid, the take as the server reads it, its number of predictions."""
    known = predictions.take_uids if truth is None else tuple(truth.annotations)
    for take_uid in known:
        masks: TakeMasks = {}
        if take_uid in predictions.take_uids:
            masks = predictions.read_take(take_uid)
        take = None if truth is None else truth.take(take_uid)
        if take is not None and (meant := match_names(masks, sorted(take["masks"]))):
            masks = {meant.get(name, name): pairs for name, pairs in masks.items()}
        try:
            if take is not None:
                _check_complete(take_uid, take, masks, predictions.direction, problems)
            tree, frames, count = _clean(
                take_uid, take, masks, predictions.direction, resize, problems
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{predictions.path}: take {take_uid} is damaged ({error!r})"
            ) from error
        yield take_uid, {"masks": tree, "subsample_idx": frames}, count
    for take_uid in predictions.take_uids:
        if take_uid not in known:
            problems.add("extra_take", take_uid)


def _check_complete(
    take_uid: str,
    take: Mapping[str, Any],
    masks: TakeMasks,
    direction: Direction,
    problems: Problems,
) -> None:
    """Every source frame of every camera pair has an entry; nothing else has."""
    for name, cameras in take["masks"].items():
        pairs = {
            f"{source}_{dest}": cameras[source]
            for source in cameras_of(cameras, direction.source)
            for dest in cameras_of(cameras, direction.dest)
        }
        given = masks.get(name, {})
        for pair, frames in pairs.items():
            where = f"{direction}, take {take_uid}, {name!r}, {pair}"
            if frames and pair not in given:
                problems.add("missing_pair", where)
                continue
            for frame in frames:
                if frame not in given[pair]:
                    problems.add("missing_frame", f"{where}, frame {frame}")
        for pair in given:
            if pair not in pairs:
                problems.add("extra_pair", f"{direction}, take {take_uid}, {name!r}, {pair}")
    for name in masks:
        if name not in take["masks"]:
            problems.add("extra_object", f"{direction}, take {take_uid}, {name!r}")


def _clean(
    take_uid: str,
    take: Mapping[str, Any] | None,
    masks: TakeMasks,
    direction: Direction,
    resize: bool,
    problems: Problems,
) -> tuple[Json, list[int], int]:
    """The take with plain confidences and checked masks, its frames, and how many there are."""
    tree: Json = {name: {} for name in (take["masks"] if take is not None else masks)}
    frames: set[int] = set()
    count = 0
    for name, pairs in masks.items():
        for pair, entries in pairs.items():
            for frame, entry in entries.items():
                where = f"{direction}, take {take_uid}, {name!r}, {pair}, frame {frame}"
                checked = _entry(entry, where, problems)
                if checked is None:
                    continue
                due = _wanted_size(take, name, pair, frame, direction)
                size = tuple(checked["pred_mask"]["size"])
                if due is not None and size != due and resize:
                    mask = MaskRle.from_json(checked["pred_mask"]).decode_at(*due)
                    checked["pred_mask"] = MaskRle.encode(mask).to_json()
                elif due is not None and size != due:
                    problems.add("wrong_size", f"{where} is {_x(size)}, not {_x(due)}")
                tree.setdefault(name, {}).setdefault(pair, {})[frame] = checked
                frames.add(int(frame))
                count += 1
    return tree, sorted(frames), count


def _entry(value: Any, where: str, problems: Problems) -> Json | None:
    try:
        mask = MaskRle.from_json(value["pred_mask"]).validate()
    except (DataError, KeyError, TypeError) as error:
        problems.add("bad_mask", f"{where} ({error})")
        return None
    try:
        confidence = parse_confidence(value["confidence"])
    except (DataError, KeyError) as error:
        problems.add("bad_confidence", f"{where} ({error})")
        return None
    if confidence is None:
        problems.add("bad_confidence", f"{where} (none given)")
        return None
    return {"pred_mask": mask.to_json(), "confidence": confidence}


def _wanted_size(
    take: Mapping[str, Any] | None, name: str, pair: str, frame: str, direction: Direction
) -> tuple[int, int] | None:
    """The size that the server compares at; None where it looks at no mask."""
    cameras = {} if take is None else take["masks"].get(name, {})
    for dest in cameras_of(cameras, direction.dest):
        if pair.endswith(f"_{dest}") and frame in cameras[dest]:
            height, width = cameras[dest][frame]["size"]
            return official_size((height, width))
    return None


def _x(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
