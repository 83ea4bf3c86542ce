"""JSON from outside, looked over before it is parsed: keys that come twice, and memory.

A parser keeps the last of two values under one key and says nothing. Here two equal values count
once, and two different ones become REPEATED, which no reader takes for data, so that what they
belong to is named. A value's size in memory is estimated first: `[],[],[]` takes thirty times the
room that it has on disk.
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
"""Of Python objects that one piece of JSON may become."""
_SURVEY_FROM = 1 << 20
"""Bytes below which nothing can take that much."""
_QUOTE, _BACKSLASH, _COMMA, _COLON, _OPEN, _CLOSE = b'"\\,:{}'
_OPEN_LIST, _CLOSE_LIST = b"[]"
_QUOTES, _BACKSLASHES = 0x2222222222222222, 0x5C5C5C5C5C5C5C5C
_ONES, _HIGH_BITS = 0x0101010101010101, 0x8080808080808080
_DEEPEST = 1024
"""Lists and objects in each other; Python's parser gives up at 1,000 to 10,000, by its version."""
_OBJECT_BYTES, _ENTRIES_BYTES, _LIST_BYTES, _VALUE_BYTES, _PLACE_BYTES = 70, 160, 64, 60, 12
"""What CPython takes for each, on average; the text of strings comes on top."""


class Repeated:
    """Stands for two different values under one key."""

    def __repr__(self) -> str:
        return "two different values under one key"


REPEATED = Repeated()


def kind_of(value: Any) -> str:
    """What a value of the wrong kind is, in words."""
    if value is None or value is REPEATED:
        return "null" if value is None else repr(value)
    return f"a {type(value).__name__}"


def parse_json(text: bytes) -> Any:
    """The value of JSON text (UTF-8); NaN and infinity, which Python writes, are let through.

    Raises ValueError or RecursionError for what is no JSON, DataError for what takes too much
    memory.
    """
    # Calling back for every object costs half as much again, which a small file does not feel.
    pairs = _unique if len(text) < _SURVEY_FROM or check_text(text) else None
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        # A plain ValueError, as of broken JSON: only its words tell it apart.
        if "integer string conversion" not in str(error):
            raise
        return json.loads(text, object_pairs_hook=pairs, parse_int=_whole)


def check_text(text: bytes | memoryview) -> bool:
    """Whether some key seems to come twice in an object; DataError for one too large or deep.

    No parser: of text that is no JSON it says nothing that counts.
    """
    is_repeated, size = _surveyed(text)
    if size > MOST_PARSED_BYTES:
        raise DataError(
            f"it would take {size_text(size)} of memory; at most {size_text(MOST_PARSED_BYTES)} "
            "are read in one piece"
        )
    return is_repeated


def has_repeated_keys(text: bytes) -> bool:
    """The same of text of any size, which is parsed in pieces later; DataError where too deep."""
    return _surveyed(text)[0]


def list_items(text: bytes) -> Iterator[bytes]:
    """The text of each value of a JSON list, so that only one of them is parsed at a time.

    Raises ValueError where the text is no list; the values are the caller's to parse.
    """
    data = np.frombuffer(text, np.uint8)
    ends = _items(data, data[: data.size // 8 * 8].view(np.uint64))
    if not ends.size or ends[-1] < 0:
        raise ValueError("it is no JSON list, is cut off, or more follows behind it")
    start = int(ends[0])
    for end in map(int, ends[1:]):  # not tolist(): millions of numbers at once
        yield text[start:end]
        start = end + 1


def _surveyed(text: bytes | memoryview) -> tuple[bool, int]:
    data = np.frombuffer(text, np.uint8)
    is_repeated, size = _survey(data, data[: data.size // 8 * 8].view(np.uint64))
    if size < 0:
        raise DataError(f"it holds lists or objects nested more than {_DEEPEST:,} deep")
    return bool(is_repeated), int(size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = REPEATED if key in found and not _same(found[key], value) else value
    return found


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _whole(text: str) -> int | float:
    """Numbers of thousands of digits, which Python refuses, are above every limit anyway."""
    return int(text) if len(text) < 1000 else float(text)


@compiled
def _survey(data: Bytes, words: UInt64) -> tuple[bool, int]:
    """Whether a key comes twice (also where escapes hide that), and bytes of the parsed value.

    -1 bytes where it is nested too deep: what follows was not looked at.
    """
    is_object = np.zeros(_DEEPEST, np.bool_)
    first_key = np.zeros(_DEEPEST, np.int64)
    keys = np.zeros(64, np.uint64)
    count, depth, position, size = 0, 0, 0, 0
    wants_key, in_word, is_repeated = False, False, False
    while position < data.size:
        byte = data[position]
        if byte == _QUOTE:
            end = string_end(data, words, position + 1)
            if end < 0:
                break
            size += _VALUE_BYTES + end - position
            if wants_key:
                wants_key = False
                # FNV-1a: two keys that come to the same only cost a slower parser.
                mixed = np.uint64(14695981039346656037)
                for place in range(position + 1, end - 1):
                    # "\u0061" is "a": the parser will tell.
                    is_repeated |= data[place] == _BACKSLASH
                    mixed = (mixed ^ np.uint64(data[place])) * np.uint64(1099511628211)
                # An object has its table of entries from its first key on.
                if count == first_key[depth - 1]:
                    size += _ENTRIES_BYTES
                if count == keys.size:
                    more = np.zeros(2 * count, np.uint64)
                    more[:count] = keys
                    keys = more
                keys[count] = mixed
                count += 1
            position, in_word = end, False
            continue
        if byte in (_OPEN, _OPEN_LIST):
            if depth == _DEEPEST:
                return is_repeated, -1
            is_object[depth], first_key[depth] = byte == _OPEN, count
            depth += 1
            wants_key, in_word = byte == _OPEN, False
            size += _OBJECT_BYTES if byte == _OPEN else _LIST_BYTES
        elif byte in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                break
            depth -= 1
            if is_object[depth]:
                is_repeated |= _is_twice(keys[first_key[depth] : count])
                count = first_key[depth]
            wants_key, in_word = False, False
        elif byte == _COMMA:
            wants_key, in_word = depth > 0 and is_object[depth - 1], False
            size += _PLACE_BYTES
        elif byte <= 32 or byte == _COLON:
            in_word = False
        elif not in_word:  # a number, or true, false and null
            in_word = True
            size += _VALUE_BYTES // 2
        position += 1
    return is_repeated, size


@compiled
def _items(data: Bytes, words: UInt64) -> Int64:
    """Where the first value of a list begins, and where each ends; a last -1: no list."""
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
                if (data[position + 1 :] > 32).any():  # a second list behind the first
                    break
                return ends[:count]
        position += 1
    return np.full(1, -1, np.int64)


@compiled
def _is_twice(keys: UInt64) -> bool:
    if keys.size < 2:
        return False
    # Shell's sort in place: they are not needed any more, and numpy's takes seconds to compile.
    step = keys.size // 2
    while step:
        for place in range(step, keys.size):
            key, before = keys[place], place
            while before >= step and keys[before - step] > key:
                keys[before] = keys[before - step]
                before -= step
            keys[before] = key
        step //= 2
    return bool((keys[1:] == keys[:-1]).any())


@compiled
def string_end(data: Bytes, words: UInt64, position: int) -> int:
    """The position behind the closing quote of a string whose content starts at `position`.

    `words` are the same bytes eight at a time, for the long strings. -1: there is no quote.
    """
    while position < data.size:
        if position & 7 == 0:
            # Whole words that hold no quote and no backslash: (w - 1s) & ~w & 80s is zero
            # exactly where no byte of w is zero.
            word = position >> 3
            while word < words.size:
                quotes = words[word] ^ np.uint64(_QUOTES)
                slashes = words[word] ^ np.uint64(_BACKSLASHES)
                found = (quotes - np.uint64(_ONES)) & ~quotes
                found |= (slashes - np.uint64(_ONES)) & ~slashes
                if found & np.uint64(_HIGH_BITS):
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
