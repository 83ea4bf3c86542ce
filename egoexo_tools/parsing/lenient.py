"""Files from outside: which differences do no harm, in one place for every reader.

People's files pass through editors, spreadsheets, zip programs and other languages on their way.
Understood here, the same for every command: byte-order marks (UTF-8 and UTF-16), line ends, NFC
and NFD spellings of a name, `\\` in paths, numbers as text, padded frame numbers, `0/1` and words
for booleans, and the files that macOS and Windows leave beside the real ones. What cannot be
understood is a DataError that names the item; nothing is guessed.
"""

import codecs
import math
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import parse_json

MAX_FRAME_IDX = 2**31 - 1
MOST_JSON_BYTES = 1 << 28
"""Of a JSON file that is read in one piece; an annotation of own pictures has some megabytes."""
_PIECE_BYTES = 1 << 20
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
              (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip
_SYSTEM_FILES = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
     "system volume information", "lost+found"}
)  # fmt: skip
_WINDOWS_NOTE = ":zone.identifier"
"""What Windows' downloads carry, and what becomes a file of its own on a Linux disk."""
_FLAGS: Mapping[Any, bool] = {
    True: True, False: False, "true": True, "false": False, "1": True, "0": False,
    "yes": True, "no": False,
}  # fmt: skip
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.0*)?\s*")
"""As many digits as 64 bits hold; thousands of them Python refuses to read."""


def is_system_file(name: str) -> bool:
    """Whether a file is a system's own: hidden, AppleDouble (`._cup.png`), a folder's settings."""
    lower = name.lower()
    return name.startswith(".") or lower in _SYSTEM_FILES or lower.endswith(_WINDOWS_NOTE)


def list_folder(folder: Path) -> list[Path]:
    """What lies in a folder in name order, without the systems' own files; else DataError."""
    try:
        return sorted(path for path in folder.iterdir() if not is_system_file(path.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path, *, most: int = MOST_JSON_BYTES) -> bytes:
    """A text file's bytes as UTF-8 without a mark; DataError where it cannot be read."""
    try:
        size = path.stat().st_size
        if size > most:
            raise DataError(
                f"{path} has {size:,} bytes, more than the {most:,} that are read in one piece; "
                "split it, into a file for each take or so"
            )
        return without_mark(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def without_mark(data: bytes) -> bytes:
    """Text without a byte-order mark, as UTF-8; UnicodeDecodeError for broken UTF-16."""
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            rest = data[len(mark) :]
            return rest if encoding == "utf-8" else rest.decode(encoding).encode()
    return data


def check_utf8(data: bytes) -> None:
    """UnicodeDecodeError where bytes are no UTF-8; a piece at a time, without a whole copy."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE_BYTES):
        decoder.decode(data[start : start + _PIECE_BYTES])
    decoder.decode(b"", final=True)


def load_json(path: Path) -> Any:
    """The value in a JSON file; NaN and infinity, which Python writes, are let through.

    Two different values under one key are REPEATED. Raises DataError for a file that is missing,
    too large or no JSON.
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
    """An integer, also as text (`"480"`, `"00030"`) or as a float without a rest; else None."""
    # An int to Python; in a file, true in a number's place is a mistake.
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
    """A finite number, also as text; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (not value.isascii() or "_" in value):
        return None  # Python reads "1_000"; nobody else writes it
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def frame_number(value: Any) -> int | None:
    """A frame_idx: a whole number from 0 to MAX_FRAME_IDX, padded or as text; else None."""
    number = whole_number(value)
    return number if number is not None and 0 <= number <= MAX_FRAME_IDX else None


def flag(value: Any) -> bool | None:
    """A boolean, also as 0/1 or as a word; else None."""
    if isinstance(value, str):
        value = value.strip().lower()
    try:
        return _FLAGS.get(value)
    except TypeError:
        return None


def is_text(name: str) -> bool:
    """Whether a name can be written as text: no NUL, and no bytes that are no UTF-8 (old zips)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def printable(text: str) -> str:
    """The same text, what cannot be written as text escaped."""
    return text.encode(errors="backslashreplace").decode()


def plain_name(text: str) -> str:
    """A name in its composed spelling (NFC): macOS hands out the decomposed one."""
    return unicodedata.normalize("NFC", text)


def posix_path(text: str) -> PurePosixPath:
    """A relative path that a file names, whichever slashes it uses."""
    return PurePosixPath(text.replace("\\", "/"))
