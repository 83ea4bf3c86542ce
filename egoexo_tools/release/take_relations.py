"""The annotations of one take as a relations file holds them, decoded.

The usual shape is decoded typed, which is fast. What has another shape is read value by value:
null in place of a mask, numbers as text, padded frame numbers. Each value is understood or becomes
a row of exclusions, and the rest of the take goes on.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import check_text, kind_of, parse_json
from egoexo_tools.parsing.lenient import frame_number, is_text, printable


class ShippedMask(msgspec.Struct, gc=False):
    """One visible mask as shipped; its values are checked later, each mask for itself."""

    width: Any = None
    height: Any = None
    encoded: Any = msgspec.field(default=None, name="encodedMask")


class ShippedTrack(msgspec.Struct, gc=False):
    """An object in a camera: its masks by frame, and all frames that were looked at."""

    annotation: dict[str, ShippedMask] = {}
    annotated_frames: list[int] = []


class TakeRelations(msgspec.Struct, gc=False):
    """The annotations of one take: object_masks[object_name][camera]."""

    scenario: str | None = None
    take_name: str | None = None
    object_masks: dict[str, dict[str, ShippedTrack]] = {}
    faults: list[Any] = []
    """Of what is not in object_masks: exclusion rows, filled by `decode_take`."""


def decode_take(text: bytes, file: str, take_uid: str) -> TakeRelations:
    """One take's JSON; DataError, naming file and take, where it is no annotation at all."""
    try:
        is_repeated = check_text(text)
    except DataError as error:
        raise DataError(f"{file}, take {take_uid}: {error}") from error
    if is_repeated:  # msgspec keeps the last of two values under one key
        return _odd_take(text, file, take_uid)
    try:
        found = msgspec.json.decode(text, type=TakeRelations)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _odd_take(text, file, take_uid)
    found.faults = []  # ours, whatever the file holds under that name
    return found


def _odd_take(text: bytes, file: str, take_uid: str) -> TakeRelations:
    """One take's JSON → what of it can be understood; DataError where it is no JSON object."""
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file} is damaged in take {take_uid}: {error}; download it again"
        ) from error
    objects = value.get("object_masks", {}) if isinstance(value, dict) else value
    if not isinstance(objects, dict):
        raise DataError(
            f"{file} is damaged in take {take_uid}: its object_masks are {kind_of(objects)}, "
            "not an object"
        )
    found = TakeRelations(
        scenario=_text(value.get("scenario")),
        take_name=_text(value.get("take_name")),
        object_masks={},
        faults=[],
    )
    for name, cameras in objects.items():
        if not is_text(name):
            _fault(found, f"object {printable(name)!r}: its name is no text that can be written")
            continue
        tracks = found.object_masks.setdefault(name, {})
        if not isinstance(cameras, dict):
            _fault(found, f"its cameras are {kind_of(cameras)}", object_name=name)
            continue
        for camera, track in cameras.items():
            tracks[camera] = _track(found, track, name, camera)
    return found


def _track(found: TakeRelations, value: Any, name: str, camera: str) -> ShippedTrack:
    where = {"object_name": name, "camera": camera}
    if not isinstance(value, dict):
        _fault(found, f"its annotation in this camera is {kind_of(value)}", **where)
        return ShippedTrack(annotation={}, annotated_frames=[])
    masks = value.get("annotation", {})
    if not isinstance(masks, dict):
        # Without it nobody knows in which of the annotated frames the object was seen.
        _fault(found, f"its annotation is {kind_of(masks)}", **where)
        return ShippedTrack(annotation={}, annotated_frames=[])
    frames = value.get("annotated_frames")
    if frames is not None and not isinstance(frames, list):
        _fault(found, f"its annotated_frames are {kind_of(frames)}", **where)
    numbers = []
    for frame in frames if isinstance(frames, list) else ():
        if (number := frame_number(frame)) is None:
            _fault(found, f"{frame!r:.40} in annotated_frames is no frame number", **where)
        else:
            numbers.append(number)
    annotation = {frame: _mask(mask) for frame, mask in masks.items()}
    return ShippedTrack(annotation=annotation, annotated_frames=numbers)


def _mask(value: Any) -> ShippedMask:
    """An empty one where there is none: the checks say so."""
    if not isinstance(value, Mapping):
        return ShippedMask()
    return ShippedMask(
        width=value.get("width"), height=value.get("height"), encoded=value.get("encodedMask")
    )


def _fault(found: TakeRelations, reason: str, **where: Any) -> None:
    found.faults.append({**where, "reason": reason})


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
