"""Reads relations_<split>.json take by take, without holding the file's objects in memory.

A relations file is one JSON object whose `annotations` hold one value per take, up to 2 GB in all.
A compiled scanner walks the memory-mapped bytes once and finds where each take's value begins and
ends; msgspec then decodes one such slice at a time, in the process that needs it. The pages of the
mapping belong to the operating system's cache, so memory use stays at the size of one take.

The file is untrusted: where it is cut off or is not JSON, iteration yields the takes before that
place and then raises BrokenRelations, which names the place and the take that contains it. A take
of an unusual shape is read again by `take_relations`, value by value.
"""

import codecs
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from egoexo_tools.arrays import Bytes, UInt64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import string_end
from egoexo_tools.release.take_relations import TakeRelations, decode_take

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE = b'",:{}'
_OPEN_LIST, _CLOSE_LIST = b"[]"
_BELOW_SPACE = 33
"""Bytes below this one are JSON's white space, or control characters that msgspec rejects."""


class BrokenRelations(DataError):
    """A relations file that is cut off or is not JSON; `take_uid` is the take with the damage."""

    def __init__(self, message: str, take_uid: str | None) -> None:
        super().__init__(message)
        self.take_uid = take_uid


@dataclass(frozen=True)
class TakeSlice:
    """The place of one take in a relations file."""

    take_uid: str
    path: Path
    start: int
    """Of its value, in bytes from the start of the file."""
    end: int
    digest: str = ""
    """Hash of the bytes of its value; empty unless `index_takes` is asked for it."""

    def read(self) -> TakeRelations:
        """Decode the take; DataError where it is not JSON of a known shape."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return self.decode(file.read(self.end - self.start))

    def decode(self, text: bytes | memoryview) -> TakeRelations:
        return decode_take(bytes(text), self.path.name, self.take_uid)


def index_takes(path: Path, *, hashed: bool = False) -> Iterator[TakeSlice]:
    """The slice of each take in file order; a repeated take_uid is yielded each time.

    `hashed` fills `TakeSlice.digest`. Raises DataError where the file is missing or empty, and
    BrokenRelations after the last complete take.
    """
    data = map_file(path)
    scanner = _Scanner(data, path)
    has_annotations = False
    for key in scanner.members():
        if key != "annotations":
            scanner.skip_value()
            continue
        has_annotations = True
        for take_uid in scanner.members():
            scanner.take_uid = take_uid
            start = scanner.position
            scanner.skip_value()
            end = scanner.position
            # Hashed now, while the pages are in memory: a second pass would read 2 GB again.
            digest = sha256(data[start:end]).hexdigest()[:16] if hashed else ""
            scanner.take_uid = None
            yield TakeSlice(take_uid, path, start, end, digest)
    if not has_annotations:
        raise BrokenRelations(f"{path} holds no annotations; it is not a relations file", None)


def map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped into memory; DataError where it is missing or empty."""
    try:
        with path.open("rb") as file:
            # Not closed explicitly: slices that are still in use keep the mapping alive.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; fetch it with `egoexo-tools download`") from None
    except ValueError:
        raise BrokenRelations(f"{path} is empty; download it again", None) from None


def list_elements(data: bytes, path: Path) -> list[bytes]:
    """The text of each value of a JSON list; BrokenRelations where the text is not a list."""
    scanner = _Scanner(memoryview(data), path)
    texts = []
    for _ in scanner.items(_OPEN_LIST, _CLOSE_LIST):
        start = scanner.position
        scanner.skip_value()
        texts.append(data[start : scanner.position])
    return texts


class _Scanner:
    """A position in JSON text, moved over whole keys and values."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.bytes = np.frombuffer(data, np.uint8)
        # The same bytes eight at a time, for the long strings; `bytes` covers the tail.
        self.words = self.bytes[: self.bytes.size // 8 * 8].view(np.uint64)
        # Editors on Windows add a byte-order mark.
        head = bytes(data[:3])
        self.position = len(codecs.BOM_UTF8) if head == codecs.BOM_UTF8 else 0
        self.take_uid: str | None = None
        self._path = path
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{path} is UTF-16, as some editors save it; save it as UTF-8")

    def members(self) -> Iterator[str]:
        """The keys of the object that starts here; the caller moves past each value."""
        for _ in self.items(_OPEN, _CLOSE):
            start = self._expect(_QUOTE) - 1
            self.position = start
            self.skip_value()
            # Decoded, because a key may contain escapes.
            try:
                key = msgspec.json.decode(self.bytes[start : self.position].tobytes(), type=str)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise self._broken() from None
            self._expect(_COLON)
            self._next()
            yield key

    def items(self, opening: int, closing: int) -> Iterator[None]:
        """Stop at each item of the object or list that starts here; the caller moves past it."""
        self._expect(opening)
        if self._next() == closing:
            self.position += 1
            return
        separator = _COMMA
        while separator == _COMMA:
            self._next()
            yield
            separator = self._next()
            if separator not in (_COMMA, closing):
                raise self._broken()
            self.position += 1

    def skip_value(self) -> None:
        """Move past the value that starts here."""
        end = _value_end(self.bytes, self.words, self.position)
        # Negative: the file ends inside the value. No progress: there is no value.
        if end <= self.position:
            self.position = self.bytes.size if end < 0 else end
            raise self._broken()
        self.position = end

    def _next(self) -> int:
        """Move to the next byte that is not white space, and return it."""
        while self.position < self.bytes.size:
            value = int(self.bytes[self.position])
            if value >= _BELOW_SPACE:
                return value
            self.position += 1
        raise self._broken()

    def _expect(self, value: int) -> int:
        """Move past this byte; returns the position after it."""
        if self._next() != value:
            raise self._broken()
        self.position += 1
        return self.position

    def _broken(self) -> BrokenRelations:
        place = f"at byte {self.position:,} of {self.bytes.size:,}"
        where = f" inside take {self.take_uid}" if self.take_uid else ""
        what = "is cut off" if self.position >= self.bytes.size else "is not valid JSON"
        return BrokenRelations(
            f"{self._path.name} {what}{where} ({place}); download it again", self.take_uid
        )


@compiled
def _value_end(data: Bytes, words: UInt64, position: int) -> int:
    """The position after the JSON value at `position`; -1 where the data ends before it does."""
    # Only brackets and strings are inspected, so this is as fast as the bytes can be read. msgspec
    # checks the value when it decodes it.
    depth = 0
    while position < data.size:
        byte = data[position]
        if byte == _QUOTE:
            position = string_end(data, words, position + 1)
            if position < 0:
                return -1
            if depth == 0:
                return position
            continue
        if byte in (_OPEN, _OPEN_LIST):
            depth += 1
        elif byte in (_CLOSE, _CLOSE_LIST):
            depth -= 1
            if depth <= 0:
                return position + (depth == 0)
        elif depth == 0 and (byte == _COMMA or byte < _BELOW_SPACE):
            return position
        position += 1
    return -1
