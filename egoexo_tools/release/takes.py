"""Reads takes.json, which decides which takes exist, and the files that divide them into splits.

Both files are untrusted. An entry is kept as the bytes that were shipped, so that a filtered
takes.json contains it unchanged; the few fields that the toolkit uses are parsed as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.formats.benchmark import read_json
from egoexo_tools.layout import write_atomic
from egoexo_tools.parsing.json_text import REPEATED, check_text, kind_of, parse_json
from egoexo_tools.parsing.lenient import (
    finite_number,
    flag,
    is_text,
    posix_path,
    printable,
    read_bytes,
)
from egoexo_tools.release.relations import BrokenRelations, list_elements
from egoexo_tools.vocab import FPS, Split, View, view_of


@dataclass(frozen=True)
class ShippedTake:
    """The entry of a take in takes.json."""

    take_uid: str
    take_name: str
    scenario: str | None
    university: str | None
    duration_seconds: float | None
    is_dropped: bool
    cameras: frozenset[str]
    """As relations files name them, `aria01_214-1` and `cam01`; empty where the entry has none."""
    text: bytes = field(repr=False, compare=False)
    """The entry as shipped."""
    task: str | None = None
    """The activity, more specific than the scenario."""
    capture_uid: str | None = None
    """The recording session."""
    participant_uid: str | None = None
    """The person who wears the camera."""

    @property
    def frames(self) -> int | None:
        """Length of its videos, None where the duration is unknown."""
        return None if self.duration_seconds is None else round(self.duration_seconds * FPS)


def read_takes(path: Path) -> tuple[list[ShippedTake], list[tuple[str | None, str]]]:
    """Every entry of takes.json in its order, and (take_uid, reason) of those that are unusable.

    A field with an invalid value counts as missing. Raises DataError where the file is not a list.
    """
    if not path.exists():
        raise DataError(f"{path} is missing; fetch it with `egoexo-tools download`")
    data = read_bytes(path)
    if data.strip()[:1] not in {b"[", b""}:
        raise DataError(f"{path} is not a list of takes: expected '['")
    # Entry by entry: one that cannot be read is reported, and the others are used.
    try:
        texts = list_elements(data, path)
    except BrokenRelations as error:
        raise DataError(f"{path} is not a list of takes: {error}") from error
    takes, faults = [], []
    for number, text in enumerate(texts):
        take = _parse_take(text, f"entry {number} of takes.json")
        if isinstance(take, ShippedTake):
            takes.append(take)
        else:
            faults.append(take)
    return takes, faults


def write_takes(path: Path, entries: Iterable[bytes]) -> None:
    """Write a takes.json from the `text` of each ShippedTake."""
    write_atomic(path, b"[\n" + b",\n".join(entries) + b"\n]\n")


def read_split_file(path: Path) -> tuple[dict[str, list[Split]], list[str]]:
    """take_uid → its splits in the file's order (more than one is an error of the file); and
    descriptions of the entries that cannot be used.

    Reads both forms: split.json (`{"train": [take_uid], ...}`) and the release's splits.json,
    which has the same under `split_to_take_uids`. Raises DataError for a file of another form.
    """
    content: Any = read_json(path)
    content = content.get("split_to_take_uids", content)
    # Names are compared in lower case without spaces: people write `Train` and `VAL `.
    lists: dict[str, Any] = {}
    for key, take_uids in content.items() if isinstance(content, Mapping) else ():
        name = plain if (plain := key.strip().lower()) in set(Split) else key
        lists[name] = REPEATED if name in lists else take_uids
    if not set(lists) & set(Split):
        raise DataError(f'{path} is not a split file: it must hold {{"train": [take_uid], ...}}')
    splits_of: dict[str, list[Split]] = {}
    faults = [
        f"{path.name}: {printable(name)!r:.40} is not a split, so its takes are in none"
        for name, take_uids in lists.items()
        if name not in set(Split) and isinstance(take_uids, list) and take_uids
    ]
    # By split, not by key: the order of the takes must not depend on the order of the keys.
    for split in Split:
        take_uids = lists.get(split)
        if take_uids is None:
            continue
        if not isinstance(take_uids, list):
            raise DataError(
                f"{path}: {split} must be a list of take_uids, not {kind_of(take_uids)}"
            )
        for uid in take_uids:
            if not isinstance(uid, str) or not uid.strip():
                faults.append(f"{path.name}: {uid!r:.40} in {split} is not a take_uid")
        for take_uid in dict.fromkeys(uid.strip() for uid in take_uids if isinstance(uid, str)):
            if take_uid:
                splits_of.setdefault(take_uid, []).append(split)
    return splits_of, faults


def _parse_take(text: bytes, entry_name: str) -> ShippedTake | tuple[str | None, str]:
    """A take, or (its take_uid or None, the reason why the entry cannot be used)."""
    try:
        entry, text = _decode_entry(text)
    except (DataError, ValueError, RecursionError) as error:
        return None, f"{entry_name} cannot be read ({error})"
    take_uid = entry.get("take_uid") if isinstance(entry, dict) else None
    if not isinstance(take_uid, str) or not take_uid or not is_text(take_uid):
        return None, f"{entry_name} has no take_uid"
    take_name = entry.get("take_name")
    if not isinstance(take_name, str) or not take_name or not is_text(take_name):
        problem = repr(take_name) if take_name is REPEATED else "no take_name"
        return take_uid, f"{entry_name} has {problem}"
    # null and a missing value mean that the take is not dropped.
    is_dropped = flag(entry.get("is_dropped") or False)
    if is_dropped is None:
        value = entry["is_dropped"]
        return take_uid, f"{entry_name}: is_dropped is {value!r:.40}, not true or false"
    seconds = finite_number(entry.get("duration_sec"))
    return ShippedTake(
        take_uid=take_uid,
        take_name=take_name,
        scenario=_name(entry.get("parent_task_name")),
        university=_name(entry.get("university_id")) or _name(entry.get("university_name")),
        duration_seconds=seconds if seconds is not None and seconds >= 0 else None,
        is_dropped=is_dropped,
        cameras=frozenset(_camera_names(entry.get("frame_aligned_videos"))),
        text=text,
        task=_name(entry.get("task_name")),
        capture_uid=_uid(entry.get("capture_uid"), entry.get("capture")),
        participant_uid=_uid(entry.get("participant_uid")),
    )


def _decode_entry(text: bytes) -> tuple[Any, bytes]:
    """An entry and its text, in which values that are not JSON (Python writes NaN) become null."""
    try:
        if not check_text(text):
            return msgspec.json.decode(text), text
    except msgspec.DecodeError:
        entry = parse_json(text)
        return entry, msgspec.json.encode(_json_value(entry))
    return parse_json(text), text


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_value(part) for part in value]
    if isinstance(value, str):
        return printable(value)
    return None if value is REPEATED or (isinstance(value, float) and value != value) else value


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value and is_text(value) else None


def _uid(value: Any, parent: Any = None) -> str | None:
    """An id as text: `value`, or the `capture_uid` of `parent`; None where neither is an id."""
    if value is None and isinstance(parent, Mapping):
        value = parent.get("capture_uid")
    return str(value) if isinstance(value, str | int) and str(value) else None


def _camera_names(videos: Any) -> Iterable[str]:
    """The names that relations files use for the cameras of `frame_aligned_videos`.

    An ego camera is the file name of a stream: `aria01_214-1` for ["aria01"]["rgb"]. An exo camera
    is a key: `cam01`.
    """
    for name, streams in videos.items() if isinstance(videos, Mapping) else ():
        if view_of(name) is View.EXO:
            yield name
        for stream in streams.values() if isinstance(streams, Mapping) else ():
            path = stream.get("relative_path") if isinstance(stream, Mapping) else None
            if isinstance(path, str):
                yield posix_path(path).stem
