"""The EvalAI submission: the predictions of both directions in one JSON file.

The benchmark's server requires every take and object of the ground truth, and an entry for every
source frame of every camera pair. Objects that only one view has are not scored; they are added
without entries. Everything else that is missing is an error here, so that no upload is wasted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.align import Problems
from egoexo_tools.evaluation.ground_truth import VERSION, cameras_of_view, read_ground_truth
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.evaluation.predictions import TakeMasks, parse_confidence, read_predictions
from egoexo_tools.layout import atomic_path
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.names import match_names
from egoexo_tools.runs import check_run, find_difference, read_versions, run_of
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

    `ground_truth` is the official ground-truth file that each direction is checked against (often
    the same file twice); a direction without one is not checked for completeness.
    `resize_predictions` resizes masks to the size at which the server compares them. Raises
    DataError with a list of the missing and broken entries, or if the files of a run or the splits
    of the directions do not belong together, and writes nothing in that case.
    """
    _check_versions((ego2exo, exo2ego), ground_truth)
    problems = Problems()
    counts: dict[Direction, int] = {}
    with atomic_path(out) as partial:
        # Take by take: a whole submission does not fit into memory as Python objects.
        with partial.open("wb") as file:
            for direction, path in zip(Direction, (ego2exo, exo2ego), strict=True):
                file.write(b"{" if direction is Direction.EGO2EXO else b",")
                # Without the closing brace: the results follow.
                head = msgspec.json.encode(VERSION)[:-1]
                file.write(msgspec.json.encode(direction.dashed) + b":" + head + b',"results":{')
                run = run_of(path)
                source = run.scored_file if run and path.is_dir() else path
                predictions = read_predictions(source, direction=direction)
                truth_path = ground_truth.get(direction)
                truth = None if truth_path is None else read_ground_truth(truth_path)
                take_uids = predictions.take_uids if truth is None else truth.take_uids
                counts[direction] = 0
                for number, take_uid in enumerate(take_uids):
                    has_predictions = take_uid in predictions.take_uids
                    masks = predictions.read_take(take_uid) if has_predictions else {}
                    true_masks = None if truth is None else truth.read_take(take_uid)["masks"]
                    try:
                        take, count = _clean_take(
                            take_uid, true_masks, masks, direction, resize_predictions, problems
                        )
                    except (AttributeError, KeyError, TypeError, ValueError) as error:
                        raise DataError(
                            f"{path}: take {take_uid} is damaged ({error!r})"
                        ) from error
                    file.write(b"," * (number > 0) + msgspec.json.encode(take_uid) + b":")
                    file.write(msgspec.json.encode(take))
                    counts[direction] += count
                for take_uid in predictions.take_uids:
                    if take_uid not in take_uids:
                        problems.add("extra_take", take_uid)
                file.write(b"}}")
            file.write(b"}")
        if problems.counts:
            raise DataError(
                f"{out} was not written, because the server would refuse it:\n{problems.text()}"
            )
    return counts


def _check_versions(paths: Sequence[Path], ground_truth: Mapping[Direction, Path]) -> None:
    """DataError if a run's files disagree, or predictions and ground truths are of two splits."""
    splits: dict[str, dict[str, str]] = {}
    for path in ground_truth.values():
        split = read_ground_truth(path).split
        splits |= {str(path): {"split": split}} if split else {}
    for path in paths:
        if run := run_of(path):
            check_run(run)
            stated = read_versions(run).get(run.predictions.name, {})
            splits |= {str(path): {"split": stated["split"]}} if "split" in stated else {}
    if difference := find_difference(splits):
        raise DataError(f"a submission is of one split, not of two: {difference}")


def truths_by_direction(paths: Sequence[Path]) -> dict[Direction, Path]:
    """The ground-truth file of each direction; a file that does not name one is for both."""
    truths: dict[Direction, Path] = {}
    for path in paths:
        direction = read_ground_truth(path).direction
        truths |= dict.fromkeys(Direction if direction is None else [direction], path)
    return truths


def _clean_take(
    take_uid: str,
    true_masks: Mapping[str, Any] | None,
    masks: TakeMasks,
    direction: Direction,
    resize: bool,
    problems: Problems,
) -> tuple[dict[str, Any], int]:
    """The take in the server's format, and its number of predictions.

    `true_masks` (object → camera → frame → mask) is None if completeness is not checked.
    """
    if true_masks is not None:
        names = match_names(masks, sorted(true_masks))
        masks = {names.get(name, name): pairs for name, pairs in masks.items()}
        _check_complete(f"{direction}, take {take_uid}", true_masks, masks, direction, problems)
    tree: dict[str, Any] = {name: {} for name in (masks if true_masks is None else true_masks)}
    frame_idxs: set[int] = set()
    count = 0
    for name, pairs in masks.items():
        cameras = {} if true_masks is None else true_masks.get(name, {})
        for pair, entries in pairs.items():
            # Camera names contain `_`, so the destination is recognized by the end of the pair.
            dests = cameras_of_view(cameras, direction.dest)
            truths = [cameras[dest] for dest in dests if pair.endswith(f"_{dest}")]
            for frame, entry in entries.items():
                where = f"{direction}, take {take_uid}, {name!r}, {pair}, frame {frame}"
                mask, confidence = _parse_entry(entry, where, problems)
                if mask is None or confidence is None:
                    continue
                # The server does not look at the mask of an absent object, so its size is free.
                true_mask = next((truth[frame] for truth in truths if frame in truth), None)
                size = (mask.height, mask.width)
                official = size if true_mask is None else official_size(tuple(true_mask["size"]))
                if size != official and resize:
                    mask = MaskRle.encode(mask.decode_at(*official))
                elif size != official:
                    sizes = ["x".join(map(str, each)) for each in (size, official)]
                    problems.add("wrong_size", f"{where} is {sizes[0]}, not {sizes[1]}")
                frames = tree.setdefault(name, {}).setdefault(pair, {})
                frames[frame] = {"pred_mask": mask.to_json(), "confidence": confidence}
                frame_idxs.add(int(frame))
                count += 1
    return {"masks": tree, "subsample_idx": sorted(frame_idxs)}, count


def _check_complete(
    where: str,
    true_masks: Mapping[str, Any],
    masks: TakeMasks,
    direction: Direction,
    problems: Problems,
) -> None:
    """Every source frame of every camera pair has an entry, and there are no other pairs."""
    for name, cameras in true_masks.items():
        frames_by_pair = {
            f"{source}_{dest}": cameras[source]
            for source in cameras_of_view(cameras, direction.source)
            for dest in cameras_of_view(cameras, direction.dest)
        }
        entries = masks.get(name, {})
        for pair, frames in frames_by_pair.items():
            # A pair without source frames needs no entry.
            if frames and pair not in entries:
                problems.add("missing_pair", f"{where}, {name!r}, {pair}")
                continue
            for frame in frames:
                if frame not in entries[pair]:
                    problems.add("missing_frame", f"{where}, {name!r}, {pair}, frame {frame}")
        for pair in entries:
            if pair not in frames_by_pair:
                problems.add("extra_pair", f"{where}, {name!r}, {pair}")
    for name in masks:
        if name not in true_masks:
            problems.add("extra_object", f"{where}, {name!r}")


def _parse_entry(entry: Any, where: str, problems: Problems) -> tuple[MaskRle | None, float | None]:
    """Mask and confidence of an entry; None for one that cannot be used, after adding a problem."""
    try:
        mask = MaskRle.from_json(entry["pred_mask"]).validate()
    except (DataError, KeyError, TypeError) as error:
        problems.add("bad_mask", f"{where} ({error})")
        return None, None
    try:
        confidence = parse_confidence(entry["confidence"])
        if confidence is None:
            raise DataError("none given")
    except (DataError, KeyError) as error:
        problems.add("bad_confidence", f"{where} ({error})")
        return mask, None
    return mask, confidence
