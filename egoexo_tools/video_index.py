"""Which packets of a video a wanted frame needs: plain arithmetic on the list of its packets.

Packets lie in the file in decode order; frames are numbered in presentation order, counting
only those that a player shows. A *group* starts at a keyframe. In an open group, frames that
follow the keyframe in the file but are shown before it ("leading") need the group before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Run:
    """Packets to decode in one go, and the frames that are wanted of them."""

    start: int
    """Decode index of the keyframe to start at."""
    stop: int
    """Decode index after the last packet that is needed."""
    frame_idxs: tuple[int, ...]
    """Ascending."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """A video's packets in decode order, and its frames in presentation order."""

    position: NDArray[np.int64]
    """(packets,) first byte in the file; -1 where the container does not tell."""
    size: NDArray[np.int64]
    """(packets,) bytes."""
    pts: NDArray[np.int64]
    """(packets,) presentation time, in ticks of the stream."""
    is_key: NDArray[np.bool_]
    """(packets,)"""
    frame_idx: NDArray[np.int64]
    """(packets,) number of the frame; -1 where a player does not show it."""
    decode_idx: NDArray[np.int64]
    """(frames,) its packet."""

    @classmethod
    def build(
        cls,
        *,
        position: Iterable[int],
        size: Iterable[int],
        pts: Iterable[int],
        is_key: Iterable[bool],
        is_shown: Iterable[bool],
    ) -> "PacketIndex":
        """From the columns of a packet list in decode order."""
        times = np.array(list(pts), np.int64)
        shown = np.array(list(is_shown), bool)
        order = np.argsort(times, kind="stable")
        decode_idx = order[shown[order]]
        frame_idx = np.full(len(times), -1, np.int64)
        frame_idx[decode_idx] = np.arange(len(decode_idx))
        return cls(
            position=np.array(list(position), np.int64),
            size=np.array(list(size), np.int64),
            pts=times,
            is_key=np.array(list(is_key), bool),
            frame_idx=frame_idx,
            decode_idx=decode_idx,
        )

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """Decode indices of the keyframes, ascending."""
        return np.flatnonzero(self.is_key)

    @property
    def frames(self) -> int:
        """The number of frames that a player shows."""
        return len(self.decode_idx)

    def start_of(self, decode_idx: int) -> int:
        """The packet where decoding has to start for this one (0 where no keyframe comes first)."""
        group = int(np.searchsorted(self.keys, decode_idx, side="right")) - 1
        if group < 0:
            return 0
        is_leading = self.pts[decode_idx] < self.pts[self.keys[group]]
        return int(self.keys[max(group - 1, 0) if is_leading else group])

    def group_end(self, decode_idx: int) -> int:
        """The first keyframe after this packet, or the number of packets."""
        group = int(np.searchsorted(self.keys, decode_idx, side="right"))
        return int(self.keys[group]) if group < len(self.keys) else len(self.pts)

    def runs(self, frame_idxs: Iterable[int]) -> list[Run]:
        """What to decode for these frames, each packet once, in decode order."""
        wanted = np.sort(self.decode_idx[np.array(list(frame_idxs), np.int64)])
        spans: list[tuple[int, list[int]]] = []
        for packet in wanted.tolist():
            start = self.start_of(packet)
            if spans and start <= spans[-1][1][-1]:
                spans[-1][1].append(packet)
            else:
                spans.append((start, [packet]))
        return [
            Run(start, packets[-1] + 1, tuple(sorted(self.frame_idx[packets].tolist())))
            for start, packets in spans
        ]

    def reorder_depth(self) -> int:
        """The most packets that come before another one in the file but are shown after it."""
        # The k-th packet in decode order can be shown once all that precede it in time are there:
        # how far the furthest of those lies behind is the delay.
        order = np.argsort(self.pts, kind="stable")
        latest = np.maximum.accumulate(order)
        return int((latest - np.arange(len(order))).max(initial=0))

    def packets_before_first_picture(self) -> NDArray[np.int64]:
        """Packets whose frames nothing in the file may allow to decode.

        Those before the first keyframe, and the leading ones of the first group: cutting a
        video at an open group leaves them. Empty for almost every video.
        """
        if len(self.keys) == 0:
            return self.keys
        first = int(self.keys[0])
        end = self.group_end(first)
        doubtful = (np.arange(end) < first) | (self.pts[:end] < self.pts[first])
        doubtful &= self.frame_idx[:end] >= 0
        return np.flatnonzero(doubtful)

    def without(self, packets: NDArray[np.int64]) -> "PacketIndex":
        """The same packets with these not shown."""
        shown = self.frame_idx >= 0
        shown[packets] = False
        return PacketIndex.build(
            position=self.position, size=self.size, pts=self.pts, is_key=self.is_key, is_shown=shown
        )
