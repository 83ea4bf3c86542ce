"""Separates intact pictures from concealed ones while a span of packets is decoded.

Decoders hide errors: they fill in damaged pictures, drop some, and decode later pictures on top of
both. Here every packet that is sent must come back as a picture without an error mark, or the span
counts as broken at that packet.
"""

from collections.abc import Iterator

import av

from egoexo_tools.video.packets import PacketIndex, PacketSpan

DAMAGED = "its packets, or those that it depends on, are damaged"


class BrokenPacket(Exception):
    """The decoder failed at this packet or returned no picture for it."""

    def __init__(self, packet: int, reason: str) -> None:
        super().__init__(reason)
        self.packet = packet
        self.reason = reason


class StartTooLate(Exception):
    """Decoding started too late in the video for these frames."""

    def __init__(self, frame_idxs: set[int]) -> None:
        super().__init__(frame_idxs)
        self.frame_idxs = frame_idxs


class OutputChecker:
    """Checks that a decoder returns every expected picture, and selects the requested ones.

    The `pts` of a decoded frame is the index of its packet.

    A concealed picture, and any picture that depends on it, must not be returned. So a requested
    picture is held back until all pictures sent before it have come out intact: at most a few.
    """

    def __init__(self, index: PacketIndex, span: PacketSpan) -> None:
        self.requested = set(span.frame_idxs)
        self.pending: set[int] = set()
        """Packets that were sent and whose pictures have not come out yet."""
        self._index = index
        self._held_back: list[tuple[int, av.VideoFrame]] = []
        self._has_output = False

    def expect(self, packet: int) -> None:
        self.pending.add(packet)

    def take(self, frames: list[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the requested pictures that are intact; raises BrokenPacket at the first other.

        Empties the list, because the decoder cannot reuse the memory of a referenced picture.
        """
        pts = self._index.pts
        while frames:
            frame = frames.pop(0)
            packet = frame.pts or 0
            self.pending.discard(packet)
            if frame.is_corrupt:
                raise BrokenPacket(packet, DAMAGED)
            if overdue := {other for other in self.pending if pts[other] < pts[packet]}:
                self._check_dropped(overdue)
            self._has_output = True
            if int(self._index.frame_idx[packet]) in self.requested:
                self._held_back.append((packet, frame))
            while self._held_back and all(p > self._held_back[0][0] for p in self.pending):
                intact_packet, frame = self._held_back.pop(0)
                yield int(self._index.frame_idx[intact_packet]), frame

    def finish(self) -> None:
        """Raises if expected pictures have not come out."""
        if self.pending:
            self._check_dropped(self.pending)

    def _check_dropped(self, packets: set[int]) -> None:
        """Accept pictures dropped before the first output, unless they are requested.

        A decoder drops pictures that it cannot decode yet. After its first picture it must return
        every picture. Raises StartTooLate or BrokenPacket.
        """
        if self._has_output:
            raise BrokenPacket(min(packets), DAMAGED)
        if late := {int(self._index.frame_idx[packet]) for packet in packets} & self.requested:
            raise StartTooLate(late)
        self.pending -= packets
