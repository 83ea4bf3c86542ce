"""Fetches objects into files: several at a time, resumed within a file, verified at the end.

A file grows as `<name>.partial`, with the object's ETag in `<name>.partial.etag`, so that a run
that was stopped at any moment goes on at the byte where it stopped, and only if the object is
still the same. It gets its name when it has the manifest's size and, if it is a video, when its
container opens and holds all its frames. What lies there already is checked the same way.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from egoexo_tools.download.s3 import S3, ObjectStream
from egoexo_tools.download.s3_errors import OF_ONE_OBJECT, PASSING, S3Error, Trouble, explained
from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, write_atomic
from egoexo_tools.running.progress import Progress, open_progress, skip_progress
from egoexo_tools.video.frames import probe

logger = logging.getLogger(__name__)

CONNECTIONS = 8
"""Files at a time; one connection to S3 seldom gives more than 50 MB/s."""
_CHUNK_BYTES = 1 << 18
_TRIES = 4
"""Of a file without a byte of progress between them."""
_VERIFY_TRIES = 2


@dataclass(frozen=True)
class RemoteFile:
    """An object to fetch, and where to."""

    url: str
    path: Path
    size: int
    """Bytes, as the manifest says."""
    take_uid: str | None = None
    camera: str | None = None

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + PARTIAL_SUFFIX)

    @property
    def etag_path(self) -> Path:
        return self.path.with_name(self.path.name + PARTIAL_SUFFIX + ".etag")

    def bytes_on_disk(self) -> int:
        """Bytes on disk that need not come again, if they turn out to be right."""
        for path in (self.path, self.partial):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def remove(self) -> None:
        for path in (self.path, self.partial, self.etag_path):
            path.unlink(missing_ok=True)


class Stopped(Exception):
    """Another file met a trouble that ends the run, or the user stopped it."""


@dataclass
class Meter:
    """Shared by all threads: bytes that came, the bar, the rate limit, and the wish to stop."""

    bar: Progress
    max_bytes_per_second: float | None = None
    received: int = 0
    """Bytes that came over the network."""
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: float = field(default_factory=time.monotonic)

    def got(self, amount: int) -> None:
        """Count bytes that came; waits where they came too fast, raises Stopped on request."""
        with self._lock:
            self.received += amount
            self.bar.update(amount)
            due = self.received / self.max_bytes_per_second if self.max_bytes_per_second else 0.0
        early = due - (time.monotonic() - self._started)
        if (early > 0 and self.stop.wait(early)) or self.stop.is_set():
            raise Stopped

    def known(self, amount: int) -> None:
        """Bytes that are here already; negative where they turned out to be wrong.

        They move the bar, and not the rate or the time left that it shows.
        """
        with self._lock:
            skip_progress(self.bar, amount)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


@contextmanager
def open_meter(
    files: Sequence[RemoteFile], *, quiet: bool, max_bytes_per_second: float | None = None
) -> Iterator[Meter]:
    """A meter with a bar over all bytes: share, rate, time left."""
    total = sum(file.size for file in files)
    with open_progress(total=total, desc="download", unit="B", is_bytes=True, quiet=quiet) as bar:
        yield Meter(bar, max_bytes_per_second)


@dataclass
class Fetched:
    """What became of the files."""

    came: list[RemoteFile] = field(default_factory=list)
    """Fetched now, at least in part."""
    were_here: list[RemoteFile] = field(default_factory=list)
    failed: dict[RemoteFile, str] = field(default_factory=dict)
    """Why, for each that is missing in the end."""


def fetch_all(
    s3: S3, files: Sequence[RemoteFile], meter: Meter, *, connections: int = CONNECTIONS
) -> Fetched:
    """Fetch what is not here, whole and right, yet.

    A file that cannot be had is named in the answer and the others go on. Raises S3Error for a
    trouble that all of them would meet: key, network, proxy.
    """
    result = Fetched()
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="fetch") as pool:
        running = {pool.submit(fetch, s3, file, meter): file for file in files}
        try:
            while running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    _record(result, running.pop(future), future)
        except BaseException:
            meter.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return result


def fetch(s3: S3, file: RemoteFile, meter: Meter) -> bool:
    """Fetch one file; True if bytes had to come. Raises DataError with the reason."""
    if meter.stop.is_set():
        raise Stopped
    # The stock downloader takes a file of the right size for whole and ends well with one of the
    # wrong size, so folders that it filled are looked at as closely as our own.
    if file.path.exists():
        problem = verify(file)
        if problem is None:
            meter.known(file.path.stat().st_size)
            return False
        logger.warning("%s: %s; it is fetched again", file.path, problem)
        file.path.unlink()
    for _ in range(_VERIFY_TRIES):
        _receive(s3, file, meter)
        problem = verify(file, file.partial)
        if problem is None:
            file.partial.replace(file.path)
            file.etag_path.unlink(missing_ok=True)
            return True
        meter.known(-file.partial.stat().st_size)
        file.remove()
    raise DataError(f"{problem}, also when it is fetched again; the bucket's copy is damaged")


def verify(file: RemoteFile, path: Path | None = None) -> str | None:
    """What is wrong with a file that was fetched, or None: its size, and a video's container."""
    path = path or file.path
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size:,} bytes, the manifest says {file.size:,}"
    if not size or file.path.suffix.lower() != ".mp4":
        return None  # the manifest says so: what reads an empty file names it
    try:
        info = probe(path)
    except DataError as error:
        return str(error)
    if info.frames_present < info.frames:
        return f"it holds {info.frames_present:,} of the {info.frames:,} frames that it lists"
    return None


def _record(result: Fetched, file: RemoteFile, future: "Future[bool]") -> None:
    try:
        (result.came if future.result() else result.were_here).append(file)
    except S3Error as error:
        # Keys end after 14 days: a thousand files would be named for one reason.
        if error.trouble not in OF_ONE_OBJECT:
            raise
        result.failed[file] = str(error)
    except (DataError, OSError) as error:
        result.failed[file] = str(error)


def _receive(s3: S3, file: RemoteFile, meter: Meter) -> None:
    """Bring the partial file to the object's end, however often the connection breaks."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    _count_partial(file, meter)
    while True:
        before = _length(file.partial)
        try:
            return _receive_rest(s3, file, meter)
        except S3Error as error:
            # Gigabytes over a line that breaks every minute must arrive: only tries in a row that
            # bring nothing count.
            tries = 1 if _length(file.partial) > before else tries + 1
            if error.trouble not in PASSING or tries >= _TRIES:
                raise
            if meter.stop.wait(2.0**tries / 4):  # not sleep: another file's end wakes it
                raise Stopped from None


def _count_partial(file: RemoteFile, meter: Meter) -> None:
    """What a stopped run left counts as here; without its ETag, or too long, it goes."""
    length = _length(file.partial)
    if length and (not file.etag_path.exists() or length > file.size):
        file.remove()
    else:
        meter.known(length)


def _receive_rest(s3: S3, file: RemoteFile, meter: Meter) -> None:
    start = _length(file.partial)
    if start and start == file.size:
        return
    etag = file.etag_path.read_text() if start else None
    try:
        opened = s3.open(file.url, start=start, etag=etag)
    except S3Error as error:
        if start and error.trouble is Trouble.CHANGED:
            meter.known(-start)
            file.remove()
            opened = s3.open(file.url)
        else:
            raise
    _check_size(file, opened)
    # Before the first byte: a partial file of which nobody knows the version is worth nothing.
    if not opened.start:
        write_atomic(file.etag_path, opened.etag)
    try:
        # A server that takes no ranges begins at 0 again: what was here is written over.
        with file.partial.open("r+b" if opened.start else "wb") as out:
            out.seek(opened.start)
            _copy(opened, out.write, file, meter, s3.profile)
    finally:
        opened.stream.close()


def _copy(
    opened: ObjectStream,
    write: Callable[[bytes], int],
    file: RemoteFile,
    meter: Meter,
    profile: str | None,
) -> None:
    position = opened.start
    while position < opened.size:
        with explained(file.url, profile=profile):
            data = opened.stream.read(_CHUNK_BYTES)
        if not data:
            raise S3Error(Trouble.INTERRUPTED, f"{file.url} ended early; run again to go on")
        write(data)
        position += len(data)
        meter.got(len(data))


def _check_size(file: RemoteFile, opened: ObjectStream) -> None:
    """Before the bytes come: gigabytes that are known to be wrong need not."""
    if opened.size != file.size:
        opened.stream.close()
        file.remove()
        raise DataError(
            f"{file.url} has {opened.size:,} bytes in the bucket, the manifest says "
            f"{file.size:,}; the bucket's copy is damaged, or the manifest is of another version"
        )


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
