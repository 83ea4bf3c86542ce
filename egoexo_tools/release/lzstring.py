"""LZString decompression, of the "encoded URI component" variant only.

The format, from the public LZString library (Pieroxy, MIT): 65 characters of six bits each, and
codes whose width grows with the dictionary, least significant bit first. Code 0 announces a literal
of 8 bits, code 1 a literal of 16 bits, and code 2 the end; every other code is a dictionary entry.
Each emitted entry adds one: the previous entry plus the first character of this one. The text of
that new entry is therefore already in the output, so the dictionary here is a list of
(start, length) pairs that point into the output.

Text from files is untrusted: text that the `lzstring` package cannot read raises DataError, and so
does text that unpacks to more than MAX_CHARS.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Int64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError

MAX_CHARS = 1 << 26
"""The longest output of a single text."""
MAX_CHARS_EACH, MAX_CHARS_IN_ALL = 1 << 20, 1 << 27
"""Limits for many texts. A million characters are 50 times the run lengths of a large real mask;
the largest real takes have 20 million in all. Growing the output needs three times its size."""

OK, FULL, EMPTY, CUT_OFF, BAD_CHARACTER, BAD_CODE, BAD_LITERAL = range(7)
"""Result codes of one text, described by PROBLEMS. FULL: the output buffer was too small."""
PROBLEMS = (
    "",
    "it unpacks to more characters than any mask has",
    "it is empty",
    "it is cut off",
    "it holds a character outside A-Z a-z 0-9 + - $",
    "it names a dictionary entry that does not exist",
    "it unpacks to characters that are not ASCII",
)

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
"""Byte → its six bits in the order in which they are read, or _NO_DIGIT."""
_DIGITS[np.frombuffer(_ALPHABET.encode(), np.uint8)] = [
    int(f"{value:06b}"[::-1], 2) for value in range(64)
]
_DIGITS[ord("$")] = 0  # value 64 in the library, of which only the lower six bits are read
_DIGITS[ord(" ")] = _DIGITS[ord("+")]  # "+" in a URI is often turned into a space


def decompress_from_encoded_uri_component(text: str) -> str:
    """Undo `compressToEncodedURIComponent`; DataError for text that it cannot have written."""
    data = _latin_bytes(text)
    # The text does not say how long its output is: retry with a larger buffer until it fits.
    capacity = 8 * data.size + 64
    while True:
        out = np.empty(min(capacity, MAX_CHARS), np.uint16)
        problem, length = _unpack(data, out, 0, _workspace(data.size), 0xFFFF)
        if problem != FULL or out.size == MAX_CHARS:
            break
        capacity *= 8
    if problem != OK:
        raise DataError(f"text is not LZString: {PROBLEMS[problem]}: {text[:40]!r}")
    # UTF-32, because the package keeps the two halves of a surrogate pair as two characters.
    return out[:length].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def decompress_many(texts: Sequence[str]) -> tuple[Bytes, Int64, Bytes]:
    """Unpack n texts whose content is ASCII (run lengths of masks) in one call.

    Returns the concatenated outputs as bytes, their offsets (n + 1,) and the result codes (n,); the
    output of a text with a problem is empty. Raises DataError where the outputs together are
    longer than MAX_CHARS_IN_ALL.
    """
    data = _latin_bytes("".join(texts))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths)
    offsets = np.zeros(lengths.size + 1, np.int64)
    problems = np.zeros(lengths.size, np.uint8)
    workspace = _workspace(int(lengths.max(initial=0)))
    # Masks of the synthetic release unpack to 1.8 times their characters, so this is seldom too
    # small. Where it is, unpacking continues after the last text that fitted.
    out = np.empty(2 * data.size + 64, np.uint8)
    first = 0
    while True:
        first = _unpack_many(data, ends, first, out, offsets, problems, workspace, MAX_CHARS_EACH)
        if first == lengths.size:
            return out[: offsets[-1]], offsets, problems
        if out.size >= MAX_CHARS_IN_ALL:
            raise DataError(f"{lengths.size:,} texts unpack to more than {out.size:,} characters")
        out = np.concatenate([out, np.empty(out.size, np.uint8)])


def _latin_bytes(text: str) -> Bytes:
    """One byte per character; characters without one become `?`, which is not in the alphabet."""
    return np.frombuffer(text.encode("latin-1", "replace"), np.uint8)


def _workspace(length: int) -> NDArray[Any]:
    """The dictionary of a text of `length` characters: start and length of each entry.

    A code has at least three bits and adds one entry; a literal has eleven and adds two.
    """
    return np.empty((2 * length + 8, 2), np.int32)


@compiled
def _read(
    data: Bytes, position: int, buffer: int, bits: int, width: int
) -> tuple[int, int, int, int, int]:
    """Read a value of `width` bits: (problem, value, position, buffer, bits).

    `buffer` holds the `bits` bits that are loaded but not used. One more than needed is loaded,
    because the package fetches the next character as soon as one is used up, and fails there.
    """
    while bits <= width:
        if position >= data.size:
            return CUT_OFF, 0, position, buffer, bits
        digit = _DIGITS[data[position]]
        if digit == _NO_DIGIT:
            return BAD_CHARACTER, 0, position, buffer, bits
        buffer |= int(digit) << bits
        bits += 6
        position += 1
    return OK, buffer & ((1 << width) - 1), position, buffer >> width, bits - width


@compiled
def _unpack(
    data: Bytes, out: NDArray[Any], start: int, entries: NDArray[Any], highest: int
) -> tuple[int, int]:
    """Unpack into out[start:]; returns (problem, end in `out`). Literals above `highest` fail."""
    if data.size == 0:
        return EMPTY, start
    position = buffer = bits = 0
    width = 2
    room = 1  # entries until codes grow by a bit
    size = 3  # of the dictionary: codes 0, 1 and 2 are special and need no entry
    end = start
    last_start = last_length = 0
    while True:
        problem, code, position, buffer, bits = _read(data, position, buffer, bits, width)
        if problem != OK:
            return problem, start
        if code == 2:
            return OK, end
        if code < 2:
            problem, literal, position, buffer, bits = _read(
                data, position, buffer, bits, 8 + 8 * code
            )
            if problem != OK:
                return problem, start
            if literal > highest:
                return BAD_LITERAL, start
            if end >= out.size:
                return FULL, start
            out[end] = literal
            entries[size, 0], entries[size, 1] = end, 1
            size += 1
            room -= 1
            if room == 0:
                room = 1 << width
                width += 1
            entry_length = 1
        else:
            if code < size:
                entry_start, entry_length = int(entries[code, 0]), int(entries[code, 1])
            elif code == size and size > 3:
                # The entry that this very step adds: the previous one plus its own first
                # character. Runs of one character begin this way.
                entry_start, entry_length = last_start, last_length + 1
            else:
                return BAD_CODE, start
            if end + entry_length > out.size:
                return FULL, start
            for i in range(entry_length):  # may read what it has just written
                out[end + i] = out[entry_start + i]
        if last_length:  # before the first literal there is nothing to extend
            entries[size, 0], entries[size, 1] = last_start, last_length + 1
            size += 1
            room -= 1
            if room == 0:
                room = 1 << width
                width += 1
        last_start, last_length = end, entry_length
        end += entry_length


@compiled
def _unpack_many(
    data: Bytes,
    ends: Int64,
    first: int,
    out: Bytes,
    offsets: Int64,
    problems: Bytes,
    entries: NDArray[Any],
    max_chars: int,
) -> int:
    """Unpack the texts from index `first` on; returns the index at which `out` was full, or n."""
    for i in range(first, ends.size):
        text = data[(ends[i - 1] if i else 0) : ends[i]]
        limit = min(out.size, offsets[i] + max_chars)
        problem, end = _unpack(text, out[:limit], offsets[i], entries, 127)
        if problem == FULL and limit == out.size:
            return i
        problems[i] = problem
        offsets[i + 1] = end
    return ends.size
