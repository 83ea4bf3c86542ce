"""Exact frames out of a video, decoding only what they need; the only module that decodes by av.

A frame's number is its rank in presentation time among the frames that a player shows, so that
B-frames, open groups, edit lists, start times and uneven frame rates do not move it. The packet
list comes from the file's index alone (see `byte_source`); wanted frames are then decoded from
the keyframe before them, frames that nothing refers to are skipped on the way, and memory holds
a few pictures and the decoders' own. A URL works like a file, by byte ranges.

Pictures are RGB, uint8, (H, W, 3), turned and mirrored as the file's display matrix asks, in
the stream's own range and colour matrix (BT.601 where it names none, as FFmpeg does it).
Nothing is concealed: a frame whose packets are damaged or gone is named, never guessed.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import PacketSideData
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from egoexo_tools.errors import DataError
from egoexo_tools.running.executors import available_cores
from egoexo_tools.video.output import DAMAGED, Broken, Output, TooLate
from egoexo_tools.video.packets import PacketIndex, Run, hidden_test, reference_test
from egoexo_tools.video.read_ahead import in_order
from egoexo_tools.video.source import (
    ByteSource,
    IndexView,
    is_url,
    open_source,
    read_mp4_index,
    read_pieces,
)

Rgb = NDArray[np.uint8]

# Named, not guessed from content: FFmpeg also knows playlists, which open files and URLs.
_OTHER_FORMATS = {b"\x1aE\xdf\xa3": "matroska", b"G": "mpegts"}
_FRAMES_OF_SHORT_RUN = 2
"""Wanted frames of a run, in the mean."""

# Nothing is probed or guessed from pictures: they are zeros while the packets are listed.
_INDEX_OPTIONS = {"probesize": "32", "analyzeduration": "0", "fflags": "+noparse+nofillin"}
_UNFINISHED = "truncated or was never finished"


@dataclass(frozen=True)
class VideoInfo:
    """What a video's index says."""

    frames: int
    """Frames that a player shows."""
    frames_present: int
    """Those of them whose bytes the file holds; fewer where it is truncated."""
    height: int
    """As shown, in pixels."""
    width: int
    fps: float
    """Mean rate."""
    duration_seconds: float
    codec: str
    """FFmpeg's name, such as h264 or hevc."""
    groups: int
    """Keyframes."""
    size_bytes: int


@dataclass
class ReadReport:
    """What reading cost; give one to `read_frames` to have it filled in."""

    packets: int = 0
    """Packets in the video."""
    packets_read: int = 0
    """Packets handed to the decoder."""
    bytes_total: int = 0
    bytes_read: int = 0

    @property
    def share_saved(self) -> float:
        """Part of the file that was not read, 0 to 1."""
        return 1 - self.bytes_read / self.bytes_total if self.bytes_total else 0.0


class MissingFrames(DataError):
    """Some wanted frames cannot be had; all the others were given before this was raised."""

    def __init__(self, name: str, reasons: dict[int, str], frames: int) -> None:
        self.name = name
        self.frames = frames
        """The number of frames that the video's index lists."""
        self.reasons = dict(sorted(reasons.items()))
        """frame_idx → why."""
        first, why = next(iter(self.reasons.items()))
        numbers = ", ".join(str(frame_idx) for frame_idx in list(self.reasons)[:10])
        more = f" and {len(self.reasons) - 10} more" if len(self.reasons) > 10 else ""
        super().__init__(f"{name} does not give frames {numbers}{more}; frame {first}: {why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingFrames, (self.name, self.reasons, self.frames)


def probe(path: str | Path) -> VideoInfo:
    """What a video holds, from its index and its first picture.

    Raises DataError where `path` (a file or a URL) is no readable video.
    """
    with _open(path, threads=1) as video:
        index = video.index
        height, width = video.shown_hw()
        seconds = video.duration_seconds
        return VideoInfo(
            frames=index.frames,
            frames_present=int(video.is_held[index.decode_idx].sum()),
            height=height,
            width=width,
            fps=index.frames / seconds if seconds else 0.0,
            duration_seconds=seconds,
            codec=video.codec,
            groups=len(index.keys),
            size_bytes=video.source.size,
        )


def read_frames(
    path: str | Path,
    frame_idxs: Iterable[int],
    *,
    threads: int | None = None,
    report: ReadReport | None = None,
) -> Iterator[tuple[int, Rgb]]:
    """Yield (frame_idx, rgb uint8 (H, W, 3)) of the wanted frames, ascending, each once.

    `path` is a file or an http(s) URL (of a server that answers byte ranges, S3 presigned URLs
    among them). `threads` is the most that decode: all cores by default, fewer where pictures
    are so large that memory would grow.

    Raises DataError where the video cannot be read, and at the end MissingFrames, with numbers
    and reasons, where it does not hold a wanted frame or holds it damaged.
    """
    wanted = sorted({int(frame_idx) for frame_idx in frame_idxs})
    if wanted and wanted[0] < 0:
        raise DataError(f"{wanted[0]} is no frame number; they start at 0")
    report = report if report is not None else ReadReport()
    with _open(path, threads=threads or available_cores()) as video:
        total = video.index.frames
        lost = {
            frame_idx: f"beyond the video's end (it has {total} frames)"
            for frame_idx in wanted
            if frame_idx >= total
        }
        try:
            yield from video.pictures([idx for idx in wanted if idx < total], lost)
        finally:
            report.packets = len(video.index.pts)
            report.packets_read = video.packets_read
            report.bytes_total = video.source.size
            report.bytes_read = video.source.bytes_read
    if lost:
        raise MissingFrames(video.source.name, lost, total)


@contextmanager
def _open(path: str | Path, *, threads: int) -> Iterator["_Video"]:
    source = open_source(path)
    try:
        try:
            video = _Video(source, threads)
            yield video
            video.close()
        except av.error.FFmpegError as error:
            raise DataError(f"{source.name} is not a readable video ({error.strerror})") from error
    finally:
        source.close()


class _Video:
    """An open video: its packet index and its decoders."""

    def __init__(self, source: ByteSource, threads: int) -> None:
        self.source = source
        self._mp4 = read_mp4_index(source)
        if self._mp4 is not None and not self._mp4.holds_packets:
            raise DataError(
                f"{source.name} has no index (no moov box): it is {_UNFINISHED}; download it again"
            )
        self._container, stream = self._demuxer()
        self.codec = stream.codec_context.name
        self._codec_hw = (stream.codec_context.height, stream.codec_context.width)
        self._threads = max(1, threads)
        self._hidden: frozenset[int] = frozenset()
        """Decode indices of packets whose pictures are never shown."""
        self._settings: dict[int, PacketSideData] = {}
        """Decode index → the decoder settings that hold from this packet on."""
        self._places: dict[int, int] = {}
        """Byte in the file → decode index, where packets are found by seeking."""
        self.index = self._build_index(stream)
        self.duration_seconds = self._duration(stream)
        self._is_reference = reference_test(self.codec, stream.codec_context.extradata or b"")
        self._idle_decoders: dict[int, list[VideoCodecContext]] = {}
        """By their number of threads."""
        self._lock = Lock()
        self._orientation: tuple[bool, bool, bool] | None = None
        self.packets_read = 0
        if len(doubtful := self.index.packets_before_first_picture()):
            self.index = self.index.without(self._undecodable(doubtful))

    def close(self) -> None:
        self._container.close()

    @property
    def is_held(self) -> NDArray[np.bool_]:
        """(packets,) whether the file holds all of a packet's bytes."""
        return self.index.position + self.index.size <= self.source.size

    def shown_hw(self) -> tuple[int, int]:
        """Height and width of the first picture; what the index says if there is none."""
        for _, rgb in self.pictures([0] if self.index.frames else [], {}):
            return rgb.shape[0], rgb.shape[1]
        return self._codec_hw

    def pictures(self, frame_idxs: list[int], lost: dict[int, str]) -> Iterator[tuple[int, Rgb]]:
        """Yield the wanted frames, ascending; those that cannot be decoded go to `lost`.

        Short runs are decoded side by side, since the threads of one decoder wait for each other
        wherever a run begins. Of long ones, a decoder that is ahead would hold many pictures.
        """
        runs = self.index.runs(frame_idxs)
        is_short = len(frame_idxs) <= _FRAMES_OF_SHORT_RUN * len(runs)
        decoders = min(self._threads, len(runs)) if is_short and runs else 1
        threads = self._threads // decoders
        if threads > 1:
            threads += 1  # One of them is often waiting.
        sources = [partial(self._frames, run, lost, threads) for run in runs]
        frames = in_order(sources, threads=decoders, ahead=decoders + 1)
        with closing(frames):
            yield from map(self._shown, frames)

    def _frames(
        self, run: Run, lost: dict[int, str], threads: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield a run's wanted frames, unless they are lost.

        After the first error a run is decoded again by one thread, which tells the packet that
        is at fault: what does not build on it is kept.
        """
        runs = [run]
        while runs:
            run = runs.pop(0)
            left = set(run.frame_idxs)
            try:
                for frame_idx, frame in self._decode(run, threads):
                    left.remove(frame_idx)
                    yield frame_idx, frame
                    del frame  # 12 MB at 4K, until the next one comes
            except Broken as broken:
                if threads > 1:
                    runs, threads = self.index.runs(left, start=run.start) + runs, 1
                    continue
                gone = self._spoilt(left, broken.packet) or left
                lost.update(dict.fromkeys(gone, broken.reason))
                runs = self.index.runs(left - gone) + runs
            except TooLate as late:
                start = self.index.earlier_start(left, run.start)
                if start is None:
                    lost.update(dict.fromkeys(late.frame_idxs, "nothing before it can be decoded"))
                    left -= late.frame_idxs
                runs = self.index.runs(left, start=start) + runs

    def _spoilt(self, frame_idxs: set[int], packet: int) -> set[int]:
        """The frames that a broken packet takes with it.

        Itself alone if it is wanted (for no other may refer to it, which the next attempt
        shows), else those of its group and the next group's leading ones.
        """
        return {int(self.index.frame_idx[packet])} & frame_idxs or {
            frame_idx
            for frame_idx in frame_idxs
            if self.index.start_of(self.index.decode_idx[frame_idx]) <= packet
        }

    def _decode(self, run: Run, threads: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode a run, yield its wanted frames; raises Broken at the first error."""
        with self._decoder(threads) as decoder:
            yield from self._decode_with(decoder, run)

    def _decode_with(
        self, decoder: VideoCodecContext, run: Run
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        output = Output[av.VideoFrame](self.index, run)
        is_leading = self.index.is_leading(run.start, run.stop)
        for packet, data in enumerate(self._packets(run), run.start):
            if len(data) < self.index.size[packet]:
                yield from output.take(self._send(decoder, None, packet))
                raise Broken(packet, f"the file is {_UNFINISHED}")
            is_wanted = int(self.index.frame_idx[packet]) in output.wanted
            if is_leading[packet - run.start] or not (is_wanted or self._is_reference(data)):
                continue
            if packet not in self._hidden:
                output.expect(packet)
            try:
                frames = self._send(decoder, data, packet, self._settings_at(packet, run))
            except Broken:
                output.due.discard(packet)
                yield from output.take(self._send(decoder, None, packet))
                raise
            yield from output.take(frames)
        yield from output.take(self._send(decoder, None, run.stop - 1))
        output.finish()

    def _settings_at(self, packet: int, run: Run) -> PacketSideData | None:
        """New settings that a decoder needs with this packet; the run's first brings its own."""
        if packet == run.start and self._settings:
            packet = max((start for start in self._settings if start <= packet), default=-1)
        return self._settings.get(packet)

    def _send(
        self,
        decoder: VideoCodecContext,
        data: bytes | None,
        packet_idx: int,
        settings: PacketSideData | None = None,
    ) -> list[av.VideoFrame]:
        """Send one packet (None: no more) and take the frames that are ready."""
        packet = None
        if data is not None:
            packet = av.Packet(data)
            packet.pts = packet_idx
            if settings is not None:
                settings.to_packet(packet)
            with self._lock:
                self.packets_read += 1
        try:
            return decoder.decode(packet)
        except av.error.FFmpegError as error:
            raise Broken(packet_idx, f"{DAMAGED} ({error.strerror})") from error

    def _shown(self, numbered: tuple[int, av.VideoFrame]) -> tuple[int, Rgb]:
        """A frame's number, and its picture as a player shows it: (H, W, 3) uint8."""
        frame_idx, frame = numbered
        height, width = frame.height, frame.width
        plane = frame.reformat(format="rgb24").planes[0]
        # The picture's own memory, where its rows lie without gaps: a copy would be 25 MB at 4K.
        rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(height, plane.line_size)
        rgb = rows[:, : 3 * width].reshape(height, width, 3)
        if self._orientation is None:
            # Once: a frame whose side data was looked at stays in memory until the collector comes.
            self._orientation = _orientation(frame)
        transpose, flip_rows, flip_columns = self._orientation
        turned = rgb.transpose(1, 0, 2) if transpose else rgb
        flipped = turned[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return frame_idx, np.ascontiguousarray(flipped)

    @contextmanager
    def _decoder(self, threads: int) -> Iterator[VideoCodecContext]:
        """A decoder that nobody else uses meanwhile; it is kept for the next."""
        with self._lock:
            idle = self._idle_decoders.setdefault(threads, [])
            decoder = idle.pop() if idle else self._new_decoder(threads)
        try:
            yield decoder
        finally:
            decoder.flush_buffers()
            if not self._settings:  # otherwise it may hold those of another part of the video
                idle.append(decoder)

    def _new_decoder(self, threads: int) -> VideoCodecContext:
        _, stream = self._demuxer()
        decoder = stream.codec_context
        decoder.thread_count = threads
        decoder.thread_type = "FRAME"
        # How far frames are shown out of file order; else the decoder learns it by losing some.
        decoder.reorder_depth = max(decoder.reorder_depth, self.index.reorder_depth())
        return decoder

    def _undecodable(self, doubtful: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the packets that a player's decoder, forgiving as it is, gives no frame for."""
        _, stream = self._demuxer()
        decoder = stream.codec_context
        decoder.thread_count = 1
        given: set[int] = set()
        end = self.index.group_end(int(doubtful[-1]))
        for packet_idx, data in enumerate(self._packets(Run(0, end, ()))):
            packet = av.Packet(data)
            packet.pts = packet_idx
            with suppress(av.error.FFmpegError):
                given.update(cast(int, frame.pts) for frame in decoder.decode(packet))
        given.update(cast(int, frame.pts) for frame in decoder.decode(None))
        return np.array([packet for packet in doubtful.tolist() if packet not in given], np.int64)

    def _demuxer(self) -> tuple[InputContainer, av.VideoStream]:
        """A new container and its video stream."""
        if self._mp4 is not None:
            container = av.open(IndexView(self._mp4), "r", options=_INDEX_OPTIONS)
        elif is_url(self.source.name):
            raise DataError(
                f"{self.source.name} is no MP4 file; only those are read by URL, download it first"
            )
        else:
            head = self.source.read(0, 4)
            names = [name for magic, name in _OTHER_FORMATS.items() if head.startswith(magic)]
            if not names:
                raise DataError(f"{self.source.name} is no video (MP4, MOV, Matroska or MPEG-TS)")
            container = av.open(self.source.name, "r", format=names[0])
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise DataError(f"{self.source.name} holds no video")
        return container, stream

    def _build_index(self, stream: av.VideoStream) -> PacketIndex:
        is_hidden = hidden_test(self.codec)
        packets: list[tuple[int, int, int | None, bool, bool]] = []
        hidden: list[bool] = []
        for packet in self._container.demux(stream):
            if not packet.size:
                continue
            if packet.has_sidedata("new_extradata"):
                self._settings[len(packets)] = packet.get_sidedata("new_extradata")
            hidden.append(is_hidden is not None and is_hidden(self._first_bytes(packet)))
            is_shown = not packet.is_discard and not hidden[-1]
            packets.append((packet.pos or 0, packet.size, packet.pts, packet.is_keyframe, is_shown))
        if not packets or any(pts is None for _, _, pts, _, _ in packets):
            raise DataError(f"{self.source.name} lists no frames with presentation times")
        self._hidden = frozenset(np.flatnonzero(hidden).tolist())
        position, size, pts, is_key, is_shown_all = zip(*packets, strict=True)
        if self._mp4 is None and len(set(position)) == len(position):
            self._places = {place: idx for idx, place in enumerate(position)}
        return PacketIndex.build(
            position=position if self._mp4 else [-1] * len(packets),
            size=size,
            pts=cast(tuple[int, ...], pts),
            is_key=is_key,
            is_shown=is_shown_all,
        )

    def _first_bytes(self, packet: "av.Packet[Any]") -> bytes:
        """A packet's own bytes; an MP4 file's pictures read as zeros while they are listed."""
        if self._mp4 is None:
            return bytes(packet)
        return self.source.read(packet.pos or 0, packet.size).ljust(1, b"\0")

    def _duration(self, stream: av.VideoStream) -> float:
        """Seconds: the stream's, else the file's, else what its frames' times come to."""
        tick = float(stream.time_base or 0)
        if stream.duration:
            return float(stream.duration * tick)
        if self._container.duration:
            return float(self._container.duration / av.time_base)
        times = np.sort(self.index.pts[self.index.decode_idx])
        steps = max(len(times) - 1, 1)
        return float((times[-1] - times[0]) * (steps + 1) / steps * tick) if len(times) > 1 else 0.0

    def _packets(self, run: Run) -> Iterator[bytes]:
        """The bytes of a run's packets, in decode order."""
        packets = slice(run.start, run.stop)
        if self._mp4:
            positions = self.index.position[packets].tolist()
            yield from read_pieces(self.source, positions, self.index.size[packets].tolist())
            return
        # Other containers have no index to rely on: what comes says where it lies.
        given = 0
        for data in self._sought(run):
            yield data
            given += 1
        if given < run.stop - run.start:
            yield from self._from_beginning(Run(run.start + given, run.stop, ()))

    def _sought(self, run: Run) -> Iterator[bytes]:
        """A run's packets from its keyframe on; none of them where seeking leads elsewhere."""
        if not run.start or not self._places:
            return
        container, stream = self._demuxer()
        with container:
            try:
                container.seek(int(self.index.pts[run.start]), stream=stream)
                for packet in container.demux(stream):
                    place = self._places.get(packet.pos or 0) if packet.size else None
                    if place is None or place > run.start:
                        return
                    if place == run.start:
                        yield bytes(packet)
                        break
                held = (packet for packet in container.demux(stream) if packet.size)
                for idx, packet in enumerate(islice(held, run.stop - run.start - 1), run.start + 1):
                    if self._places.get(packet.pos or 0) != idx:
                        return
                    yield bytes(packet)
            except av.error.FFmpegError:
                return

    def _from_beginning(self, run: Run) -> Iterator[bytes]:
        container, stream = self._demuxer()
        with container:
            held = (packet for packet in container.demux(stream) if packet.size)
            for packet in islice(held, run.start, run.stop):
                yield bytes(packet)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What the display matrix asks for: transpose, then flip rows, then flip columns."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # 16.16 fixed point, rows (a, b, u), (c, d, v), (x, y, w): (x', y') = (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(cast(Any, matrix)), np.int32)[:5].tolist()
    transpose = abs(b) > abs(a)
    return (True, b < 0, c < 0) if transpose else (False, d < 0, a < 0)
