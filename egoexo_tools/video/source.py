"""Reads byte ranges of a file on disk or behind a URL, and the boxes of an MP4 file.

A source counts the bytes that it reads, so that network savings can be reported. An MP4 file is a
flat list of boxes: a small index (`moov`, or many `moof`) and the pictures (`mdat`). `IndexView`
presents the file to a demuxer with all boxes except the pictures, which read as zeros. So listing
the packets costs the bytes of the index, not those of the video.
"""

import io
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from egoexo_tools.errors import DataError

_FIRST_READ = 1 << 16
"""Bytes of the first request: the headers of the first boxes, and the index of a small file."""
_CONNECTIONS = 16
"""Kept open per server, for threads that read in parallel."""
_PIECE_BYTES = 1 << 18
"""Data received before a broken connection is kept in pieces of this size."""
_TRIES = 4
_PAYLOADS = {b"mdat", b"free", b"skip", b"wide"}
_MOST_BOXES = 1_000_000
_MOST_INDEX_BYTES = 1 << 28
"""An hour at 60 fps has an index of a few megabytes."""
_MOST_PACKETS = 5_000_000
"""Two days at 30 fps. A demuxer allocates memory for every packet that the index lists."""
_COUNT_FIELDS = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8))
"""Names of packet tables, and the offset from the name to the number of packets."""
_ZEROS = bytes(1 << 20)


class ByteSource:
    """A file of `size` bytes that is read by ranges, by several threads."""

    name: str
    """For messages; a URL without its query, which may contain a signature."""
    size: int
    gap_bytes: int
    """Reading up to this many unneeded bytes costs less than a separate read."""
    chunk_bytes: int
    """A read larger than this is not faster than several reads."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._lock = Lock()

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the end of the file."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _count(self, data: bytes) -> bytes:
        with self._lock:
            self.bytes_read += len(data)
        return data


class LocalFile(ByteSource):
    """A file on disk."""

    gap_bytes = 0
    chunk_bytes = 1 << 20

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        # Opening a named pipe waits for a writer, which the tests of hanging units rely on.
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, length: int) -> bytes:
        # pread allocates the requested length, and a damaged index may request any length.
        length = max(0, min(length, self.size - start))
        return self._count(os.pread(self._file.fileno(), length, start))

    def close(self) -> None:
        self._file.close()


class HttpFile(ByteSource):
    """A file behind a URL whose server supports byte ranges.

    Sends only GET requests, for which presigned URLs are valid. Uses the proxies of the
    environment (HTTPS_PROXY, NO_PROXY), keeps connections open and retries after temporary errors.
    Raises DataError if the server denies the request or ignores ranges, or the file changes.
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
        self.etag: str | None = None
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
        """The bytes of a range; requests the rest again if the connection ends early."""
        data = b""
        for attempt in range(_TRIES):
            piece, error = self._request(start + len(data), length - len(data))
            data += piece
            if len(data) >= min(length, self.size - start):
                return data
            if not piece:
                time.sleep(0.25 * attempt)
        raise DataError(
            f"{self.name} sent only {len(data):,} of {length:,} bytes in {_TRIES} requests "
            f"({error or 'the connection ended early'}); check the network and try again"
        )

    def _request(self, start: int, length: int) -> tuple[bytes, str | None]:
        """The received bytes of a range, and why the rest is missing."""
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
            # Do not let a server that ignores the range send a whole video.
            answer.close()
            raise DataError(
                f"{self.name} answered {answer.status}; {_ADVICE.get(answer.status, _OTHER_ADVICE)}"
            )
        self._check_unchanged(answer.headers.get("ETag"), answer.headers.get("Content-Range", ""))
        pieces: list[bytes] = []
        problem = None
        try:
            while (remaining := length - sum(map(len, pieces))) > 0:
                pieces.append(answer.read(min(remaining, _PIECE_BYTES)))
                if not pieces[-1]:
                    break
            answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            answer.close()
            problem = type(error).__name__
        return self._count(b"".join(pieces)), problem

    def _check_unchanged(self, etag: str | None, content_range: str) -> None:
        total = content_range.rpartition("/")[2]
        if not total.isdigit():
            raise DataError(
                f"{self.name} does not report its size (Content-Range: {content_range!r})"
            )
        # The file may be replaced between two requests, which would mix two videos.
        if self.size and (int(total), etag) != (self.size, self.etag):
            raise DataError(f"{self.name} changed during reading; try again")
        self.size, self.etag = int(total), etag


_ADVICE = {
    200: "it ignores byte ranges, so download the file first",
    401: "the URL requires a login; create a presigned URL",
    403: "access is denied; a presigned URL may have expired, create a new one",
    404: "there is no such file",
    416: "the file is empty",
}
_OTHER_ADVICE = "try again later or download the file first"


def open_source(path: str | Path) -> ByteSource:
    """Open a file or a URL (`http://` or `https://`).

    Raises DataError if the file does not exist or the server does not return it.
    """
    if is_url(path):
        return HttpFile(str(path))
    try:
        return LocalFile(Path(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"there is no video {path}; download it first") from error


def read_identity(path: str | Path) -> bytes:
    """Bytes that differ if the video does, without reading its pictures.

    Of a URL, size and ETag; of an MP4 file, all but the pictures; of another file, both ends.
    Raises DataError as `open_source`.
    """
    with closing(open_source(path)) as source:
        if isinstance(source, HttpFile):
            return f"{source.size} {source.etag}".encode()
        with suppress(DataError):  # a damaged index, which is reported when the frames are read
            if (index := read_mp4_index(source)) is not None:
                return b"".join(index.parts)
        return source.read(0, _FIRST_READ) + source.read(
            max(0, source.size - _FIRST_READ), _FIRST_READ
        )


def is_url(path: str | Path) -> bool:
    return isinstance(path, str) and path.startswith(("http://", "https://"))


def read_pieces(source: ByteSource, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[bytes]:
    """Yield the pieces in order; neighbours share a read of about `source.chunk_bytes`.

    A piece that extends beyond the end of the file is shortened.
    """
    idx = 0
    while idx < len(starts):
        start = starts[idx]
        end = start + sizes[idx]
        last = idx + 1
        # Extend the read over following pieces as long as the gaps are cheaper than a new request.
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
    """A top-level box of an MP4 file: type, and the positions of its start, content and end."""

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
    """The bytes of each box; of pictures and padding only the header."""

    @property
    def has_packets(self) -> bool:
        """Whether the list of packets, or the first part of it, exists."""
        return any(box.kind == b"moov" for box in self.boxes)


def read_mp4_index(source: ByteSource) -> Mp4Index | None:
    """The index of an MP4 or MOV file; None for other files."""
    boxes = _boxes(source)
    if not boxes:
        return None
    ends = [box.content if box.kind in _PAYLOADS else box.end for box in boxes]
    size = sum(min(end, source.size) - box.start for box, end in zip(boxes, ends, strict=True))
    if size > _MOST_INDEX_BYTES:
        raise DataError(f"{source.name} has an index of {size:,} bytes, more than any video needs")
    parts = (source.read(box.start, end - box.start) for box, end in zip(boxes, ends, strict=True))
    index = Mp4Index(tuple(boxes), tuple(parts))
    for part in index.parts:
        _check_packet_counts(part, source)
    return index


def _check_packet_counts(part: bytes, source: ByteSource) -> None:
    """DataError if a part of the index lists more packets than the file can contain."""
    for name, offset in _COUNT_FIELDS:
        position = part.find(name)
        while position >= 0:
            count = int.from_bytes(part[position + offset : position + offset + 4])
            if count > min(_MOST_PACKETS, source.size):
                raise DataError(
                    f"{source.name} lists {count:,} packets in {source.size:,} bytes; its index "
                    "is damaged"
                )
            position = part.find(name, position + 1)


def _boxes(source: ByteSource) -> list[Box]:
    boxes: list[Box] = []
    start = 0
    while start + 8 <= source.size and len(boxes) < _MOST_BOXES:
        # A 32-bit length and the type; length 1 announces a 64-bit length, 0 the end of the file.
        header = source.read(start, 16)
        length, kind, content = int.from_bytes(header[:4]), header[4:8], start + 8
        # Any bytes can look like a box, so the first one must have a type that starts MP4 files.
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
    """A file object for a demuxer: an MP4 file whose pictures read as zeros.

    Its length is the one that the boxes state, so a truncated file still lists every packet.
    """

    def __init__(self, index: Mp4Index) -> None:
        self._length = index.boxes[-1].end
        self._position = 0
        self._starts = [box.start for box in index.boxes]
        self._parts = index.parts

    def read(self, size: int = -1) -> bytes:
        remaining = self._length - self._position
        size = remaining if size < 0 else min(size, remaining)
        data = self._at(self._position, size) if size > 0 else b""
        self._position += len(data)
        return data

    def _at(self, position: int, size: int) -> bytes:
        """At least one byte, up to the next change between real bytes and zeros."""
        next_box = bisect_right(self._starts, position)
        if next_box:
            part, offset = self._parts[next_box - 1], position - self._starts[next_box - 1]
            if offset < len(part):
                return part[offset : offset + size]
        if next_box < len(self._starts):
            size = min(size, self._starts[next_box] - position)
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
