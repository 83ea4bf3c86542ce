"""Bytes of a file on disk or behind a URL, by range; and what an MP4 file consists of.

A source counts what it reads, so that reading over a network can say how much it saved. The
layout of an MP4 file is a flat list of boxes: a small index (`moov`, or many `moof`) and the
pictures (`mdat`). `IndexView` is the file as a demuxer needs it to list packets: every box but
the pictures, which read as zeros. So the list costs the index's bytes, not the video's.
"""

import io
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from egoexo_tools.errors import DataError

_FIRST_READ = 1 << 16
"""Bytes of the first request of a URL: the first boxes' headers, and a small file's index."""
_CONNECTIONS = 16
"""Kept open to one server, for threads that read side by side."""
_PIECE_BYTES = 1 << 18
"""What came before a connection broke is kept in pieces of this size."""
_TRIES = 4
_PAYLOADS = {b"mdat", b"free", b"skip", b"wide"}
_MOST_BOXES = 1_000_000
_MOST_INDEX_BYTES = 1 << 28
"""An hour at 60 frames a second has an index of some megabytes."""
_MOST_PACKETS = 5_000_000
"""Two days at 30 a second; a demuxer takes memory for every packet that a file claims to have."""
_COUNTS = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8))
"""Tables of packets, and how far behind their names they say how many."""
_ZEROS = bytes(1 << 20)


class ByteSource(Protocol):
    """A file of `size` bytes that is read by range."""

    name: str
    """For messages; a URL without its query, which may hold a signature."""
    size: int
    bytes_read: int
    gap_bytes: int
    """Unneeded bytes that cost less to read than another read costs."""
    chunk_bytes: int
    """Beyond that, one large read is no faster than several."""

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the end of the file."""
        ...

    def close(self) -> None: ...


class _Counted:
    """Adds up what is read, by several threads too."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._lock = Lock()

    def _count(self, data: bytes) -> bytes:
        with self._lock:
            self.bytes_read += len(data)
        return data


class LocalFile(_Counted):
    """A file on disk."""

    gap_bytes = 0
    chunk_bytes = 1 << 20

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        # The plain open of a pipe waits for a writer; a decoder that hangs is tested with one.
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, length: int) -> bytes:
        # Room is taken for all that is asked for, and what a damaged index asks for is no size.
        length = max(0, min(length, self.size - start))
        return self._count(os.pread(self._file.fileno(), length, start))

    def close(self) -> None:
        self._file.close()


class HttpFile(_Counted):
    """A file behind a URL (a presigned one too: GET requests only) that answers ranges.

    Proxies are the environment's (HTTPS_PROXY, NO_PROXY). Connections are kept open; a request
    that fails for a passing reason is sent again.
    Raises DataError where the server refuses, ignores ranges, or the file changes meanwhile.
    """

    gap_bytes = 1 << 17
    chunk_bytes = 1 << 22

    def __init__(self, url: str) -> None:
        import urllib3

        super().__init__()
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.hostname}{parts.path}"
        self.size = 0
        self._url = url
        self._etag: str | None = None
        settings: dict[str, Any] = {
            "maxsize": _CONNECTIONS,
            "timeout": urllib3.Timeout(connect=20, read=60),
            "retries": urllib3.Retry(
                4, connect=1, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503)
            ),
        }
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        self._pool = (
            urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
        )
        self._head = self._get(0, _FIRST_READ)

    def read(self, start: int, length: int) -> bytes:
        length = min(length, self.size - start)
        if length <= 0:
            return b""
        if start + length <= len(self._head):
            return self._head[start : start + length]
        return self._get(start, length)

    def close(self) -> None:
        self._pool.clear()

    def _get(self, start: int, length: int) -> bytes:
        """The bytes of a range; where the connection ends early, the rest is asked for again."""
        data = b""
        for attempt in range(_TRIES):
            piece, error = self._ask(start + len(data), length - len(data))
            data += piece
            if len(data) >= min(length, self.size - start):
                return data
            if not piece:
                time.sleep(0.25 * attempt)
        raise DataError(
            f"{self.name} sent {len(data):,} of {length:,} bytes, {_TRIES} times "
            f"({error or 'it ended early'}); check the network and try again"
        )

    def _ask(self, start: int, length: int) -> tuple[bytes, str | None]:
        """What came of a range, and why no more of it did."""
        import urllib3

        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        try:
            answer = self._pool.request("GET", self._url, headers=headers, preload_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise DataError(
                f"{self.name} cannot be read ({type(error).__name__}); "
                "check the network and try again"
            ) from error
        if answer.status != 206:
            # A server that ignores the range must not send a whole video.
            answer.close()
            raise DataError(
                f"{self.name} answered {answer.status}; {_ADVICE.get(answer.status, _OTHER)}"
            )
        self._check_same(answer.headers.get("ETag"), answer.headers.get("Content-Range", ""))
        pieces: list[bytes] = []
        problem = None
        try:
            while (left := length - sum(map(len, pieces))) > 0:
                pieces.append(answer.read(min(left, _PIECE_BYTES)))
                if not pieces[-1]:
                    break
            answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            answer.close()
            problem = type(error).__name__
        return self._count(b"".join(pieces)), problem

    def _check_same(self, etag: str | None, content_range: str) -> None:
        total = content_range.rpartition("/")[2]
        if not total.isdigit():
            raise DataError(
                f"{self.name} does not tell its size (Content-Range: {content_range!r})"
            )
        if self.size and (int(total), etag) != (self.size, self._etag):
            raise DataError(f"{self.name} changed while it was read; try again")
        self.size, self._etag = int(total), etag


_ADVICE = {
    200: "it ignores byte ranges, so the file must be downloaded first",
    401: "the URL needs a login; make a presigned one",
    403: "access is denied; a presigned URL may have expired, make a new one",
    404: "there is no such file",
    416: "the file is empty",
}
_OTHER = "try again later or download the file first"


def open_source(path: str | Path) -> ByteSource:
    """The bytes of a file, or of a URL (`http://` or `https://`).

    Raises DataError where there is no such file or the server does not give it.
    """
    if is_url(path):
        return HttpFile(str(path))
    try:
        return LocalFile(Path(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"there is no video {path}; download it first") from error


def is_url(path: str | Path) -> bool:
    return isinstance(path, str) and path.startswith(("http://", "https://"))


def read_pieces(source: ByteSource, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[bytes]:
    """The pieces in order, neighbours in one read of at most about `source.chunk_bytes`.

    A piece that lies (partly) beyond the end of the file comes out short.
    """
    idx = 0
    while idx < len(starts):
        start = starts[idx]
        end = start + sizes[idx]
        last = idx + 1
        while (
            last < len(starts)
            and end <= starts[last] <= end + source.gap_bytes
            and starts[last] + sizes[last] - start <= source.chunk_bytes
        ):
            end = starts[last] + sizes[last]
            last += 1
        data = source.read(start, end - start)
        for piece in range(idx, last):
            yield data[starts[piece] - start : starts[piece] - start + sizes[piece]]
        idx = last


class Box(NamedTuple):
    """A top-level box of an MP4 file: type, first byte, first byte of content, byte after it."""

    kind: bytes
    start: int
    content: int
    end: int


@dataclass(frozen=True)
class Mp4Index:
    """An MP4 file without its pictures."""

    boxes: tuple[Box, ...]
    """The top-level boxes in order; the last may end beyond a truncated file."""
    parts: tuple[bytes, ...]
    """For each box its bytes, or of pictures and padding the header alone."""

    @property
    def holds_packets(self) -> bool:
        """Whether the list of packets, or the first part of it, is there."""
        return any(box.kind == b"moov" for box in self.boxes)


def read_mp4_index(source: ByteSource) -> Mp4Index | None:
    """The index of an MP4 or MOV file; None where the file is none."""
    boxes = _boxes(source)
    if not boxes:
        return None
    ends = [box.content if box.kind in _PAYLOADS else box.end for box in boxes]
    size = sum(min(end, source.size) - box.start for box, end in zip(boxes, ends, strict=True))
    if size > _MOST_INDEX_BYTES:
        raise DataError(f"{source.name} has an index of {size:,} bytes, which no video needs")
    parts = (source.read(box.start, end - box.start) for box, end in zip(boxes, ends, strict=True))
    index = Mp4Index(tuple(boxes), tuple(parts))
    for part in index.parts:
        _check_counts(part, source)
    return index


def _check_counts(part: bytes, source: ByteSource) -> None:
    """DataError where a part of the index claims more packets than the file can hold."""
    for kind, behind in _COUNTS:
        place = part.find(kind)
        while place >= 0:
            count = int.from_bytes(part[place + behind : place + behind + 4])
            if count > min(_MOST_PACKETS, source.size):
                raise DataError(
                    f"{source.name} claims {count:,} packets in {source.size:,} bytes; its index "
                    "is damaged"
                )
            place = part.find(kind, place + 1)


def _boxes(source: ByteSource) -> list[Box]:
    boxes: list[Box] = []
    start = 0
    while start + 8 <= source.size and len(boxes) < _MOST_BOXES:
        header = source.read(start, 16)
        length, kind, content = int.from_bytes(header[:4]), header[4:8], start + 8
        if not boxes and kind not in {b"ftyp", b"moov", b"styp", *_PAYLOADS}:
            return []
        if length == 1:
            length, content = int.from_bytes(header[8:16]), start + 16
        elif length == 0:
            length = source.size - start
        if length < content - start:
            break
        boxes.append(Box(kind, start, content, start + length))
        start += length
    return boxes


class IndexView(io.RawIOBase):
    """An MP4 file whose pictures read as zeros, as a file object for a demuxer.

    As long as the file says that it is: a truncated file's index still lists every packet.
    """

    def __init__(self, index: Mp4Index) -> None:
        self._length = index.boxes[-1].end
        self._position = 0
        self._starts = [box.start for box in index.boxes]
        self._parts = index.parts

    def read(self, size: int = -1) -> bytes:
        room = self._length - self._position
        size = room if size < 0 else min(size, room)
        data = self._at(self._position, size) if size > 0 else b""
        self._position += len(data)
        return data

    def _at(self, position: int, size: int) -> bytes:
        """At least one byte, up to the next change between real bytes and zeros."""
        after = bisect_right(self._starts, position)
        if after:
            inside = position - self._starts[after - 1]
            if inside < len(self._parts[after - 1]):
                return self._parts[after - 1][inside : inside + size]
        if after < len(self._starts):
            size = min(size, self._starts[after] - position)
        return _ZEROS[:size]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
