"""Compare two dataset roots by content: tables by rows, checkpoints by tensors, pictures by bytes.

Values that differ between two runs with the same result are ignored: locks, seconds, rates,
TensorBoard files, and the hashes of inputs in status files, which from training on are hashes of
files that contain seconds.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

IGNORED_KEYS = {"seconds", "pairs_per_second", "inputs"}
"""Keys whose values differ between two equal runs."""
IGNORED_FILES = {"digests.json"}
"""It contains times and inodes of files."""


def differences(root: Path, expected: Path) -> list[str]:
    """A line for each file that only one root has, or whose content differs."""
    ours, theirs = files(root), files(expected)
    lines = [f"{name} is missing" for name in sorted(theirs.keys() - ours.keys())]
    lines += [f"{name} is unexpected" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        try:
            if not same(ours[name], theirs[name]):
                lines.append(f"{name} differs")
        except Exception as error:  # a half-written file can raise anything in its reader
            lines.append(f"{name} cannot be read: {type(error).__name__}: {error}")
    return lines


def files(root: Path) -> dict[str, Path]:
    """Relative path → file, for all files that belong to the result."""
    return {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.name not in IGNORED_FILES
        and path.parent.name != "tensorboard"
    }


def same(first: Path, second: Path) -> bool:
    """Whether two files have the same content."""
    if first.read_bytes() == second.read_bytes():
        return True
    read = READERS.get(first.suffix)
    return read is not None and equal(read(first), read(second))


def equal(first: Any, second: Any) -> bool:
    """Exact equality of nested dicts, lists, arrays, tensors and tables."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            name in IGNORED_KEYS or equal(value, second[name]) for name, value in first.items()
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if hasattr(first, "dtype"):
        alike = (first.dtype, first.shape) == (second.dtype, second.shape)
        return bool(alike and ((first == second) | ((first != first) & (second != second))).all())
    if isinstance(first, float) and first != first:
        return second != second
    return bool(first == second)


def parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return [table.schema.to_string(), table.to_pylist()]


def checkpoint(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def arrow(path: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().to_pydict()


def arrays(path: Path) -> Any:
    """The members' bytes; the zip file also contains their times."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def lines(path: Path) -> Any:
    return [json.loads(line) for line in path.read_text().splitlines()]


READERS: dict[str, Callable[[Path], Any]] = {
    ".parquet": parquet,
    ".pt": checkpoint,
    ".arrow": arrow,
    ".npz": arrays,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".jsonl": lines,
}
"""Suffix → function that reads what is compared if the bytes differ; others must be equal."""
