"""Checks of JSON text, compared with Python's own parser."""

import json
import random
import tracemalloc
from typing import Any

import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.parsing import json_text
from egoexo_tools.parsing.json_text import (
    REPEATED,
    check_text,
    has_repeated_keys,
    list_items,
    parse_json,
)

KEYS = "abc{,:[]}"


def random_text(rng: random.Random, depth: int) -> str:
    """JSON text whose objects often have a key twice."""
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        return rng.choice(["1", "null", '"x"', '"a\\"b:,{"', "-1.5e3", '""', " true "])
    if kind < 0.7:
        return "[" + ", ".join(random_text(rng, depth - 1) for _ in range(rng.randint(0, 3))) + "]"
    members = (
        f'"{rng.choice(KEYS) * rng.randint(0, 3)}" : {random_text(rng, depth - 1)}'
        for _ in range(rng.randint(0, 4))
    )
    return "{" + " ,".join(members) + "}"


def has_repeated_keys_slow(text: str) -> bool:
    """The plain twin."""
    is_repeated = []

    def look(pairs: list[tuple[str, Any]]) -> int:
        is_repeated.append(len({key for key, _ in pairs}) < len(pairs))
        return 0

    json.loads(text, object_pairs_hook=look)
    return any(is_repeated)


def test_repeated_keys_are_detected() -> None:
    rng = random.Random(0)
    answers = set()
    for _ in range(3000):
        text = random_text(rng, 4)
        expected = has_repeated_keys_slow(text)
        assert has_repeated_keys(text.encode()) == expected, text
        answers.add(expected)
    assert answers == {True, False}


def test_a_repeated_key_is_detected_among_many() -> None:
    value = {str(number): number for number in range(5000)}
    text = json.dumps([value])
    assert not has_repeated_keys(text.encode())
    assert has_repeated_keys((text[:-2] + ', "77": 0}]').encode())


def test_different_values_under_one_key_become_repeated() -> None:
    assert parse_json(b'{"a": {"b": 1, "b": 2}, "c": 3, "c": 3}') == {"a": {"b": REPEATED}, "c": 3}
    assert parse_json(b'{"a": 1, "\\u0061": 2}') == {"a": REPEATED}
    assert parse_json(b'{"a": 1, "a": true}') == {"a": REPEATED}
    assert repr(REPEATED) == "two different values under one key"


def test_large_texts_are_parsed_like_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "_SCAN_FROM_BYTES", 0)
    assert parse_json(b'{"a": 1, "a": 2, "b": [NaN]}')["a"] is REPEATED
    assert parse_json(b'{"a": 1, "b": [1, 2]}') == {"a": 1, "b": [1, 2]}


def test_deep_nesting_is_refused() -> None:
    deep = b"[" * 1100 + b"[],{}," * 1000 + b"0" + b"]" * 1100
    for check in (check_text, has_repeated_keys):
        with pytest.raises(DataError, match="nested more than 1,024 deep"):
            check(deep)
    assert not check_text(b"[" * 1024 + b"]" * 1024)


def test_numbers_may_have_any_length() -> None:
    assert parse_json(b"[" + b"9" * 6000 + b", 12]") == [float("inf"), 12]


def test_text_that_would_take_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MOST_PARSED_BYTES", 1_000_000)
    for part in (b"[],", b"{},", b'"a",', b"1,"):
        with pytest.raises(DataError, match=r"take .* MB of memory; at most 1.0 MB are"):
            check_text(b"[" + part * 100_000 + b"0]")
    assert not check_text(b'{"counts": "' + b"x" * 500_000 + b'"}')


def test_the_estimate_is_not_below_the_memory_that_python_takes() -> None:
    for part in (b"[],", b"{},", b'"abc",', b"1000,", b"1.5,", b'{"a":1,"b":[1]},'):
        text = b"[" + part * 20_000 + b"0]"
        tracemalloc.start()
        value = json.loads(text)
        allocated = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert json_text._scan_text(text)[1] >= 0.95 * allocated, part
        del value


def test_list_items_are_the_values_of_the_list() -> None:
    rng = random.Random(1)
    for _ in range(500):
        parts = [random_text(rng, 3) for _ in range(rng.choice([0, 1, 3, 100]))]
        text = " [" + ",\r\n".join(parts) + "] "
        assert [json.loads(part) for part in list_items(text.encode())] == json.loads(text)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1", b"5", b'["a', b"]", b"[1] [2]", b"[1]x"])
def test_text_that_is_not_one_list_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON list"):
        list(list_items(text))
