"""The changes that fuzz.py makes to valid inputs: texts, JSON values, bytes."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rng = random.Random
Input = Any
EACH = 50
"""Texts per call of a compiled reader; each counts as an input."""


@dataclass(frozen=True)
class Kind:
    """One family of inputs."""

    group: str
    """`compiled`, `files` or `videos`."""
    make: Callable[[Rng], Input]
    read: Callable[[Input], object]
    suffix: str = ".txt"
    """Of the file to which a failing input is written."""


ODD_TEXT = ["", " ", "\0", "é", "\ud800", "٣", "~", "/", "😀", "P" * 40, "o" * 20]
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30,
    "", "00030", "null", "x", "\0", "é", "../..", "/", [], {}, [None], [[]], {"": None},
    [[float("nan"), 1e9, 1, 1, 2, 2]], {"size": [1, 1], "counts": "1"}, {"size": [3], "counts": 7},
]  # fmt: skip
TOKENS = [b"null", b"NaN", b"1e999", b"-", b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\u12",
          b"\xff", b"\xef\xbb\xbf", b"\0", b"9" * 40, b"[" * 300, b"\xed\xa0\x80"]  # fmt: skip


def text_changed(rng: Rng, text: str, alphabet: str) -> str:
    """One to four changes: a character, a cut, a repetition, something odd."""
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.randrange(1, 9))
        piece = rng.choice(
            (rng.choice(alphabet), "", text[at:to] * rng.randrange(1, 5), rng.choice(ODD_TEXT))
        )
        text = text[:at] + piece + text[to if rng.random() < 0.7 else at :]
    return text


def value_changed(rng: Rng, value: Any) -> Any:
    """One part of a JSON value replaced, duplicated, renamed or removed."""
    value = copy.deepcopy(value)
    holder, part, key = None, value, None
    while isinstance(part, dict | list) and part and rng.random() < 0.85:
        holder = part
        key = rng.choice(list(part)) if isinstance(part, dict) else rng.randrange(len(part))
        part = holder[key]
    odd = copy.deepcopy(rng.choice(ODD_VALUES))
    if holder is None:
        return odd
    way = rng.random()
    if way < 0.6:
        holder[key] = odd
    elif way < 0.75:
        del holder[key]
    elif isinstance(holder, dict):
        holder[str(odd)] = holder.pop(key) if way < 0.9 else part
    else:
        holder.insert(rng.randrange(len(holder) + 1), part if way < 0.9 else odd)
    return value


def bytes_changed(rng: Rng, data: bytes, *, max_changes: int = 8) -> bytes:
    """Bits flipped; pieces overwritten, removed, duplicated or inserted; or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, max_changes))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 200))
        way = rng.random()
        if way < 0.4 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif way < 0.6:
            changed[at : at + length] = rng.randbytes(length)
        elif way < 0.7:
            del changed[at : at + length]
        elif way < 0.8:
            changed[at:at] = changed[at : at + length]
        elif way < 0.97:
            changed[at:at] = rng.choice(TOKENS)
        else:
            del changed[at:]
    return bytes(changed)


def json_maker(value: Any) -> Callable[[Rng], bytes]:
    """Half of the inputs are JSON with changed values, half are text with changed bytes."""

    def make(rng: Rng) -> bytes:
        if rng.random() < 0.5:
            return bytes_changed(rng, json.dumps(value).encode())
        changed = value
        for _ in range(rng.randrange(1, 4)):
            changed = value_changed(rng, changed)
        return json.dumps(changed).encode()

    return make
