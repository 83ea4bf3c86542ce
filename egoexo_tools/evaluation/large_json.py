"""Large JSON files, read one level at a time: a value stays unparsed until it is needed.

A prediction file of a whole split has hundreds of megabytes. Only one take of it is ever parsed
into Python objects, which need ten times the memory of their text.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import check_text, has_repeated_keys, parse_json
from egoexo_tools.parsing.lenient import check_utf8, without_mark

# A shorter text fits into memory in any case, so its parsed size is not estimated.
_LARGE_BYTES = 1 << 24


def open_json(path: Path) -> dict[str, Any]:
    """The top level of a JSON object; its values may be unparsed (see `parse_value`).

    Raises DataError if the file cannot be read or is not a JSON object.
    """
    try:
        data = without_mark(path.read_bytes())
        check_utf8(data)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error})") from error
    try:
        if not has_repeated_keys(data):
            # Python's json module writes NaN, which msgspec refuses. parse_json accepts it, so that
            # the error can name the prediction that contains it.
            with suppress(msgspec.DecodeError):
                return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        value = parse_json(data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object")
    return value


def open_members(value: Any) -> dict[str, Any] | None:
    """The next level below `open_json`; None if `value` is not a JSON object."""
    if isinstance(value, msgspec.Raw):
        try:
            value = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError:
            value = parse_value(value)
    return value if isinstance(value, dict) else None


def parse_value(value: Any, where: str = "a value") -> Any:
    """A value from `open_json` or `open_members`, parsed completely.

    Raises DataError, which names `where`, for invalid JSON and for values that need too much
    memory.
    """
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        if len(value) > _LARGE_BYTES:
            check_text(memoryview(value))
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(value)
        return parse_json(bytes(value))
    except (DataError, ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read: {error}") from error
