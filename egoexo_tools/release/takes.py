"""Reads takes.json, the only truth about which takes exist, and the files that split them.

Both come from outside. An entry is kept as the bytes that were shipped, so that a filtered
takes.json holds it untouched; the few fields that the toolkit uses are read beside it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.formats.benchmark import read_json
from egoexo_tools.layout import write_atomic
from egoexo_tools.vocab import Split, View, view_of

FPS = 30
"""Of every frame-aligned video."""


class _Entry(msgspec.Struct):
    take_uid: str
    take_name: str
    university_id: str | None = None
    university_name: str | None = None
    parent_task_name: str | None = None
    duration_sec: float | None = None
    is_dropped: bool | None = False
    frame_aligned_videos: Any = None
    task_name: Any = None
    capture_uid: Any = None
    capture: Any = None
    participant_uid: Any = None


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


def read_takes(path: Path) -> list[ShippedTake]:
    """Every entry of takes.json in its order; DataError where the file or an entry is damaged."""
    try:
        raws = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
    except FileNotFoundError:
        raise DataError(f"{path} is missing; fetch it with `egoexo-tools download`") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is no list of takes: {error}; download it again") from error
    return [_take(raw, f"{path}, entry {number}") for number, raw in enumerate(raws)]


def write_takes(path: Path, entries: Iterable[bytes]) -> None:
    """Write a takes.json of entries as `ShippedTake.text` holds them."""
    write_atomic(path, b"[\n" + b",\n".join(entries) + b"\n]\n")


def read_split_file(path: Path) -> dict[str, list[Split]]:
    """take_uid → its splits (more than one is a fault of the file), in the file's order.

    Reads both forms: split.json (`{"train": [take_uid], ...}`) and the release's splits.json,
    which has the same under `split_to_take_uids`.
    """
    content: Any = read_json(path)
    lists = content.get("split_to_take_uids", content)
    if not isinstance(lists, Mapping) or not set(lists) & set(Split):
        raise DataError(f'{path} is no split file: it must hold {{"train": [take_uid], ...}}')
    found: dict[str, list[Split]] = {}
    for split in Split:
        take_uids = lists.get(split, [])
        if not isinstance(take_uids, list) or not all(isinstance(uid, str) for uid in take_uids):
            raise DataError(f"{path}: {split} must be a list of take_uids")
        for take_uid in dict.fromkeys(take_uids):
            found.setdefault(take_uid, []).append(split)
    return found


def _take(raw: msgspec.Raw, where: str) -> ShippedTake:
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{where} is damaged: {error}; download the file again") from error
    return ShippedTake(
        take_uid=entry.take_uid,
        take_name=entry.take_name,
        scenario=entry.parent_task_name,
        university=entry.university_id or entry.university_name,
        duration_seconds=entry.duration_sec,
        is_dropped=bool(entry.is_dropped),
        cameras=frozenset(_cameras(entry.frame_aligned_videos)),
        text=bytes(raw),
        task=entry.task_name if isinstance(entry.task_name, str) else None,
        capture_uid=_uid(entry.capture_uid, entry.capture),
        participant_uid=_uid(entry.participant_uid),
    )


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
                yield PurePosixPath(path).stem
