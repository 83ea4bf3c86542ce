"""Reads takes.json, the only truth about which takes exist, and the files that split them.

Both come from outside. An entry is kept as the bytes that were shipped, so that a filtered
takes.json holds it untouched; the few fields that the toolkit uses are read beside it.
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
    """What takes.json says about a take."""

    take_uid: str
    take_name: str
    scenario: str | None
    university: str | None
    duration_seconds: float | None
    is_dropped: bool
    cameras: frozenset[str]
    """As relations name them, `aria01_214-1` and `cam01`; empty where the entry does not say."""
    text: bytes = field(repr=False, compare=False)
    """The entry as shipped."""
    task: str | None = None
    """What is done, within the scenario."""
    capture_uid: str | None = None
    """The recording session, where the entry names it."""
    participant_uid: str | None = None
    """Who wears the camera, where the entry says so."""

    @property
    def frames(self) -> int | None:
        """Length of its videos, where it is known."""
        return None if self.duration_seconds is None else round(self.duration_seconds * FPS)


def read_takes(path: Path) -> tuple[list[ShippedTake], list[tuple[str | None, str]]]:
    """Every entry of takes.json in its order; and (take_uid, why) of those that are none.

    A field that makes no sense counts as not given. Raises DataError where the file is no list.
    """
    if not path.exists():
        raise DataError(f"{path} is missing; fetch it with `egoexo-tools download`")
    data = read_bytes(path)
    if data.strip()[:1] not in {b"[", b""}:
        raise DataError(f"{path} is no list of takes: it begins with another sign than [")
    try:
        texts = list_elements(data, path)
    except BrokenRelations as error:
        raise DataError(f"{path} is no list of takes: {error}") from error
    takes, faults = [], []
    for number, text in enumerate(texts):
        found = _take(text, number)
        if isinstance(found, ShippedTake):
            takes.append(found)
        else:
            faults.append(found)
    return takes, faults


def write_takes(path: Path, entries: Iterable[bytes]) -> None:
    """Write a takes.json of entries as `ShippedTake.text` holds them."""
    write_atomic(path, b"[\n" + b",\n".join(entries) + b"\n]\n")


def read_split_file(path: Path) -> tuple[dict[str, list[Split]], list[str]]:
    """take_uid → its splits (more than one is a fault of the file), in the file's order; and
    what the file holds that is no take_uid.

    Reads both forms: split.json (`{"train": [take_uid], ...}`) and the release's splits.json,
    which has the same under `split_to_take_uids`.
    """
    content: Any = read_json(path)
    lists = _split_lists(content.get("split_to_take_uids", content))
    if not set(lists) & set(Split):
        raise DataError(f'{path} is no split file: it must hold {{"train": [take_uid], ...}}')
    found: dict[str, list[Split]] = {}
    faults = [
        f"{path.name}: {printable(name)!r:.40} is no split, and its takes are in none"
        for name, take_uids in lists.items()
        if name not in set(Split) and isinstance(take_uids, list) and take_uids
    ]
    for split in Split:
        take_uids = lists.get(split, [])
        if take_uids is None:
            continue
        if not isinstance(take_uids, list):
            raise DataError(
                f"{path}: {split} must be a list of take_uids, not {kind_of(take_uids)}"
            )
        wrong = [uid for uid in take_uids if not isinstance(uid, str) or not uid.strip()]
        faults += [f"{path.name}: {uid!r:.40} in {split} is no take_uid" for uid in wrong]
        for take_uid in dict.fromkeys(uid.strip() for uid in take_uids if isinstance(uid, str)):
            if take_uid:
                found.setdefault(take_uid, []).append(split)
    return found, faults


def _split_lists(value: Any) -> dict[str, Any]:
    """Name → take_uids, the names as ours: `Train` and `VAL ` are what they look like."""
    found: dict[str, Any] = {}
    for name, take_uids in value.items() if isinstance(value, Mapping) else ():
        plain = name.strip().lower()
        known = plain if plain in set(Split) else name
        found[known] = REPEATED if known in found else take_uids
    return found


def _take(text: bytes, number: int) -> ShippedTake | tuple[str | None, str]:
    """An entry, or (its take_uid where it has one, why it cannot be used)."""
    where = f"entry {number} of takes.json"
    try:
        entry, text = _decoded(text)
    except (DataError, ValueError, RecursionError) as error:
        return None, f"{where} cannot be read ({error})"
    take_uid = entry.get("take_uid") if isinstance(entry, dict) else None
    if not isinstance(take_uid, str) or not take_uid or not is_text(take_uid):
        return None, f"{where} has no take_uid"
    take_name = entry.get("take_name")
    if not isinstance(take_name, str) or not take_name or not is_text(take_name):
        why = repr(take_name) if take_name is REPEATED else "no take_name"
        return take_uid, f"{where} has {why}"
    dropped = flag(entry.get("is_dropped") or False)
    if dropped is None:
        return take_uid, f"{where}: is_dropped is {entry['is_dropped']!r:.40}, not true or false"
    seconds = finite_number(entry.get("duration_sec"))
    return ShippedTake(
        take_uid=take_uid,
        take_name=take_name,
        scenario=_name(entry.get("parent_task_name")),
        university=_name(entry.get("university_id")) or _name(entry.get("university_name")),
        duration_seconds=seconds if seconds is not None and seconds >= 0 else None,
        is_dropped=dropped,
        cameras=frozenset(_cameras(entry.get("frame_aligned_videos"))),
        text=text,
        task=_name(entry.get("task_name")),
        capture_uid=_uid(entry.get("capture_uid"), entry.get("capture")),
        participant_uid=_uid(entry.get("participant_uid")),
    )


def _decoded(text: bytes) -> tuple[Any, bytes]:
    """An entry and its text; what is no JSON (NaN, which Python writes) becomes null in it."""
    try:
        if not check_text(text):
            return msgspec.json.decode(text), text
    except msgspec.DecodeError:
        entry = parse_json(text)
        return entry, msgspec.json.encode(_plain(entry))
    return parse_json(text), text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, str):
        return printable(value)
    return None if value is REPEATED or (isinstance(value, float) and value != value) else value


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value and is_text(value) else None


def _uid(value: Any, parent: Any = None) -> str | None:
    """An id as text, itself or `capture_uid` of the object around it; None where there is none."""
    if value is None and isinstance(parent, Mapping):
        value = parent.get("capture_uid")
    return str(value) if isinstance(value, str | int) and str(value) else None


def _cameras(videos: Any) -> Iterable[str]:
    """Relations' `aria01_214-1` is the file name of ["aria01"]["rgb"], `cam01` is ["cam01"]."""
    if not isinstance(videos, Mapping):
        return
    for name, streams in videos.items():
        if view_of(name) is View.EXO:
            yield name
        for stream in streams.values() if isinstance(streams, Mapping) else ():
            path = stream.get("relative_path") if isinstance(stream, Mapping) else None
            if isinstance(path, str):
                yield posix_path(path).stem
