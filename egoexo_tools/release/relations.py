"""Reads relations_<split>.json take by take, without holding the file's objects in memory.

A relations file is one JSON object whose `annotations` hold a take each, up to 2 GB in all. A
compiled scanner walks the memory-mapped bytes once and says where each take's value begins and
ends; msgspec then decodes one such slice at a time, in whichever process wants it. Pages of the
mapping belong to the operating system's cache, so memory stays at the size of one take.

The file is untrusted: where it is cut off or is no JSON, iteration yields the takes before that
place and then raises BrokenRelations, which names the place and the take that was cut. A take of
an unusual shape is read once more by `take_relations`, value by value.
"""

import codecs
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
"""Bytes below this one are JSON's white space, or control characters that msgspec refuses."""


class BrokenRelations(DataError):
    """A relations file that ends too early or is no JSON; `take_uid` is the take that it cuts."""

    def __init__(self, message: str, take_uid: str | None) -> None:
        super().__init__(message)
        self.take_uid = take_uid


@dataclass(frozen=True)
class TakeSlice:
    """Where one take lies in a relations file."""

    take_uid: str
    path: Path
    start: int
    """Of its value, in bytes from the start of the file."""
    end: int

    def read(self) -> TakeRelations:
        """Decode the take; DataError where it is no JSON of the known shape."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return self.decode(file.read(self.end - self.start))

    def decode(self, text: bytes | memoryview) -> TakeRelations:
        return decode_take(bytes(text), self.path.name, self.take_uid)


def index_takes(path: Path, *, digests: dict[TakeSlice, str] | None = None) -> Iterator[TakeSlice]:
    """The slice of each take in file order, a repeated take_uid as often as it occurs.

    Give `digests` to have a hash of each slice's bytes put into it. Raises DataError where the
    file is missing or empty, and BrokenRelations after the last whole take.
    """
    with mapped(path) as data:
        scanner = _Scanner(data, path)
        found = False
        for key in scanner.members():
            if key != "annotations":
                scanner.skip_value()
                continue
            found = True
            for take_uid in scanner.members():
                scanner.take_uid = take_uid
                start = scanner.position
                scanner.skip_value()
                take = TakeSlice(take_uid, path, start, scanner.position)
                # Now, while the pages are in memory: a second pass would read 2 GB again.
                if digests is not None:
                    digests[take] = sha256(data[start : take.end]).hexdigest()[:16]
                scanner.take_uid = None
                yield take
    if not found:
        raise BrokenRelations(f"{path} holds no annotations; it is no relations file", None)


def read_relations(path: Path) -> Iterator[tuple[str, TakeRelations]]:
    """(take_uid, take) in file order; raises as `index_takes` and `TakeSlice.read` do."""
    takes = index_takes(path)
    with mapped(path) as data, ThreadPoolExecutor(1) as pool:
        # Compiled code needs no GIL: a second core looks for the next take meanwhile.
        ahead = pool.submit(next, takes, None)
        while (take := ahead.result()) is not None:
            ahead = pool.submit(next, takes, None)
            yield take.take_uid, take.decode(data[take.start : take.end])


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, mapped into memory; DataError where it is missing or empty."""
    try:
        with path.open("rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; fetch it with `egoexo-tools download`") from None
    except ValueError:
        raise BrokenRelations(f"{path} is empty; download it again", None) from None
    # Not closed by hand: slices that are still in use keep the mapping alive, then it goes.
    yield memoryview(whole)


def list_elements(data: bytes, path: Path) -> list[bytes]:
    """The values of a JSON list as they stand in its text; BrokenRelations where it is none."""
    return [data[start:end] for start, end in _Scanner(memoryview(data), path).elements()]


class _Scanner:
    """A position in JSON text, moved over whole keys and values."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.bytes = np.frombuffer(data, np.uint8)
        # The same bytes eight at a time, for the long strings; the tail is left to `bytes`.
        self.words = self.bytes[: self.bytes.size // 8 * 8].view(np.uint64)
        head = bytes(data[:3])
        self.position = len(codecs.BOM_UTF8) if head == codecs.BOM_UTF8 else 0
        self.take_uid: str | None = None
        self._path = path
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{path} is UTF-16, as some editors save it; save it as UTF-8")

    def members(self) -> Iterator[str]:
        """The keys of the object that starts here; the caller moves over each value."""
        self._expect(_OPEN)
        separator = _OPEN
        while True:
            if separator == _OPEN and self._next() == _CLOSE:
                self.position += 1
                return
            start = self._expect(_QUOTE) - 1
            self.position = start
            self.skip_value()
            key = self._text(start, self.position)
            self._expect(_COLON)
            self._next()
            yield key
            separator = self._next()
            if separator not in (_COMMA, _CLOSE):
                raise self._broken()
            self.position += 1
            if separator == _CLOSE:
                return

    def elements(self) -> Iterator[tuple[int, int]]:
        """Where each value of the list that starts here begins and ends."""
        self._expect(_OPEN_LIST)
        separator = _OPEN_LIST
        while True:
            if separator == _OPEN_LIST and self._next() == _CLOSE_LIST:
                return
            self._next()
            start = self.position
            self.skip_value()
            yield start, self.position
            separator = self._next()
            if separator not in (_COMMA, _CLOSE_LIST):
                raise self._broken()
            self.position += 1
            if separator == _CLOSE_LIST:
                return

    def skip_value(self) -> None:
        """Move behind the value that starts here."""
        end = _value_end(self.bytes, self.words, self.position)
        if end <= self.position:
            self.position = self.bytes.size if end < 0 else end
            raise self._broken()
        self.position = end

    def _next(self) -> int:
        """The next byte that is no white space."""
        while self.position < self.bytes.size:
            value = int(self.bytes[self.position])
            if value >= _BELOW_SPACE:
                return value
            self.position += 1
        raise self._broken()

    def _expect(self, value: int) -> int:
        """Move over this byte; returns the position behind it."""
        if self._next() != value:
            raise self._broken()
        self.position += 1
        return self.position

    def _text(self, start: int, end: int) -> str:
        try:
            return msgspec.json.decode(self.bytes[start:end].tobytes(), type=str)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise self._broken() from None

    def _broken(self) -> BrokenRelations:
        place = f"at byte {self.position:,} of {self.bytes.size:,}"
        where = f" inside take {self.take_uid}" if self.take_uid else ""
        what = "is cut off" if self.position >= self.bytes.size else "is no valid JSON"
        return BrokenRelations(
            f"{self._path.name} {what}{where} ({place}); download it again", self.take_uid
        )


# Not a parser: msgspec checks each value when it decodes it, so that finding the takes is as fast
# as the bytes come.
@compiled
def _value_end(data: Bytes, words: UInt64, position: int) -> int:
    """The position behind the JSON value at `position`; -1 where the data ends before it does.

    Only brackets and strings are looked at, the values inside are msgspec's to check.
    """
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
