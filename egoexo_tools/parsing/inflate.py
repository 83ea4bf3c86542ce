"""Unpacks deflated bytes (RFC 1951) that are mostly one value, ten times as fast as zlib does.

A frame's masks are 40 MB of almost only zeros, which zlib writes three bytes at a time. This loop
fills a repetition in one go. Only for data whose length and checksum are known and looked at.
"""

import numpy as np

from egoexo_tools.arrays import Bytes, Int32
from egoexo_tools.compiled import compiled

_MOST_BITS = 15
_LENGTH_BASE = np.array(
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
     163, 195, 227, 258], np.int32
)  # fmt: skip
_LENGTH_EXTRA = np.array([0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [0], np.int32)
_DISTANCE_BASE = np.array(
    [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
     2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577], np.int32
)  # fmt: skip
_DISTANCE_EXTRA = np.array([0, 0, *np.repeat(np.arange(14), 2)], np.int32)
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int32)


def inflate(data: Bytes, size: int) -> Bytes | None:
    """The `size` bytes that `data` unpacks to; None where it does not."""
    out = np.empty(size, np.uint8)
    tables = (_LENGTH_BASE, _LENGTH_EXTRA, _DISTANCE_BASE, _DISTANCE_EXTRA, _ORDER)
    return out if _inflate(np.ascontiguousarray(data), out, *tables) == size else None


@compiled
def _table(lengths: Int32, table: Int32) -> bool:
    """Fill `table` (2 ** 15): the next bits, lowest first → symbol << 4 | length of its code."""
    counts = np.zeros(_MOST_BITS + 2, np.int32)
    for length in lengths:
        counts[length] += 1
    counts[0] = 0
    first = np.zeros(_MOST_BITS + 2, np.int32)
    code = 0
    for bits in range(1, _MOST_BITS + 1):
        code = (code + counts[bits - 1]) << 1
        first[bits] = code
        # More codes of this length than there are: two symbols would share one.
        if code + counts[bits] > 1 << bits:
            return False
    table[:] = 0
    for symbol in range(lengths.size):
        length = lengths[symbol]
        if length:
            value, reversed_code = first[length], 0
            first[length] += 1
            for _ in range(length):
                reversed_code = reversed_code << 1 | value & 1
                value >>= 1
            # Codes are sent from their highest bit on, all else from the lowest: turned round, a
            # code is found by the bits as they lie, whatever follows it.
            table[reversed_code :: 1 << length] = symbol << 4 | length
    return True


@compiled
def _bits(data: Bytes, place: int, count: int) -> int:
    """`count` (up to 32) bits from bit `place` on; zeros behind the end."""
    value, byte, shift = 0, place >> 3, -(place & 7)
    while shift < count:
        if byte < data.size:
            piece = int(data[byte])
            value |= piece << shift if shift >= 0 else piece >> -shift
        byte += 1
        shift += 8
    return value & ((1 << count) - 1)


@compiled
def _read_lengths(data: Bytes, place: int, order: Int32, lengths: Int32, table: Int32) -> int:
    """The code lengths of a dynamic block into `lengths` (320); the place behind, -1 if broken.

    Literals and lengths first, distances from 288 on.
    """
    literals = _bits(data, place, 5) + 257
    distances = _bits(data, place + 5, 5) + 1
    codes = _bits(data, place + 10, 4) + 4
    place += 14
    small = np.zeros(19, np.int32)
    for i in range(codes):
        small[order[i]] = _bits(data, place, 3)
        place += 3
    if literals > 286 or distances > 30 or not _table(small, table):
        return -1
    lengths[:] = 0
    done = 0
    while done < literals + distances:
        entry = table[_bits(data, place, 15)]
        if not entry:
            return -1
        place += entry & 15
        symbol, value, repeat = entry >> 4, 0, 1
        if symbol < 16:
            value = symbol
        elif symbol == 16:
            if not done:
                return -1
            before = done - 1
            value = lengths[before if before < literals else 288 + before - literals]
            repeat = 3 + _bits(data, place, 2)
            place += 2
        elif symbol == 17:
            repeat = 3 + _bits(data, place, 3)
            place += 3
        else:
            repeat = 11 + _bits(data, place, 7)
            place += 7
        if done + repeat > literals + distances:
            return -1
        for _ in range(repeat):
            lengths[done if done < literals else 288 + done - literals] = value
            done += 1
    return place


@compiled
def _inflate(
    data: Bytes, out: Bytes, length_base: Int32, length_extra: Int32, distance_base: Int32,
    distance_extra: Int32, order: Int32,
) -> int:  # fmt: skip
    """Bytes written; -1 for anything that is not as it should be."""
    place = end = 0
    bits_there = data.size * 8
    lengths = np.zeros(320, np.int32)
    symbols = np.zeros(1 << _MOST_BITS, np.int32)
    distances = np.zeros(1 << _MOST_BITS, np.int32)
    is_last = False
    while not is_last:
        if place + 3 > bits_there:
            return -1
        is_last = _bits(data, place, 1) == 1
        kind = _bits(data, place + 1, 2)
        place += 3
        if kind == 0:
            start = (place + 7) >> 3
            if start + 4 > data.size:
                return -1
            size = _bits(data, start * 8, 16)
            # Behind the size comes its complement; the checksum of it all says as much.
            start += 4
            if start + size > data.size or end + size > out.size:
                return -1
            out[end : end + size] = data[start : start + size]
            end, place = end + size, (start + size) * 8
            continue
        if kind == 3:
            return -1
        if kind == 2:
            place = _read_lengths(data, place, order, lengths, symbols)
            if place < 0:
                return -1
        else:
            lengths[:144], lengths[144:256], lengths[256:280], lengths[280:288] = 8, 9, 7, 8
            lengths[288:318], lengths[318:] = 5, 0
        if not _table(lengths[:288], symbols) or not _table(lengths[288:], distances):
            return -1
        while True:
            # Behind the end _bits gives zeros, which could be read for ever.
            if place > bits_there:
                return -1
            entry = symbols[_bits(data, place, 15)]
            if not entry:
                return -1
            place += entry & 15
            symbol = entry >> 4
            if symbol < 256:
                if end >= out.size:
                    return -1
                out[end] = symbol
                end += 1
                continue
            if symbol == 256:
                break
            # The fixed code has 286 and 287 too, which mean nothing.
            if symbol > 285:
                return -1
            extra = length_extra[symbol - 257]
            length = length_base[symbol - 257] + _bits(data, place, extra)
            place += extra
            entry = distances[_bits(data, place, 15)]
            if not entry or entry >> 4 > 29:
                return -1
            place += entry & 15
            extra = distance_extra[entry >> 4]
            distance = distance_base[entry >> 4] + _bits(data, place, extra)
            place += extra
            if distance > end or end + length > out.size:
                return -1
            _repeat(out, end, distance, length)
            end += length
    return end


@compiled
def _repeat(out: Bytes, end: int, distance: int, length: int) -> None:
    start = end - distance
    if distance == 1:
        out[end : end + length] = out[start]
    elif distance >= length:
        out[end : end + length] = out[start : start + length]
    else:
        # It repeats what it is just writing, so that the order counts.
        for i in range(length):
            out[end + i] = out[start + i]
