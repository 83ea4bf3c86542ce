"""What a video file holds: its packet list, the bytes of packets, and decoders set up for them.

The list comes from the file's index alone (see `video.source`). MP4 files are read by byte ranges,
of a URL too; other containers by FFmpeg, which seeks where it can be relied on.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import PacketSideData
from av.video.codeccontext import VideoCodecContext

from egoexo_tools.arrays import Bool, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.video.packets import PacketIndex, PacketSpan, hidden_test
from egoexo_tools.video.source import (
    ByteSource,
    IndexView,
    is_url,
    read_mp4_index,
    read_pieces,
)

# Named, not guessed from content: FFmpeg also knows playlists, which open files and URLs.
_OTHER_FORMATS = {b"\x1aE\xdf\xa3": "matroska", b"G": "mpegts"}
# Nothing is probed or guessed from pictures: they are zeros while the packets are listed.
_INDEX_OPTIONS = {"probesize": "32", "analyzeduration": "0", "fflags": "+noparse+nofillin"}
_MOST_PIXELS = 1 << 26
"""Of a picture, twice those of 8K."""
_TAG_ERRORS = "replace"
"""For letters in tags (who wrote the file, say) that are none: they are nothing to us."""
UNFINISHED = "truncated or was never finished"


class VideoFile:
    """An open video: its packet index, and what decoding needs of the file."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self._mp4 = read_mp4_index(source)
        if self._mp4 is not None and not self._mp4.holds_packets:
            raise DataError(
                f"{source.name} has no index (no moov box): it is {UNFINISHED}; download it again"
            )
        self._container, stream = self._demuxer()
        self.codec = stream.codec_context.name
        self.extradata = stream.codec_context.extradata or b""
        self.codec_hw = (stream.codec_context.height, stream.codec_context.width)
        self.hidden: frozenset[int] = frozenset()
        """Decode indices of packets whose pictures are never shown."""
        self.settings: dict[int, PacketSideData] = {}
        """Decode index → the decoder settings that hold from this packet on."""
        self._places: dict[int, int] = {}
        """Byte in the file → decode index, where packets are found by seeking."""
        self.index = self._build_index(stream)
        self.duration_seconds = self._duration(stream)
        if len(doubtful := self.index.packets_before_first_picture()):
            self.index = self.index.without(self._undecodable(doubtful))

    def close(self) -> None:
        self._container.close()

    @property
    def is_held(self) -> Bool:
        """(packets,) whether the file holds all of a packet's bytes."""
        return self.index.position + self.index.size <= self.source.size

    def new_decoder(self, threads: int) -> VideoCodecContext:
        """A decoder of this video, fresh and closed."""
        _, stream = self._demuxer()
        decoder = stream.codec_context
        decoder.thread_count = threads
        decoder.thread_type = "FRAME"
        # How far frames are shown out of file order; else the decoder learns it by losing some.
        decoder.reorder_depth = max(decoder.reorder_depth, self.index.reorder_depth())
        return decoder

    def packets(self, run: PacketSpan) -> Iterator[bytes]:
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
            yield from self._from_beginning(PacketSpan(run.start + given, run.stop, ()))

    def _undecodable(self, doubtful: Int64) -> Int64:
        """Those of the packets that a player's decoder, forgiving as it is, gives no frame for."""
        _, stream = self._demuxer()
        decoder = stream.codec_context
        decoder.thread_count = 1
        given: set[int] = set()
        end = self.index.group_end(int(doubtful[-1]))
        for packet_idx, data in enumerate(self.packets(PacketSpan(0, end, ()))):
            packet = av.Packet(data)
            packet.pts = packet_idx
            with suppress(av.error.FFmpegError):
                given.update(cast(int, frame.pts) for frame in decoder.decode(packet))
        given.update(cast(int, frame.pts) for frame in decoder.decode(None))
        return np.array([packet for packet in doubtful.tolist() if packet not in given], np.int64)

    def _demuxer(self) -> tuple[InputContainer, av.VideoStream]:
        """A new container and its video stream."""
        if self._mp4 is not None:
            container = av.open(
                IndexView(self._mp4), "r", options=_INDEX_OPTIONS, metadata_errors=_TAG_ERRORS
            )
        elif is_url(self.source.name):
            raise DataError(
                f"{self.source.name} is no MP4 file; only those are read by URL, download it first"
            )
        else:
            head = self.source.read(0, 4)
            names = [name for magic, name in _OTHER_FORMATS.items() if head.startswith(magic)]
            if not names:
                raise DataError(f"{self.source.name} is no video (MP4, MOV, Matroska or MPEG-TS)")
            container = av.open(self.source.name, "r", format=names[0], metadata_errors=_TAG_ERRORS)
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise DataError(f"{self.source.name} holds no video")
        if stream.codec_context is None:
            raise DataError(f"{self.source.name} names no codec that is known; it may be damaged")
        # A damaged header may claim any size, and a decoder takes the memory for it first.
        stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}
        return container, stream

    def _build_index(self, stream: av.VideoStream) -> PacketIndex:
        is_hidden = hidden_test(self.codec)
        packets: list[tuple[int, int, int | None, bool, bool]] = []
        hidden: list[bool] = []
        for packet in self._container.demux(stream):
            if not packet.size:
                continue
            if packet.has_sidedata("new_extradata"):
                self.settings[len(packets)] = packet.get_sidedata("new_extradata")
            hidden.append(is_hidden is not None and is_hidden(self._first_bytes(packet)))
            is_shown = not packet.is_discard and not hidden[-1]
            packets.append((packet.pos or 0, packet.size, packet.pts, packet.is_keyframe, is_shown))
        if not packets or any(pts is None for _, _, pts, _, _ in packets):
            raise DataError(f"{self.source.name} lists no frames with presentation times")
        self.hidden = frozenset(np.flatnonzero(hidden).tolist())
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

    def _sought(self, run: PacketSpan) -> Iterator[bytes]:
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

    def _from_beginning(self, run: PacketSpan) -> Iterator[bytes]:
        container, stream = self._demuxer()
        with container:
            held = (packet for packet in container.demux(stream) if packet.size)
            for packet in islice(held, run.start, run.stop):
                yield bytes(packet)
