"""Compares two dataset roots by content: tables by rows, checkpoints by tensors, pictures by bytes.

What tells of a run and not of its result is left out: locks, seconds, rates, TensorBoard's files,
and in a status the hash of inputs, which for training and later is of files with seconds in them.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

OF_A_RUN = {"seconds", "pairs_per_second", "inputs"}
"""Names whose values differ between two runs of the same thing."""
LEFT_OUT = {"digests.json"}
"""Times and inodes of files, so that they need not be read again."""


def differences(found: Path, expected: Path) -> list[str]:
    """A line for each file that only one of the roots has, or whose content differs."""
    ours, theirs = files(found), files(expected)
    lines = [f"{name} is missing" for name in sorted(theirs.keys() - ours.keys())]
    lines += [f"{name} should not be there" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        try:
            if not same(ours[name], theirs[name]):
                lines.append(f"{name} differs")
        except Exception as error:  # whatever a half-written file makes of its reader
            lines.append(f"{name} cannot be read: {type(error).__name__}: {error}")
    return lines


def files(root: Path) -> dict[str, Path]:
    """Relative path → file, of all that is a result."""
    return {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in LEFT_OUT
        and path.parent.name != "tensorboard"
    }


def same(first: Path, second: Path) -> bool:
    """Whether two files hold the same."""
    if first.read_bytes() == second.read_bytes():
        return True
    read = READERS.get(first.suffix)
    return read is not None and equal(read(first), read(second))


def equal(first: Any, second: Any) -> bool:
    """Of nested dicts, lists, arrays, tensors and tables; exactly."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            name in OF_A_RUN or equal(value, second[name]) for name, value in first.items()
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
    """By member: the zip around them holds the time."""
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
"""Suffix → what is compared where the bytes differ; all others are their bytes."""
