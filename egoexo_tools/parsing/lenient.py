"""Which differences between external files are harmless; the same for every reader.

Files pass through editors, spreadsheets, zip programs and other languages. Every command accepts
byte-order marks (UTF-8 and UTF-16), any line ends, NFC and NFD spellings of a name, `\\` in paths,
numbers as text, padded frame numbers, `0/1` and words for booleans, and the files that macOS and
Windows add to folders. Anything else is a DataError that names the item; nothing is guessed.
"""

import codecs
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import parse_json

K = TypeVar("K")
V = TypeVar("V")
MAX_FRAME_IDX = 2**31 - 1
"""The manifests store frame_idx as int32."""
MOST_JSON_BYTES = 1 << 28
"""Limit for a JSON file that is read in one piece; annotations of own pictures have megabytes."""
_CHUNK_BYTES = 1 << 20
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
              (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip
_SYSTEM_FILES = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
     "system volume information", "lost+found"}
)  # fmt: skip
_WINDOWS_STREAM = ":zone.identifier"
"""Windows attaches this stream to downloads; on a Linux disk it becomes a file of its own."""
_BOOLEANS: Mapping[Any, bool] = {
    True: True, False: False, "true": True, "false": False, "1": True, "0": False,
    "yes": True, "no": False,
}  # fmt: skip
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.0*)?\s*")
"""At most as many digits as 64 bits hold: int() refuses text of thousands of digits."""


def is_system_file(name: str) -> bool:
    """Whether a system made the file: hidden, AppleDouble (`._cup.png`), a folder's settings."""
    lower = name.lower()
    return name.startswith(".") or lower in _SYSTEM_FILES or lower.endswith(_WINDOWS_STREAM)


def list_folder(folder: Path) -> list[Path]:
    """A folder's files and folders by name, without system files; DataError if unreadable."""
    try:
        return sorted(path for path in folder.iterdir() if not is_system_file(path.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path, *, most: int = MOST_JSON_BYTES) -> bytes:
    """A text file as UTF-8 without a byte-order mark, of at most `most` bytes.

    Raises DataError for a file that is missing, unreadable or larger.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise DataError(
                f"{path} has {size:,} bytes; at most {most:,} are read in one piece; split it, for "
                "example into a file for each take"
            )
        return without_mark(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def without_mark(data: bytes) -> bytes:
    """Text as UTF-8 without a byte-order mark; UnicodeDecodeError for broken UTF-16."""
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            text = data[len(mark) :]
            return text if encoding == "utf-8" else text.decode(encoding).encode()
    return data


def check_utf8(data: bytes) -> None:
    """Raises UnicodeDecodeError for bytes that are not UTF-8, without a decoded copy of them."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _CHUNK_BYTES):
        decoder.decode(data[start : start + _CHUNK_BYTES])
    decoder.decode(b"", final=True)


def load_json(path: Path) -> Any:
    """The value in a JSON file. NaN and infinity are accepted, since Python writes them.

    Two different values under one key become REPEATED. Raises DataError for a file that is
    missing, too large or not JSON.
    """
    try:
        return parse_json(read_bytes(path))
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
    except MemoryError:
        raise DataError(f"{path} takes more memory than there is") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error})") from error


def whole_number(value: Any) -> int | None:
    """An integer, also as text (`"480"`, `"00030"`) or as a float like 480.0; None otherwise."""
    # True is an int to Python; in a file, true in a number's place is a mistake.
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and value.isascii() and _NUMBER.fullmatch(value):
        return int(value.split(".")[0])
    return None


def finite_number(value: Any) -> float | None:
    """A finite number, also as text; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (not value.isascii() or "_" in value):
        return None  # Python reads "1_000", other programs do not write it
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def frame_number(value: Any) -> int | None:
    """A frame_idx: a whole number from 0 to MAX_FRAME_IDX, also padded or as text; or None."""
    number = whole_number(value)
    return number if number is not None and 0 <= number <= MAX_FRAME_IDX else None


def flag(value: Any) -> bool | None:
    """A boolean, also as 0/1 or as a word; None otherwise."""
    if isinstance(value, str):
        value = value.strip().lower()
    try:
        return _BOOLEANS.get(value)
    except TypeError:  # a list or an object
        return None


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8 and holds no NUL; names out of old zips may not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def printable(text: str) -> str:
    """The text with everything escaped that cannot be written as UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def plain_name(text: str) -> str:
    """A name in its composed spelling (NFC); macOS returns decomposed names."""
    return unicodedata.normalize("NFC", text)


def unambiguous(pairs: Iterable[tuple[K, V]]) -> dict[K, V]:
    """Key → value, without the keys that have two different values."""
    values: dict[K, V] = {}
    ambiguous: set[K] = set()
    for key, value in pairs:
        if values.setdefault(key, value) != value:
            ambiguous.add(key)
    return {key: value for key, value in values.items() if key not in ambiguous}


def posix_path(text: str) -> PurePosixPath:
    """A relative path in a file, written with slashes or backslashes."""
    return PurePosixPath(text.replace("\\", "/"))
