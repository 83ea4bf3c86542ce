"""The packet list of a video file, the bytes of its packets, and decoders configured for it.

The list comes from the file's index alone (see `video.source`). MP4 files, also behind a URL, are
read by byte ranges. Other containers are read by FFmpeg, by seeking if the result can be verified.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import PacketSideData
from av.video.codeccontext import VideoCodecContext

from egoexo_tools.arrays import Bool, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.video.packets import PacketIndex, PacketSpan, hidden_test
from egoexo_tools.video.source import ByteSource, IndexView, is_url, read_mp4_index, read_pieces

# We name the format, because FFmpeg's detection also accepts playlists, which open other files
# and URLs.
_OTHER_FORMATS = {b"\x1aE\xdf\xa3": "matroska", b"G": "mpegts"}
# FFmpeg must not inspect pictures: they read as zeros while the packets are listed.
_INDEX_OPTIONS = {"probesize": "32", "analyzeduration": "0", "fflags": "+noparse+nofillin"}
_MOST_PIXELS = 1 << 26
"""Per picture: twice the size of 8K."""
_TAG_ERRORS = "replace"
"""For invalid characters in tags, such as the name of the encoder, which we do not use."""
UNFINISHED = "truncated or was never finished"


class VideoFile:
    """An open video: its packet index, packets and decoders."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self._mp4 = read_mp4_index(source)
        if self._mp4 is not None and not self._mp4.has_packets:
            raise DataError(
                f"{source.name} has no index (no moov box): it is {UNFINISHED}; download it again"
            )
        self._container, stream = self._demuxer()
        self.codec = stream.codec_context.name
        self.extradata = stream.codec_context.extradata or b""
        self.codec_hw = (stream.codec_context.height, stream.codec_context.width)
        self.hidden: frozenset[int] = frozenset()
        """Decode indices of packets whose pictures a player never shows."""
        self.settings: dict[int, PacketSideData] = {}
        """Decode index → the decoder settings that apply from this packet on."""
        self._packet_at: dict[int, int] = {}
        """Byte position in the file → decode index, for containers that are read by seeking."""
        self.index = self._build_index(stream)
        self.duration_seconds = self._duration(stream)
        if len(packets := self.index.packets_before_first_picture()):
            self.index = self.index.without(self._undecodable(packets))

    def close(self) -> None:
        self._container.close()

    @property
    def is_complete(self) -> Bool:
        """(packets,) whether the file contains all bytes of a packet."""
        return self.index.position + self.index.size <= self.source.size

    def new_decoder(self, threads: int) -> VideoCodecContext:
        """A new decoder for this video, not yet opened."""
        _, stream = self._demuxer()
        decoder = stream.codec_context
        decoder.thread_count = threads
        decoder.thread_type = "FRAME"
        # The reordering of frames; without it, a decoder finds out by dropping frames.
        decoder.reorder_depth = max(decoder.reorder_depth, self.index.reorder_depth())
        return decoder

    def packets(self, span: PacketSpan) -> Iterator[bytes]:
        """The bytes of a span's packets, in decode order."""
        packets = slice(span.start, span.stop)
        if self._mp4:
            positions = self.index.position[packets].tolist()
            yield from read_pieces(self.source, positions, self.index.size[packets].tolist())
            return
        # Other containers have no reliable index, so seeking may end at any packet or nowhere.
        count = 0
        for data in self._by_seeking(span):
            yield data
            count += 1
        if count < span.stop - span.start:
            yield from self._from_beginning(PacketSpan(span.start + count, span.stop, ()))

    def _undecodable(self, packets: Int64) -> Int64:
        """The packets for which a tolerant decoder, such as a player's, returns no frame."""
        _, stream = self._demuxer()
        decoder = stream.codec_context
        decoder.thread_count = 1
        decoded: set[int] = set()
        end = self.index.group_end(int(packets[-1]))
        for packet_idx, data in enumerate(self.packets(PacketSpan(0, end, ()))):
            packet = av.Packet(data)
            packet.pts = packet_idx
            with suppress(av.error.FFmpegError):
                decoded.update(cast(int, frame.pts) for frame in decoder.decode(packet))
        decoded.update(cast(int, frame.pts) for frame in decoder.decode(None))
        return np.setdiff1d(packets, np.array(sorted(decoded), np.int64))

    def _demuxer(self) -> tuple[InputContainer, av.VideoStream]:
        """A new container and its video stream."""
        if self._mp4 is not None:
            container = av.open(
                IndexView(self._mp4), "r", options=_INDEX_OPTIONS, metadata_errors=_TAG_ERRORS
            )
        elif is_url(self.source.name):
            raise DataError(
                f"{self.source.name} is not an MP4 file, and only MP4 can be read from a URL; "
                "download it first"
            )
        else:
            head = self.source.read(0, 4)
            names = [name for magic, name in _OTHER_FORMATS.items() if head.startswith(magic)]
            if not names:
                raise DataError(
                    f"{self.source.name} is not a video in MP4, MOV, Matroska or MPEG-TS format"
                )
            container = av.open(self.source.name, "r", format=names[0], metadata_errors=_TAG_ERRORS)
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise DataError(f"{self.source.name} has no video stream")
        if stream.codec_context is None:
            raise DataError(f"{self.source.name} has an unknown codec; it may be damaged")
        # A damaged header may contain any size, for which a decoder would allocate memory.
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
            hidden.append(False)
            if is_hidden is not None:
                data = bytes(packet)
                if self._mp4 is not None:  # its packets are zeros while they are listed
                    data = self.source.read(packet.pos or 0, packet.size)
                hidden[-1] = is_hidden(data.ljust(1, b"\0"))
            is_shown = not packet.is_discard and not hidden[-1]
            packets.append((packet.pos or 0, packet.size, packet.pts, packet.is_keyframe, is_shown))
        if not packets or any(pts is None for _, _, pts, _, _ in packets):
            raise DataError(f"{self.source.name} has no frames with presentation times")
        self.hidden = frozenset(np.flatnonzero(hidden).tolist())
        position, size, pts, is_key, is_shown_all = zip(*packets, strict=True)
        # Byte positions identify packets only if no two packets share one.
        if self._mp4 is None and len(set(position)) == len(position):
            self._packet_at = {start: idx for idx, start in enumerate(position)}
        return PacketIndex.build(
            position=position if self._mp4 else [-1] * len(packets),
            size=size,
            pts=cast(tuple[int, ...], pts),
            is_key=is_key,
            is_shown=is_shown_all,
        )

    def _duration(self, stream: av.VideoStream) -> float:
        """Seconds, from the stream or the container, or computed from the times of the frames."""
        tick = float(stream.time_base or 0)
        if stream.duration:
            return float(stream.duration * tick)
        if self._container.duration:
            return float(self._container.duration / av.time_base)
        # The last frame is assumed to be as long as the mean of the others.
        times = np.sort(self.index.pts[self.index.decode_idx])
        steps = max(len(times) - 1, 1)
        return float((times[-1] - times[0]) * (steps + 1) / steps * tick) if len(times) > 1 else 0.0

    def _by_seeking(self, span: PacketSpan) -> Iterator[bytes]:
        """A span's packets, read by seeking; ends early if the file yields an unexpected packet."""
        if not span.start or not self._packet_at:
            return
        container, stream = self._demuxer()
        with container:
            try:
                container.seek(int(self.index.pts[span.start]), stream=stream)
                for packet in container.demux(stream):
                    packet_idx = self._packet_at.get(packet.pos or 0) if packet.size else None
                    if packet_idx is None or packet_idx > span.start:
                        return
                    if packet_idx == span.start:
                        yield bytes(packet)
                        break
                nonempty = (packet for packet in container.demux(stream) if packet.size)
                for idx in range(span.start + 1, span.stop):
                    following = next(nonempty, None)
                    if following is None or self._packet_at.get(following.pos or 0) != idx:
                        return
                    yield bytes(following)
            except av.error.FFmpegError:
                return

    def _from_beginning(self, span: PacketSpan) -> Iterator[bytes]:
        container, stream = self._demuxer()
        with container:
            nonempty = (packet for packet in container.demux(stream) if packet.size)
            for packet in islice(nonempty, span.start, span.stop):
                yield bytes(packet)
