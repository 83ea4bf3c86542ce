"""All paths of a release (read) and of a dataset root (written), as methods.

Names from files (take names, take_uids, cameras, object names) are untrusted. Each must be a valid
path component, so that no path leaves its root. Files are written through `atomic_path`: to a
sibling that is then renamed, so a reader never sees a half-written file.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction, Split

PARTIAL_SUFFIX = ".partial"
DOWNSCALED_448 = 448
"""Short side, in pixels, of the small copies that the release contains."""
RESOLUTIONS: Mapping[str, int | None] = {"full": None, "448": DOWNSCALED_448}
"""Name of a copy of the videos on the command line → its short side; None is the full size."""


_PARTIAL_NAME = re.compile(rf".*\.[0-9a-f]{{12}}{re.escape(PARTIAL_SUFFIX)}")
_WRITES: ContextVar[set[Path] | None] = ContextVar("writes", default=None)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a sibling file to write; it replaces `path` on success and is deleted on error.

    The sibling's name is unique and it is locked until then, so that two writers of one file do not
    interfere, and a later process can tell and delete what a killed one left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    partial, lock = _create_partial(path)
    try:
        yield partial
        os.replace(partial, path)
        note_write(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


@contextmanager
def record_writes() -> Iterator[set[Path]]:
    """Yield a set; every file that this thread completes by `atomic_path` is added to it."""
    paths: set[Path] = set()
    token = _WRITES.set(paths)
    try:
        yield paths
    finally:
        _WRITES.reset(token)


def note_write(path: Path) -> None:
    """Add a file to `record_writes`: one that was placed in another way, or is already right."""
    if (paths := _WRITES.get()) is not None:
        paths.add(path)


def _create_partial(path: Path) -> tuple[Path, int]:
    """A new locked file beside `path`, and its descriptor, which holds the lock."""
    while True:
        # Of a long name only the beginning: a file name has at most 255 bytes.
        name = f"{path.name[:50]}.{uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}"
        partial = path.with_name(name)
        lock = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with suppress(OSError):  # a file system without locks: then nobody deletes the file either
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have taken it for a leftover before it was locked.
        if partial.exists():
            return partial, lock
        os.close(lock)


@lru_cache(maxsize=4096)
def _remove_leftovers(folder: Path) -> None:
    """Delete the partial files of dead writers; once per process, as listing a folder takes time.

    The lock of a writer disappears with its process.
    """
    try:
        names = [name for name in os.listdir(folder) if _PARTIAL_NAME.fullmatch(name)]
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            file = os.open(folder / name, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(folder / name)
            finally:
                os.close(file)


def write_atomic(path: Path, data: bytes | memoryview | str) -> None:
    """Write a whole small file through `atomic_path`; text as UTF-8."""
    with atomic_path(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def path_component(name: str) -> str:
    """Return `name` unchanged; DataError if it is empty, `..`, or contains a separator or NUL."""
    if not name or name in {".", ".."} or any(char in name for char in "/\\\0"):
        raise DataError(f"{name!r} cannot be a file name; the file that contains it is damaged")
    return name


@dataclass(frozen=True)
class Release:
    """An Ego-Exo4D release as downloaded: takes.json, annotations/, takes/<take_name>/."""

    path: Path

    @property
    def takes_json(self) -> Path:
        return self.path / "takes.json"

    @property
    def splits_json(self) -> Path:
        return self.path / "annotations" / "splits.json"

    def relations_json(self, split: Split) -> Path:
        return self.path / "annotations" / f"relations_{split}.json"

    def inside(self, relative: str) -> Path:
        """A path named in a release file; DataError if it leaves the release."""
        candidate = Path(relative)
        if candidate.is_absolute() or ".." in candidate.parts:
            raise DataError(f"{relative!r} points outside the release {self.path}")
        return self.path / candidate

    def take_dir(self, take_name: str) -> Path:
        return self.path / "takes" / path_component(take_name)

    def video(self, take_name: str, camera: str, *, short_side: int | None = None) -> Path:
        """The frame-aligned video; `short_side=448` is the small copy."""
        folder = self.take_dir(take_name) / "frame_aligned_videos"
        if short_side is not None:
            folder = folder / "downscaled" / str(short_side)
        return folder / f"{path_component(camera)}.mp4"

    def find_video(self, take_name: str, camera: str, *, short_side: int | None = None) -> Path:
        """The video as it is on disk, where some copies have an upper-case suffix."""
        path = self.video(take_name, camera, short_side=short_side)
        spellings = [path, path.with_suffix(".MP4"), path.with_suffix(".Mp4")]
        return next((spelling for spelling in spellings if spelling.exists()), path)

    def require(self) -> "Release":
        """Return self if this is a release; otherwise DataError with the next step."""
        if not self.takes_json.is_file():
            raise DataError(
                f"{self.path} is not an Ego-Exo4D release: it has no takes.json; give the folder "
                "that `egoexo-tools download` or `egoexo-tools synthesize` wrote"
            )
        return self


@dataclass(frozen=True)
class DatasetRoot:
    """A dataset root: manifests and frames (the source of truth), status files, exports, runs."""

    path: Path

    @property
    def manifests(self) -> Path:
        return self.path / "manifests"

    def table(self, name: str) -> Path:
        """The directory of one Parquet table."""
        return self.manifests / path_component(name)

    def part(self, table: str, unit: str) -> Path:
        """The Parquet file that one unit writes into a table."""
        return self.table(table) / f"{path_component(unit)}.parquet"

    def status(self, stage: str, unit: str) -> Path:
        return self.status_dir(stage) / f"{path_component(unit)}.json"

    def status_dir(self, stage: str) -> Path:
        return self.path / "status" / path_component(stage)

    @property
    def takes_json(self) -> Path:
        return self.path / "takes.json"

    @property
    def processed(self) -> Path:
        return self.path / "processed"

    @property
    def split_json(self) -> Path:
        return self.processed / "split.json"

    def annotation_json(self, take_uid: str) -> Path:
        return self.processed / path_component(take_uid) / "annotation.json"

    def frame(self, take_uid: str, camera: str, frame_idx: int) -> Path:
        return (
            self.processed / path_component(take_uid) / path_component(camera) / f"{frame_idx}.jpg"
        )

    def pairs_json(self, split: Split, direction: Direction) -> Path:
        return self.path / "dataset_jsons" / f"{split}_{direction.joined}_pairs.json"

    def masks_dir(self, split: Split, direction: Direction) -> Path:
        """The folder of destination-view proposals in O-MaMa's format."""
        return self.path / f"Masks_{split.upper()}_{direction.upper_name}"

    def features(self, key: str) -> Path:
        return self.path / "features" / path_component(key)

    @property
    def mapped(self) -> Path:
        """Tables that training maps into memory; made from the manifests when needed."""
        return self.path / "tables"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def require(self) -> "DatasetRoot":
        """Return self if ingest has written this root; otherwise DataError with the next step."""
        if not self.table("takes").is_dir():
            raise DataError(
                f"{self.path} is not a dataset root: it has no manifests/takes; make one with "
                "`egoexo-tools ingest ROOT --release RELEASE`"
            )
        return self

    def relative(self, path: Path) -> str:
        """`path` relative to the root, as stored in manifests (POSIX separators)."""
        return path.relative_to(self.path).as_posix()
