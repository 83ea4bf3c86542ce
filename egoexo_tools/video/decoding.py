"""Decodes the requested frames of a video, each starting at the keyframe before it.

A frame is returned intact or reported as an error. Frames that no other frame refers to are
skipped, and memory holds only a few pictures besides the decoders' own. Short spans are decoded in
parallel (see `read_ahead`).
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from threading import Lock

import av
from av.packet import PacketSideData
from av.video.codeccontext import VideoCodecContext

from egoexo_tools.video.container import UNFINISHED, VideoFile
from egoexo_tools.video.output import DAMAGED, BrokenPacket, OutputChecker, StartTooLate
from egoexo_tools.video.packets import PacketSpan, reference_test
from egoexo_tools.video.read_ahead import in_order

_SHORT_SPAN_FRAMES = 2
"""Spans are short if they have at most this many requested frames on average."""


class FrameDecoder:
    """Decodes spans of one file's packets; reuses its decoders."""

    def __init__(self, file: VideoFile, threads: int) -> None:
        self.file = file
        self.index = file.index
        self._threads = max(1, threads)
        self._is_reference = reference_test(file.codec, file.extradata)
        self._idle_decoders: dict[int, list[VideoCodecContext]] = {}
        """Number of threads → decoders."""
        self._lock = Lock()
        self.packets_read = 0

    def frames(
        self, frame_idxs: list[int], errors: dict[int, str]
    ) -> Generator[tuple[int, av.VideoFrame], None, None]:
        """Yield the requested frames, ascending; add those that cannot be decoded to `errors`.

        Short spans are decoded in parallel, because the threads of a single decoder wait for each
        other wherever a span starts. Long spans are decoded one after the other, because a decoder
        that runs ahead would have to keep many pictures.
        """
        spans = self.index.spans(frame_idxs)
        is_short = len(frame_idxs) <= _SHORT_SPAN_FRAMES * len(spans)
        decoders = min(self._threads, len(spans)) if is_short and spans else 1
        threads = self._threads // decoders
        if threads > 1:
            threads += 1  # one of them is often waiting
        sources = [partial(self._span_frames, span, errors, threads) for span in spans]
        frames = in_order(sources, threads=decoders, ahead=decoders + 1)
        with closing(frames):
            yield from frames

    def _span_frames(
        self, span: PacketSpan, errors: dict[int, str], threads: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the requested frames of a span, except those added to `errors`.

        After the first error the span is decoded again by one thread, which identifies the broken
        packet. Frames that do not depend on that packet are kept.
        """
        spans = [span]
        while spans:
            span = spans.pop(0)
            missing = set(span.frame_idxs)
            try:
                for frame_idx, frame in self._decode(span, threads):
                    missing.remove(frame_idx)
                    yield frame_idx, frame
                    del frame  # 12 MB at 4K, which would be kept until the next frame
            except BrokenPacket as broken:
                if threads > 1:
                    spans, threads = self.index.spans(missing, start=span.start) + spans, 1
                    continue
                affected = self._affected_frames(missing, broken.packet) or missing
                errors.update(dict.fromkeys(affected, broken.reason))
                spans = self.index.spans(missing - affected) + spans
            except StartTooLate as late:
                start = self.index.earlier_start(missing, span.start)
                if start is None:
                    reason = "nothing before it can be decoded"
                    errors.update(dict.fromkeys(late.frame_idxs, reason))
                    missing -= late.frame_idxs
                spans = self.index.spans(missing, start=start) + spans

    def _affected_frames(self, frame_idxs: set[int], packet: int) -> set[int]:
        """The frames that cannot be decoded because of a broken packet.

        A requested frame that is broken itself is reported alone: if others depend on it, the next
        attempt fails too. Otherwise these are the frames of the packet's group and the leading
        frames of the next group.
        """
        return {int(self.index.frame_idx[packet])} & frame_idxs or {
            frame_idx
            for frame_idx in frame_idxs
            if self.index.start_of(self.index.decode_idx[frame_idx]) <= packet
        }

    def _decode(self, span: PacketSpan, threads: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode a span and yield its requested frames; raises BrokenPacket at the first error."""
        output = OutputChecker(self.index, span)
        is_leading = self.index.is_leading(span.start, span.stop)
        with self._decoder(threads) as decoder:
            for packet, data in enumerate(self.file.packets(span), span.start):
                if len(data) < self.index.size[packet]:
                    yield from output.take(self._send(decoder, None, packet))
                    raise BrokenPacket(packet, f"the file is {UNFINISHED}")
                is_requested = int(self.index.frame_idx[packet]) in output.requested
                if is_leading[packet - span.start] or not (
                    is_requested or self._is_reference(data)
                ):
                    continue
                if packet not in self.file.hidden:
                    output.expect(packet)
                try:
                    frames = self._send(decoder, data, packet, self._settings_at(packet, span))
                except BrokenPacket:
                    output.pending.discard(packet)
                    yield from output.take(self._send(decoder, None, packet))
                    raise
                yield from output.take(frames)
            yield from output.take(self._send(decoder, None, span.stop - 1))
            output.finish()

    def _settings_at(self, packet: int, span: PacketSpan) -> PacketSideData | None:
        """New settings that take effect at this packet; a span's first packet needs its own."""
        if packet == span.start and self.file.settings:
            packet = max((start for start in self.file.settings if start <= packet), default=-1)
        return self.file.settings.get(packet)

    def _send(
        self,
        decoder: VideoCodecContext,
        data: bytes | None,
        packet_idx: int,
        settings: PacketSideData | None = None,
    ) -> list[av.VideoFrame]:
        """Send one packet (None ends the stream) and return the frames that are ready."""
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
            raise BrokenPacket(packet_idx, f"{DAMAGED} ({error.strerror})") from error

    @contextmanager
    def _decoder(self, threads: int) -> Iterator[VideoCodecContext]:
        """A decoder for exclusive use, which is reused afterwards."""
        with self._lock:
            idle = self._idle_decoders.setdefault(threads, [])
            decoder = idle.pop() if idle else self.file.new_decoder(threads)
        try:
            yield decoder
        finally:
            decoder.flush_buffers()
            if not self.file.settings:  # otherwise it may have settings of another video part
                idle.append(decoder)
