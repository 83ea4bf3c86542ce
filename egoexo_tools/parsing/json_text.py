"""Checks of JSON text that come before parsing: repeated keys, nesting depth, memory.

Parsers keep the last of two values under one key without a word. Here equal values count once and
different values become REPEATED, which no reader accepts as data, so that the error names the item.
The memory of a parsed value is estimated from its text: `[],[],[]` takes thirty times the room that
it takes on disk.

Why a scanner of our own: msgspec neither reports repeated keys nor limits memory; json's
`object_pairs_hook` and ijson see every key, but take five to ten times as long as msgspec, and
relations files have 700 MB. This scan reads 0.2 GB (many short keys) to 2 GB (long strings) per
second and allocates eight bytes per key. It is not a parser: for text that is not JSON its result
means nothing.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from egoexo_tools.arrays import Bytes, Int64, UInt64
from egoexo_tools.compiled import compiled
from egoexo_tools.disk import size_text
from egoexo_tools.errors import DataError

MOST_PARSED_BYTES = 500_000_000
"""Limit for the Python objects that one piece of JSON becomes."""
_SCAN_FROM_BYTES = 1 << 20
"""Shorter texts cannot reach the limit."""
_MOST_DEPTH = 1024
"""Limit for lists and objects inside each other; Python's parser stops at 1,000 to 10,000, which
depends on its version."""
_OBJECT_BYTES, _ENTRIES_BYTES, _LIST_BYTES, _VALUE_BYTES, _PLACE_BYTES = 70, 160, 64, 60, 12
"""CPython's average memory for an object, its table of entries, a list, a value, and a value's
place in a list. The text of strings comes on top."""
_QUOTE, _BACKSLASH, _COMMA, _COLON, _OPEN, _CLOSE = b'"\\,:{}'
_OPEN_LIST, _CLOSE_LIST = b"[]"
_QUOTES, _BACKSLASHES = 0x2222222222222222, 0x5C5C5C5C5C5C5C5C
_ONES, _HIGH_BITS = 0x0101010101010101, 0x8080808080808080
_FNV_START, _FNV_PRIME = 14695981039346656037, 1099511628211


class Repeated:
    """Stands for two different values under one key."""

    def __repr__(self) -> str:
        return "two different values under one key"


REPEATED = Repeated()


def kind_of(value: Any) -> str:
    """Describes a value of the wrong type for a message."""
    if value is None or value is REPEATED:
        return "null" if value is None else repr(value)
    return f"a {type(value).__name__}"


def parse_json(text: bytes) -> Any:
    """The value of JSON text (UTF-8). NaN and infinity are accepted, since Python writes them.

    Raises ValueError or RecursionError for text that is not JSON, and DataError where the value
    would take more than MOST_PARSED_BYTES.
    """
    # A callback per object takes half as long again, which does not matter for a small file.
    hook = _unique_keys if len(text) < _SCAN_FROM_BYTES or check_text(text) else None
    try:
        return json.loads(text, object_pairs_hook=hook)
    except ValueError as error:
        # Python refuses integers of thousands of digits with a plain ValueError, as for text that
        # is not JSON; only the message differs.
        if "integer string conversion" not in str(error):
            raise
        # Such numbers are above every limit anyway.
        return json.loads(
            text,
            object_pairs_hook=hook,
            parse_int=lambda digits: int(digits) if len(digits) < 1000 else float(digits),
        )


def check_text(text: bytes | memoryview) -> bool:
    """Whether an object seems to have a key twice.

    A False is certain; a True may also come from an escape in a key, and parse_json decides.
    Raises DataError for text that is nested too deep or would take more than MOST_PARSED_BYTES.
    """
    is_repeated, size = _scan_text(text)
    if size > MOST_PARSED_BYTES:
        raise DataError(
            f"it would take {size_text(size)} of memory; at most {size_text(MOST_PARSED_BYTES)} "
            "are read in one piece"
        )
    return is_repeated


def has_repeated_keys(text: bytes) -> bool:
    """`check_text` without the limit of memory, for text that is parsed piece by piece."""
    return _scan_text(text)[0]


def list_items(text: bytes) -> Iterator[bytes]:
    """The text of each value of a JSON list, unparsed, so that one is in memory at a time.

    Raises ValueError where the text is not a list.
    """
    ends = _find_items(*_bytes_and_words(text))
    if not ends.size or ends[-1] < 0:
        raise ValueError("it is not a JSON list, is cut off, or has more text behind the list")
    start = int(ends[0])
    for end in map(int, ends[1:]):  # not tolist(): it would make millions of numbers at once
        yield text[start:end]
        start = end + 1


def _scan_text(text: bytes | memoryview) -> tuple[bool, int]:
    """Whether a key seems to come twice, and the estimated bytes of the parsed value."""
    has_escape, size, keys = _scan(*_bytes_and_words(text))
    if size < 0:
        raise DataError(f"it holds lists or objects nested more than {_MOST_DEPTH:,} deep")
    keys.sort()  # in place: a copy could take hundreds of megabytes
    return bool(has_escape or (keys[1:] == keys[:-1]).any()), int(size)


def _bytes_and_words(text: bytes | memoryview) -> tuple[Bytes, UInt64]:
    """The text as bytes, and the same memory as words of eight bytes."""
    data = np.frombuffer(text, np.uint8)
    return data, data[: data.size // 8 * 8].view(np.uint64)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        # The type counts: 1 == True in Python, not in JSON.
        if key in members and (type(members[key]) is not type(value) or members[key] != value):
            value = REPEATED
        members[key] = value
    return members


@compiled
def _scan(data: Bytes, words: UInt64) -> tuple[bool, int, UInt64]:
    """Whether a key holds an escape, bytes of the parsed value, and a hash per key and object.

    Equal hashes mean: probably one key twice in one object. A chance collision only leads to the
    slower parser. -1 bytes where the text is nested too deep: the rest was not scanned.
    """
    object_idxs = np.zeros(_MOST_DEPTH, np.int64)  # of the open objects; 0 for a list
    keys = np.zeros(64, np.uint64)
    objects, count, depth, position, size = 0, 0, 0, 0, 0
    wants_key, is_first_key, in_word, has_escape = False, False, False, False
    while position < data.size:
        byte = data[position]
        if byte == _QUOTE:
            end = string_end(data, words, position + 1)
            if end < 0:
                break
            size += _VALUE_BYTES + end - position
            if wants_key:
                # FNV-1a, from a start that differs by object.
                key = (np.uint64(_FNV_START) ^ np.uint64(object_idxs[depth - 1])) * np.uint64(
                    _FNV_PRIME
                )
                for place in range(position + 1, end - 1):
                    # "\u0061" is "a": only the parser can compare such keys.
                    has_escape |= data[place] == _BACKSLASH
                    key = (key ^ np.uint64(data[place])) * np.uint64(_FNV_PRIME)
                if count == keys.size:
                    more = np.zeros(2 * count, np.uint64)
                    more[:count] = keys
                    keys = more
                keys[count] = key
                count += 1
                if is_first_key:  # an empty object has no table of entries
                    size += _ENTRIES_BYTES
                wants_key, is_first_key = False, False
            position, in_word = end, False
            continue
        if byte in (_OPEN, _OPEN_LIST):
            if depth == _MOST_DEPTH:
                return has_escape, -1, keys[:count]
            objects += byte == _OPEN
            object_idxs[depth] = objects if byte == _OPEN else 0
            depth += 1
            wants_key, is_first_key, in_word = byte == _OPEN, byte == _OPEN, False
            size += _OBJECT_BYTES if byte == _OPEN else _LIST_BYTES
        elif byte in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                break
            depth -= 1
            wants_key, is_first_key, in_word = False, False, False
        elif byte == _COMMA:
            wants_key, in_word = depth > 0 and object_idxs[depth - 1] > 0, False
            size += _PLACE_BYTES
        elif byte <= 32 or byte == _COLON:
            in_word = False
        elif not in_word:  # a number, or true, false or null
            in_word = True
            size += _VALUE_BYTES // 2
        position += 1
    return has_escape, size, keys[:count]


@compiled
def _find_items(data: Bytes, words: UInt64) -> Int64:
    """Where the first value of a list begins, and where each value ends; a last -1: not a list."""
    ends = np.zeros(64, np.int64)
    count, depth, position, is_empty = 0, 0, 0, True
    while position < data.size:
        byte = data[position]
        if depth == 0 and byte > 32 and byte != _OPEN_LIST:
            break
        if depth == 1 and byte in (_COMMA, _CLOSE_LIST):
            if count == ends.size:
                more = np.zeros(2 * count, np.int64)
                more[:count] = ends
                ends = more
            ends[count] = position
            count += not is_empty or byte == _COMMA
            is_empty = True
        elif depth and byte > 32:
            is_empty = False
        if byte == _QUOTE:
            position = string_end(data, words, position + 1)
            if position < 0:
                break
            continue
        if byte in (_OPEN, _OPEN_LIST):
            depth += 1
            if count == 0 and depth == 1:
                ends[0], count = position + 1, 1
        elif byte in (_CLOSE, _CLOSE_LIST):
            depth -= 1
            if depth == 0:
                if (data[position + 1 :] > 32).any():  # a second value behind the list
                    break
                return ends[:count]
        position += 1
    return np.full(1, -1, np.int64)


@compiled
def string_end(data: Bytes, words: UInt64, position: int) -> int:
    """The position behind the closing quote of a string whose content starts at `position`.

    `words` are the same bytes eight at a time, to skip long strings. -1 without one.
    """
    while position < data.size:
        if position & 7 == 0:
            # Whole words without a quote or a backslash: (w - 1s) & ~w & 80s is zero exactly where
            # no byte of w is zero.
            word = position >> 3
            while word < words.size:
                quotes = words[word] ^ np.uint64(_QUOTES)
                slashes = words[word] ^ np.uint64(_BACKSLASHES)
                zero_bytes = (quotes - np.uint64(_ONES)) & ~quotes
                zero_bytes |= (slashes - np.uint64(_ONES)) & ~slashes
                if zero_bytes & np.uint64(_HIGH_BITS):
                    break
                word += 1
            position = word << 3
            if position >= data.size:
                return -1
        byte = data[position]
        if byte == _QUOTE:
            return position + 1
        position += 2 if byte == _BACKSLASH else 1
    return -1
