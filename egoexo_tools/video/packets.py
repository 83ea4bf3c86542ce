"""Which packets of a video a wanted frame needs: plain arithmetic on the list of its packets.

Packets lie in the file in decode order; frames are numbered in presentation order, counting
only those that a player shows. A *group* starts at a keyframe. In an open group, frames that
follow the keyframe in the file but are shown before it ("leading") need the group before.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from egoexo_tools.arrays import Bool, Int64


@dataclass(frozen=True)
class PacketSpan:
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

    position: Int64
    """(packets,) first byte in the file; -1 where the container does not tell."""
    size: Int64
    """(packets,) bytes."""
    pts: Int64
    """(packets,) presentation time, in ticks of the stream."""
    is_key: Bool
    """(packets,)"""
    frame_idx: Int64
    """(packets,) number of the frame; -1 where a player does not show it."""
    decode_idx: Int64
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
    def keys(self) -> Int64:
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

    def earlier_start(self, frame_idxs: Iterable[int], start: int) -> int | None:
        """A keyframe to try next where decoding from `start` gave none of these frames.

        Twice as far back each time; None where there is nothing before.
        """
        usual = self.start_of(int(self.decode_idx[min(frame_idxs)]))
        group, usual_group = np.searchsorted(self.keys, [start, usual])
        earlier = max(0, 2 * group - usual_group - 1)
        return int(self.keys[earlier]) if earlier < group else None

    def is_leading(self, start: int, stop: int) -> Bool:
        """(stop - start,) packets that decoding from `start` cannot use and does not need.

        They build on the group before, and nothing after their group's keyframe in time builds
        on them.
        """
        if not self.is_key[start]:
            return np.zeros(stop - start, bool)
        in_group = np.arange(start, stop) < self.group_end(start)
        in_group &= self.pts[start:stop] < self.pts[start]
        return in_group

    def spans(self, frame_idxs: Iterable[int], *, start: int | None = None) -> list[PacketSpan]:
        """What to decode for these frames, each packet once, in decode order.

        With `start`, one run from there.
        """
        wanted = np.sort(self.decode_idx[np.array(list(frame_idxs), np.int64)])
        spans: list[tuple[int, list[int]]] = []
        for packet in wanted.tolist():
            first = self.start_of(packet) if start is None else int(start)
            packets = [packet]
            while spans and first <= spans[-1][1][-1]:
                before, earlier = spans.pop()
                earlier.extend(packets)
                first, packets = min(first, before), earlier
            spans.append((first, packets))
        return [
            PacketSpan(first, packets[-1] + 1, tuple(sorted(self.frame_idx[packets].tolist())))
            for first, packets in spans
        ]

    def reorder_depth(self) -> int:
        """The most packets that come before another one in the file but are shown after it."""
        # The k-th packet in decode order can be shown once all that precede it in time are there:
        # how far the furthest of those lies behind is the delay.
        order = np.argsort(self.pts, kind="stable")
        latest = np.maximum.accumulate(order)
        return int((latest - np.arange(len(order))).max(initial=0))

    def packets_before_first_picture(self) -> Int64:
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

    def without(self, packets: Int64) -> "PacketIndex":
        """The same packets with these not shown."""
        shown = self.frame_idx >= 0
        shown[packets] = False
        return PacketIndex.build(
            position=self.position, size=self.size, pts=self.pts, is_key=self.is_key, is_shown=shown
        )


def reference_test(codec: str, extradata: bytes) -> Callable[[bytes], bool]:
    """A function that says whether other frames may refer to a packet's frame.

    Known for H.264 (`nal_ref_idc`, ITU-T H.264 7.4.1) and HEVC (sub-layer non-reference
    pictures of the highest sub-layer, ITU-T H.265 7.4.2.2) as MP4 and Matroska hold them, with
    NAL units behind their lengths; elsewhere the answer is always yes.
    """
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return partial(_h264_is_reference, length_bytes=(extradata[4] & 3) + 1)
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        sub_layers = extradata[21] >> 3 & 7
        length_bytes = (extradata[21] & 3) + 1
        return partial(_hevc_is_reference, length_bytes=length_bytes, sub_layers=sub_layers)
    return _always


def hidden_test(codec: str) -> Callable[[bytes], bool] | None:
    """A function that says whether a packet makes a picture that is never shown; None: none does.

    VP8's alternate reference frames lie in packets of their own (`show_frame`, RFC 6386 9.1);
    VP9's as well where a muxer did not pack them into a superframe (`show_existing_frame` and
    `show_frame`, VP9 bitstream specification 6.2; superframes, annex B).
    """
    return {"vp8": _vp8_is_hidden, "vp9": _vp9_is_hidden}.get(codec)


def _vp8_is_hidden(packet: bytes) -> bool:
    return not packet[0] >> 4 & 1


def _vp9_is_hidden(packet: bytes) -> bool:
    if packet[-1] >> 5 == 6 and _is_superframe(packet):
        return False  # its last frame is shown
    bits = int.from_bytes(packet[:2].ljust(2, b"\0"))
    profile = (bits >> 13 & 1) | (bits >> 12 & 1) << 1
    after = 11 - (profile == 3)  # the next bit, counted from the lowest of sixteen
    if bits >> 14 != 2 or bits >> after & 1:  # no frame at all; an earlier frame is shown
        return False
    return not bits >> after - 2 & 1


def _is_superframe(packet: bytes) -> bool:
    """Whether the index at the end has its marker at both ends."""
    frames, length = (packet[-1] & 7) + 1, (packet[-1] >> 3 & 3) + 1
    size = 2 + frames * length
    return len(packet) >= size and packet[-size] == packet[-1]


def _always(packet: bytes) -> bool:
    return True


def _h264_is_reference(packet: bytes, *, length_bytes: int) -> bool:
    for start in _nal_starts(packet, length_bytes):
        if packet[start] & 31 in (1, 2, 5):  # slices, and a slice's first partition
            return packet[start] >> 5 & 3 != 0
    return True


def _hevc_is_reference(packet: bytes, *, length_bytes: int, sub_layers: int) -> bool:
    for start in _nal_starts(packet, length_bytes):
        kind = packet[start] >> 1 & 63
        if kind < 32 and start + 1 < len(packet):
            is_non_reference = kind <= 14 and kind % 2 == 0
            return not (is_non_reference and (packet[start + 1] & 7) == sub_layers)
    return True


def _nal_starts(packet: bytes, length_bytes: int) -> Iterator[int]:
    start = length_bytes
    while start < len(packet):
        yield start
        start += int.from_bytes(packet[start - length_bytes : start]) + length_bytes
