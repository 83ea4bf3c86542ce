"""LZString: the `lzstring` package decides for every text what the result, or the error, is."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lzstring import LZString

from egoexo_tools.errors import DataError
from egoexo_tools.release import lzstring
from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component, decompress_many

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$ "


def packed(text: str) -> str:
    return str(LZString.compressToEncodedURIComponent(text))


def oracle(text: str) -> str | None:
    """The package's answer; None where it has none (it returns None or fails)."""
    try:
        answer = LZString.decompressFromEncodedURIComponent(text)
    except (IndexError, KeyError, UnboundLocalError, TypeError):
        return None
    return None if answer is None else str(answer)


def ours(text: str) -> str | None:
    try:
        return decompress_from_encoded_uri_component(text)
    except DataError:
        return None


@pytest.mark.parametrize(
    "text, answer",
    [
        ("Q", ""),
        (packed("a"), "a"),
        (packed("aaaaaaaaaaaaaaaaaaaa"), "a" * 20),
        (packed("0123456789" * 400), "0123456789" * 400),
        (packed("é\x00\xff"), "é\x00\xff"),
        (packed("中文 \ud83d\ude00"), "中文 \ud83d\ude00"),  # 16-bit literals, a surrogate pair
        (packed("a+b").replace("+", " "), "a+b"),
    ],
)
def test_texts_unpack_to_known_results(text: str, answer: str) -> None:
    assert decompress_from_encoded_uri_component(text) == answer


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("ab", max_size=300) | st.text("0123456789`abc", max_size=300))
def test_packed_text_unpacks_as_with_the_package(text: str) -> None:
    assert ours(packed(text)) == oracle(packed(text))


@settings(max_examples=300, deadline=None)
@given(st.text(ALPHABET, max_size=60))
def test_any_text_of_the_alphabet_unpacks_as_with_the_package(text: str) -> None:
    assert ours(text) == oracle(text)


@settings(max_examples=300, deadline=None)
@given(st.text("abcé中", max_size=80), st.data())
def test_damaged_text_unpacks_as_with_the_package(text: str, data: st.DataObject) -> None:
    whole = packed(text)
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = (
        whole[:position] + data.draw(st.sampled_from(ALPHABET + "!é中")) + whole[position + 1 :]
    )
    assert ours(changed) == oracle(changed)
    assert ours(whole[:position]) == oracle(whole[:position])


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it is empty"),
        (packed("hello hello")[:-2], "it is cut off"),
        ("NoX!bA", "outside A-Z"),
        ("中", "outside A-Z"),
        ("8888", "does not exist"),
    ],
)
def test_errors_name_the_reason(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        decompress_from_encoded_uri_component(text)


def test_a_text_that_unpacks_to_too_many_characters_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lzstring, "MAX_CHARS", 5000)
    assert ours(packed("x" * 5000)) == "x" * 5000
    with pytest.raises(DataError, match="unpacks to more"):
        decompress_from_encoded_uri_component(packed("x" * 5001))


def test_many_texts_that_unpack_to_too_many_characters_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lzstring, "MAX_CHARS_EACH", 5000)
    data, _, problems = decompress_many([packed("x" * 5000), packed("x" * 5001)])
    assert (data.size, problems.tolist()) == (5000, [lzstring.OK, lzstring.FULL])
    monkeypatch.setattr(lzstring, "MAX_CHARS_IN_ALL", 6000)
    with pytest.raises(DataError, match="3 texts unpack to more than"):
        decompress_many([packed("x" * 5000)] * 3)


def test_many_texts_unpack_with_a_result_code_for_each() -> None:
    runs = ["0123" * 50, "", "x" * 4000, "abc"]
    texts = [packed(text) for text in runs]
    texts[1:1] = ["!", packed("é"), packed("cut off")[:-3], ""]
    data, offsets, problems = decompress_many(texts)
    answers = [
        data[start:stop].tobytes().decode()
        for start, stop in zip(offsets[:-1], offsets[1:], strict=True)
    ]
    assert answers == ["0123" * 50, "", "", "", "", "", "x" * 4000, "abc"]
    assert problems.tolist() == [
        lzstring.OK,
        lzstring.BAD_CHARACTER,
        lzstring.BAD_LITERAL,
        lzstring.CUT_OFF,
        lzstring.EMPTY,
        lzstring.OK,
        lzstring.OK,
        lzstring.OK,
    ]
    assert decompress_many([])[1].tolist() == [0]


@pytest.mark.slow
def test_a_second_process_loads_the_compiled_code_from_the_cache(tmp_path: object) -> None:
    """Compiling takes over a second; a process with a filled cache reports hits and no misses."""
    code = (
        "from egoexo_tools.release import lzstring\n"
        "lzstring.decompress_from_encoded_uri_component('Q')\n"
        "stats = lzstring._unpack.stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    command = [sys.executable, "-c", code]
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""}
    answers = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert answers == ["0 1\n", "1 0\n"]
