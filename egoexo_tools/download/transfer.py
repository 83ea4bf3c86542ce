"""Fetches objects into files: several at a time, resumed within a file, verified at the end.

A file grows as `<name>.partial`, with the object's ETag in `<name>.partial.etag`, so that a stopped
run continues at the byte where it stopped, provided that the object has not changed. The file gets
its final name when it has the manifest's size and, for a video, when its container opens and holds
all its frames. Files that are already on disk are checked in the same way.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from egoexo_tools.download.s3 import S3
from egoexo_tools.download.s3_errors import (
    OBJECT_ERRORS,
    TRANSIENT_ERRORS,
    S3Error,
    S3ErrorKind,
    translate_errors,
)
from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, write_atomic
from egoexo_tools.running.progress import Progress, open_progress, skip_progress
from egoexo_tools.video.frames import probe

logger = logging.getLogger(__name__)

CONNECTIONS = 8
"""Files at a time; one connection to S3 seldom exceeds 50 MB/s."""
_CHUNK_BYTES = 1 << 18
_ATTEMPTS = 4
"""For a file, in a row without a byte of progress."""
_VERIFY_ATTEMPTS = 2


@dataclass(frozen=True)
class RemoteFile:
    """An object to fetch, and the file to write."""

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
        """Bytes that do not have to be fetched again, unless they prove to be wrong."""
        for path in (self.path, self.partial):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def remove(self) -> None:
        for path in (self.path, self.partial, self.etag_path):
            path.unlink(missing_ok=True)


class Stopped(Exception):
    """The user stopped the run, or another file met an error that ends it."""


@dataclass
class Meter:
    """Counts received bytes for all threads: progress bar, rate limit, request to stop."""

    bar: Progress
    max_bytes_per_second: float | None = None
    received: int = 0
    """Bytes that came over the network."""
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _start_seconds: float = field(default_factory=time.monotonic)

    def add_received(self, amount: int) -> None:
        """Count received bytes; waits to keep the rate limit, raises Stopped on request."""
        with self._lock:
            self.received += amount
            self.bar.update(amount)
            due = self.received / self.max_bytes_per_second if self.max_bytes_per_second else 0.0
        early = due - (time.monotonic() - self._start_seconds)
        if (early > 0 and self.stop.wait(early)) or self.stop.is_set():
            raise Stopped

    def add_present(self, amount: int) -> None:
        """Count bytes that are on disk already; negative where they proved to be wrong.

        They move the bar, but not the rate and the remaining time that it shows.
        """
        with self._lock:
            skip_progress(self.bar, amount)


@contextmanager
def open_meter(
    files: Sequence[RemoteFile], *, quiet: bool, max_bytes_per_second: float | None = None
) -> Iterator[Meter]:
    """A meter whose bar shows the bytes of all files: share, rate, remaining time."""
    total = sum(file.size for file in files)
    with open_progress(total=total, desc="download", unit="B", is_bytes=True, quiet=quiet) as bar:
        yield Meter(bar, max_bytes_per_second)


@dataclass
class FetchResult:
    """The outcome for each file."""

    fetched: list[RemoteFile] = field(default_factory=list)
    """Fetched by this call, at least in part."""
    present: list[RemoteFile] = field(default_factory=list)
    """On disk before, and correct."""
    failed: dict[RemoteFile, str] = field(default_factory=dict)
    """File → why it is missing."""


def fetch_all(
    s3: S3, files: Sequence[RemoteFile], meter: Meter, *, connections: int = CONNECTIONS
) -> FetchResult:
    """Fetch the files that are not on disk yet, complete and correct.

    A file that cannot be fetched is recorded in the result, and the others continue. Raises
    S3Error for an error that all of them would meet: key, network, proxy.
    """
    result = FetchResult()
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="fetch") as pool:
        running = {pool.submit(fetch, s3, file, meter): file for file in files}
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    file = running.pop(future)
                    try:
                        (result.fetched if future.result() else result.present).append(file)
                    except (DataError, OSError) as error:
                        # Keys expire after 14 days: a thousand files would fail for one reason.
                        if isinstance(error, S3Error) and error.kind not in OBJECT_ERRORS:
                            raise
                        result.failed[file] = str(error)
        except BaseException:
            # The threads must end before the caller goes on: they write files.
            meter.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return result


def fetch(s3: S3, file: RemoteFile, meter: Meter) -> bool:
    """Fetch one file; False if it was on disk already. Raises DataError with the reason."""
    if meter.stop.is_set():
        raise Stopped
    # The official downloader accepts a file of the right size without opening it, and exits with 0
    # after one of the wrong size, so the folders that it filled are verified like our own.
    if file.path.exists():
        problem = verify(file)
        if problem is None:
            meter.add_present(file.path.stat().st_size)
            return False
        logger.warning("%s: %s; it is fetched again", file.path, problem)
        file.path.unlink()
    # A second attempt helps against damage on the way, but not against a damaged object.
    for _ in range(_VERIFY_ATTEMPTS):
        _receive(s3, file, meter)
        problem = verify(file, file.partial)
        if problem is None:
            file.partial.replace(file.path)
            file.etag_path.unlink(missing_ok=True)
            return True
        meter.add_present(-file.partial.stat().st_size)
        file.remove()
    raise DataError(f"{problem}, also when it is fetched again; the bucket's copy is damaged")


def verify(file: RemoteFile, path: Path | None = None) -> str | None:
    """The problem of a fetched file, or None: its size, and the container of a video."""
    path = path or file.path
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size:,} bytes, the manifest says {file.size:,}"
    # An empty video is what the manifest says here; the stage that reads it reports it.
    if not size or file.path.suffix.lower() != ".mp4":
        return None
    try:
        info = probe(path)
    except DataError as error:
        return str(error)
    if info.frames_present < info.frames:
        return f"it holds {info.frames_present:,} of the {info.frames:,} frames that it lists"
    return None


def _receive(s3: S3, file: RemoteFile, meter: Meter) -> None:
    """Complete the partial file, however often the connection breaks."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    length = _length(file.partial)
    # Without its ETag, a partial file may be of any version of the object.
    if length and (not file.etag_path.exists() or length > file.size):
        file.remove()
    else:
        meter.add_present(length)
    attempts = 0
    while True:
        length = _length(file.partial)
        try:
            return _receive_rest(s3, file, meter)
        except S3Error as error:
            # Gigabytes must arrive over a line that breaks every minute: only attempts in a row
            # without progress count.
            attempts = 1 if _length(file.partial) > length else attempts + 1
            if error.kind not in TRANSIENT_ERRORS or attempts >= _ATTEMPTS:
                raise
            if meter.stop.wait(2.0**attempts / 4):  # unlike sleep, it ends when the run stops
                raise Stopped from None


def _receive_rest(s3: S3, file: RemoteFile, meter: Meter) -> None:
    """Append the bytes that the partial file lacks, over one connection."""
    start = _length(file.partial)
    if start and start == file.size:
        return
    etag = file.etag_path.read_text() if start else None
    try:
        stream = s3.open(file.url, start=start, etag=etag)
    except S3Error as error:
        if not start or error.kind is not S3ErrorKind.CHANGED:
            raise
        meter.add_present(-start)
        file.remove()
        stream = s3.open(file.url)
    with closing(stream.body):
        if stream.size != file.size:  # before gigabytes arrive that are known to be wrong
            file.remove()
            raise DataError(
                f"{file.url} has {stream.size:,} bytes in the bucket, the manifest says "
                f"{file.size:,}; the bucket's copy is damaged, or the manifest is of another "
                "version"
            )
        # Before the first byte: the next run cannot use a partial file of an unknown version.
        if not stream.start:
            write_atomic(file.etag_path, stream.etag)
        # A server without ranges starts at 0 again, and the bytes on disk are overwritten.
        with file.partial.open("r+b" if stream.start else "wb") as out:
            out.seek(stream.start)
            position = stream.start
            while position < stream.size:
                with translate_errors(file.url, profile=s3.profile):
                    data = stream.body.read(_CHUNK_BYTES)
                if not data:
                    message = f"{file.url} ended early; run the same command again to continue"
                    raise S3Error(S3ErrorKind.INTERRUPTED, message)
                out.write(data)
                position += len(data)
                meter.add_received(len(data))


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
