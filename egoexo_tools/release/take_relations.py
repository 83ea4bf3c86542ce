"""The annotations of one take as a relations file holds them, decoded.

The usual shape is decoded into typed structs, which is fast. Any other shape is read value by
value: null in place of a mask, numbers as text, padded frame numbers. A value that cannot be
understood becomes a row of exclusions, and the other values of the take are kept.
"""

from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import check_text, kind_of, parse_json
from egoexo_tools.parsing.lenient import frame_number, is_text, printable


# gc=False: a take has tens of thousands of these structs, none of which can be part of a cycle, and
# the garbage collector would visit all of them again and again.
class ShippedMask(msgspec.Struct, gc=False):
    """One visible mask as shipped. Its values are unchecked: `annotations` checks each mask."""

    width: Any = None
    height: Any = None
    encoded: Any = msgspec.field(default=None, name="encodedMask")


class ShippedTrack(msgspec.Struct, gc=False):
    """An object in a camera: its masks by frame, and all frames that were annotated."""

    annotation: dict[str, ShippedMask] = {}
    annotated_frames: list[int] = []


class TakeRelations(msgspec.Struct, gc=False):
    """The annotations of one take: object_masks[object_name][camera]."""

    scenario: str | None = None
    object_masks: dict[str, dict[str, ShippedTrack]] = {}
    faults: list[Any] = []
    """Exclusion rows of what is not in object_masks; filled by `decode_take`."""


def decode_take(text: bytes, file: str, take_uid: str) -> TakeRelations:
    """Decode one take; raises DataError, naming file and take, where it is not an annotation."""
    try:
        is_repeated = check_text(text)
    except DataError as error:
        raise DataError(f"{file}, take {take_uid}: {error}") from error
    # Of two values under one key msgspec silently keeps the last, so such text is read leniently.
    if not is_repeated:
        try:
            relations = msgspec.json.decode(text, type=TakeRelations)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        else:
            relations.faults = []  # the field is ours, even if the file has a key of this name
            return relations
    return _decode_leniently(text, file, take_uid)


def _decode_leniently(text: bytes, file: str, take_uid: str) -> TakeRelations:
    """One take's JSON, as far as it can be understood; DataError where it is not a JSON object."""
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
    scenario = value.get("scenario")
    relations = TakeRelations(scenario if isinstance(scenario, str) else None, {}, [])
    for name, cameras in objects.items():
        if not is_text(name):
            reason = f"object {printable(name)!r}: its name cannot be written as text"
            relations.faults.append({"reason": reason})
            continue
        tracks = relations.object_masks.setdefault(name, {})
        if not isinstance(cameras, dict):
            reason = f"its cameras are {kind_of(cameras)}"
            relations.faults.append({"object_name": name, "reason": reason})
            continue
        for camera, track in cameras.items():
            tracks[camera], reasons = _track(track)
            relations.faults += [
                {"object_name": name, "camera": camera, "reason": reason} for reason in reasons
            ]
    return relations


def _track(value: Any) -> tuple[ShippedTrack, list[str]]:
    """One object in one camera, and the reasons for what was not understood."""
    nothing = ShippedTrack(annotation={}, annotated_frames=[])
    if not isinstance(value, dict):
        return nothing, [f"its annotation in this camera is {kind_of(value)}"]
    # A missing annotation is an object that was never visible, and no error.
    masks = value.get("annotation", {})
    if not isinstance(masks, dict):
        # Without the masks it is unknown in which annotated frames the object was visible.
        return nothing, [f"its annotation is {kind_of(masks)}"]
    reasons = []
    frames = value.get("annotated_frames")
    if frames is not None and not isinstance(frames, list):
        reasons.append(f"its annotated_frames are {kind_of(frames)}")
        frames = None
    numbers = []
    for frame in frames or ():
        if (number := frame_number(frame)) is None:
            reasons.append(f"{frame!r:.40} in annotated_frames is not a frame number")
        else:
            numbers.append(number)
    annotation = {
        frame: ShippedMask(mask.get("width"), mask.get("height"), mask.get("encodedMask"))
        if isinstance(mask, dict)
        else ShippedMask()  # `check_take` excludes it with a reason
        for frame, mask in masks.items()
    }
    return ShippedTrack(annotation=annotation, annotated_frames=numbers), reasons
