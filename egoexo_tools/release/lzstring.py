"""LZString decompression of the "encoded URI component" flavour, nothing else.

The format, from the public LZString library (Pieroxy, MIT): 65 characters of six bits; codes whose
width grows with the dictionary, least significant bit first; code 0 announces a literal of 8 bits,
1 one of 16 bits, 2 the end; every other code names an entry of the dictionary, and each emitted
entry adds one: the entry before, and this one's first character. That new entry therefore always
lies in the output already, so the dictionary here is a list of (start, length) in the output.

Text from files is untrusted: whatever the `lzstring` package cannot read raises DataError, and so
does a text that unpacks to more than MAX_CHARS.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Int64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError

MAX_CHARS = 1 << 26
"""The longest answer to a single text."""
MAX_CHARS_EACH, MAX_CHARS_IN_ALL = 1 << 20, 1 << 27
"""Of many: a million are 50 times the run lengths of a large real mask, and the largest real takes
come to 20 million; three times the whole is in memory for a moment."""

OK, FULL, EMPTY, CUT_OFF, BAD_CHARACTER, BAD_CODE, BAD_LITERAL = range(7)
"""How a text ended; PROBLEMS has the words. FULL: the output buffer was too small."""
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


def _digit_table() -> Bytes:
    """Byte → its six bits in the order in which they are read, or _NO_DIGIT."""
    digits = np.full(256, _NO_DIGIT, np.uint8)
    for value, character in enumerate(_ALPHABET):
        digits[ord(character)] = int(f"{value:06b}"[::-1], 2)
    digits[ord("$")] = 0  # value 64 in the library, whose lower six bits are all that is read
    digits[ord(" ")] = digits[ord("+")]  # "+" in a URI is often turned into a space
    return digits


_DIGITS = _digit_table()


def decompress_from_encoded_uri_component(text: str) -> str:
    """What `compressToEncodedURIComponent` was given; DataError for text that it cannot make."""
    data = _latin(text)
    # The length of the answer is nowhere in the text: try, and with more room try again.
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
    """Unpack many texts whose content is ASCII (run lengths of masks) in one call.

    Returns the answers one after the other as bytes, their offsets (n + 1,) and a problem (n,)
    each; the answer of a text with a problem is empty. Raises DataError where all answers
    together are longer than MAX_CHARS_IN_ALL.
    """
    data = _latin("".join(texts))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths)
    offsets = np.zeros(lengths.size + 1, np.int64)
    problems = np.zeros(lengths.size, np.uint8)
    workspace = _workspace(int(lengths.max(initial=0)))
    # Masks of the synthetic release unpack to 1.8 times their characters, so that this is seldom
    # too small; where it is, the texts that are done stay done.
    out = np.empty(2 * data.size + 64, np.uint8)
    done = 0
    while True:
        done = _unpack_many(data, ends, done, out, offsets, problems, workspace, MAX_CHARS_EACH)
        if done == lengths.size:
            return out[: offsets[-1]], offsets, problems
        if out.size >= MAX_CHARS_IN_ALL:
            raise DataError(f"{lengths.size:,} texts unpack to more than {out.size:,} characters")
        out = np.concatenate([out, np.empty(out.size, np.uint8)])


def _latin(text: str) -> Bytes:
    """One byte a character; what has no byte becomes `?`, which the alphabet lacks as well."""
    return np.frombuffer(text.encode("latin-1", "replace"), np.uint8)


def _workspace(length: int) -> NDArray[Any]:
    """Room for the dictionary of a text of `length` characters: start and length of each entry.

    A code takes at least three bits and adds one entry, a literal eleven and adds two.
    """
    return np.empty((2 * length + 8, 2), np.int32)


@compiled
def _read(
    data: Bytes, position: int, held: int, bits: int, wanted: int
) -> tuple[int, int, int, int, int]:
    """`wanted` bits: (problem, value, position, held, bits).

    `held` keeps the `bits` bits that are loaded and not used. One more than wanted is loaded,
    because the package fetches the next character as soon as one is used up, and fails there.
    """
    while bits <= wanted:
        if position >= data.size:
            return CUT_OFF, 0, position, held, bits
        digit = _DIGITS[data[position]]
        if digit == _NO_DIGIT:
            return BAD_CHARACTER, 0, position, held, bits
        held |= int(digit) << bits
        bits += 6
        position += 1
    return OK, held & ((1 << wanted) - 1), position, held >> wanted, bits - wanted


@compiled
def _unpack(
    data: Bytes,
    out: NDArray[Any],
    start: int,
    entries: NDArray[Any],
    highest: int,
) -> tuple[int, int]:
    """Unpack into out[start:]; returns (problem, end in `out`). Literals above `highest` fail."""
    if data.size == 0:
        return EMPTY, start
    position = held = bits = 0
    width = 2
    room = 1  # entries until codes grow by a bit
    size = 3  # of the dictionary; 0, 1 and 2 are the three special codes
    end = start
    last_start = last_length = 0
    while True:
        problem, code, position, held, bits = _read(data, position, held, bits, width)
        if problem != OK:
            return problem, start
        if code == 2:
            return OK, end
        if code < 2:
            problem, literal, position, held, bits = _read(data, position, held, bits, 8 + 8 * code)
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
                # The entry that this very step is about to add: the last one and its first
                # character again. Runs of one character begin so.
                entry_start, entry_length = last_start, last_length + 1
            else:
                return BAD_CODE, start
            if end + entry_length > out.size:
                return FULL, start
            for i in range(entry_length):  # may read what it has just written
                out[end + i] = out[entry_start + i]
        if last_length:  # the first literal has nothing before it that an entry could join
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
    done: int,
    out: Bytes,
    offsets: Int64,
    problems: Bytes,
    entries: NDArray[Any],
    max_chars: int,
) -> int:
    """Go on at text `done`; returns the number of texts done, fewer than all if `out` is full."""
    for i in range(done, ends.size):
        text = data[(ends[i - 1] if i else 0) : ends[i]]
        limit = min(out.size, offsets[i] + max_chars)
        problem, end = _unpack(text, out[:limit], offsets[i], entries, 127)
        if problem == FULL and limit == out.size:
            return i
        problems[i] = problem
        offsets[i + 1] = end
    return ends.size
