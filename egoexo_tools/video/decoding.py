"""A video's wanted frames, decoded from the keyframe before them, whole or not at all.

Frames that nothing refers to are skipped on the way, and memory holds a few pictures and the
decoders' own. Runs are decoded side by side where they are short (see `read_ahead`).
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from threading import Lock

import av
from av.packet import PacketSideData
from av.video.codeccontext import VideoCodecContext

from egoexo_tools.video.container import UNFINISHED, VideoFile
from egoexo_tools.video.output import DAMAGED, Broken, Output, TooLate
from egoexo_tools.video.packets import PacketSpan, reference_test
from egoexo_tools.video.read_ahead import in_order

_FRAMES_OF_SHORT_RUN = 2
"""Wanted frames of a run, in the mean."""


class FrameDecoder:
    """Decodes runs of one file's packets; its decoders are kept and used again."""

    def __init__(self, file: VideoFile, threads: int) -> None:
        self.file = file
        self.index = file.index
        self._threads = max(1, threads)
        self._is_reference = reference_test(file.codec, file.extradata)
        self._idle_decoders: dict[int, list[VideoCodecContext]] = {}
        """By their number of threads."""
        self._lock = Lock()
        self.packets_read = 0

    def frames(
        self, frame_idxs: list[int], lost: dict[int, str]
    ) -> Generator[tuple[int, av.VideoFrame], None, None]:
        """Yield the wanted frames, ascending; those that cannot be decoded go to `lost`.

        Short runs are decoded side by side, since the threads of one decoder wait for each other
        wherever a run begins. Of long ones, a decoder that is ahead would hold many pictures.
        """
        runs = self.index.spans(frame_idxs)
        is_short = len(frame_idxs) <= _FRAMES_OF_SHORT_RUN * len(runs)
        decoders = min(self._threads, len(runs)) if is_short and runs else 1
        threads = self._threads // decoders
        if threads > 1:
            threads += 1  # One of them is often waiting.
        sources = [partial(self._frames, run, lost, threads) for run in runs]
        frames = in_order(sources, threads=decoders, ahead=decoders + 1)
        with closing(frames):
            yield from frames

    def _frames(
        self, run: PacketSpan, lost: dict[int, str], threads: int
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
                    runs, threads = self.index.spans(left, start=run.start) + runs, 1
                    continue
                gone = self._spoilt(left, broken.packet) or left
                lost.update(dict.fromkeys(gone, broken.reason))
                runs = self.index.spans(left - gone) + runs
            except TooLate as late:
                start = self.index.earlier_start(left, run.start)
                if start is None:
                    lost.update(dict.fromkeys(late.frame_idxs, "nothing before it can be decoded"))
                    left -= late.frame_idxs
                runs = self.index.spans(left, start=start) + runs

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

    def _decode(self, run: PacketSpan, threads: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode a run, yield its wanted frames; raises Broken at the first error."""
        with self._decoder(threads) as decoder:
            yield from self._decode_with(decoder, run)

    def _decode_with(
        self, decoder: VideoCodecContext, run: PacketSpan
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        output = Output[av.VideoFrame](self.index, run)
        is_leading = self.index.is_leading(run.start, run.stop)
        for packet, data in enumerate(self.file.packets(run), run.start):
            if len(data) < self.index.size[packet]:
                yield from output.take(self._send(decoder, None, packet))
                raise Broken(packet, f"the file is {UNFINISHED}")
            is_wanted = int(self.index.frame_idx[packet]) in output.wanted
            if is_leading[packet - run.start] or not (is_wanted or self._is_reference(data)):
                continue
            if packet not in self.file.hidden:
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

    def _settings_at(self, packet: int, run: PacketSpan) -> PacketSideData | None:
        """New settings that a decoder needs with this packet; the run's first brings its own."""
        if packet == run.start and self.file.settings:
            packet = max((start for start in self.file.settings if start <= packet), default=-1)
        return self.file.settings.get(packet)

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

    @contextmanager
    def _decoder(self, threads: int) -> Iterator[VideoCodecContext]:
        """A decoder that nobody else uses meanwhile; it is kept for the next."""
        with self._lock:
            idle = self._idle_decoders.setdefault(threads, [])
            decoder = idle.pop() if idle else self.file.new_decoder(threads)
        try:
            yield decoder
        finally:
            decoder.flush_buffers()
            if not self.file.settings:  # otherwise it may hold those of another part of the video
                idle.append(decoder)
