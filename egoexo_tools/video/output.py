"""Tells whole pictures from concealed ones while a run of packets is decoded.

Decoders hide errors: they fill damaged pictures in, leave some out and build on both. Here every
packet that is sent must come back as a picture without a mark, or the run is broken.
"""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from egoexo_tools.video.packets import PacketIndex, PacketSpan

DAMAGED = "its packets, or those that it builds on, are damaged"


class DecodedFrame(Protocol):
    """What is asked of a decoder's frame; `pts` is the packet that it was sent as."""

    @property
    def pts(self) -> int | None: ...

    @property
    def is_corrupt(self) -> bool: ...


Frame = TypeVar("Frame", bound=DecodedFrame)


class Broken(Exception):
    """The decoder stopped at this packet, or gave no picture for it."""

    def __init__(self, packet: int, reason: str) -> None:
        super().__init__(reason)
        self.packet = packet
        self.reason = reason


class TooLate(Exception):
    """Decoding began too late in the video for these frames."""

    def __init__(self, frame_idxs: set[int]) -> None:
        super().__init__(frame_idxs)
        self.frame_idxs = frame_idxs


class Output(Generic[Frame]):
    """Checks that a decoder gives every picture that it owes, and picks the wanted ones.

    Decoders conceal errors; a concealed picture, and what builds on it, must not get out. So a
    wanted picture is held until all that were sent before it have come out whole: a few at most.
    """

    def __init__(self, index: PacketIndex, run: PacketSpan) -> None:
        self.wanted = set(run.frame_idxs)
        self.due: set[int] = set()
        """Packets sent whose pictures have not come."""
        self._index = index
        self._held: list[tuple[int, Frame]] = []
        self._begun = False

    def expect(self, packet: int) -> None:
        self.due.add(packet)

    def take(self, frames: list[Frame]) -> Iterator[tuple[int, Frame]]:
        """Yield the wanted pictures that are sure; raises Broken where one is bad or left out.

        Empties the list: a picture that somebody still holds is memory the decoder cannot use.
        """
        pts = self._index.pts
        while frames:
            frame = frames.pop(0)
            packet = frame.pts or 0
            self.due.discard(packet)
            if frame.is_corrupt:
                raise Broken(packet, DAMAGED)
            if passed := {other for other in self.due if pts[other] < pts[packet]}:
                self._leave_out(passed)
            self._begun = True
            if int(self._index.frame_idx[packet]) in self.wanted:
                self._held.append((packet, frame))
            while self._held and all(other > self._held[0][0] for other in self.due):
                sure, frame = self._held.pop(0)
                yield int(self._index.frame_idx[sure]), frame

    def finish(self) -> None:
        """Raises where pictures are still due."""
        if self.due:
            self._leave_out(self.due)

    def _leave_out(self, packets: set[int]) -> None:
        """Before its first picture a decoder leaves out those that it cannot build yet.

        After that it owes each; raises TooLate or Broken.
        """
        if self._begun:
            raise Broken(min(packets), DAMAGED)
        if late := {int(self._index.frame_idx[packet]) for packet in packets} & self.wanted:
            raise TooLate(late)
        self.due -= packets
