"""Random changes to external files, for tests that every file is either read or refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from egoexo_tools.masks.rle import MaskRle

MASK = MaskRle.encode(np.pad(np.ones((10, 10), np.uint8), ((5, 33), (5, 49))))
"""10x10 pixels in a picture of 48x64."""
FEW_EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=6),
    st.just([]), st.just({}), st.just([[float("nan"), 1e9, 1, 1, 2, 2]]), st.just("00030"),
)  # fmt: skip


def change_one_part(value: Any, data: st.DataObject) -> Any:
    """A copy of a JSON value with one part replaced by an odd value."""
    *parents, last = data.draw(st.sampled_from([[None], *_paths(value)]))
    odd = data.draw(ODD_VALUES)
    if last is None:
        return odd
    value = copy.deepcopy(value)
    part = value
    for key in parents:
        part = part[key]
    part[last] = odd
    return value


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to each part of a JSON value."""
    if not isinstance(value, dict | list):
        return []
    paths = []
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        paths += [(*path, key), *_paths(part, (*path, key))]
    return paths


def write_json(path: Path, value: Any, *, mark: bool = False) -> Path:
    """A JSON file (of text: as it is) with Windows line ends, and a byte-order mark."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1)
    path.write_text(("\ufeff" if mark else "") + text.replace("\n", "\r\n"), encoding="utf-8")
    return path


def add_file(folder: Path, name: str, content: bytes = b"?") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
