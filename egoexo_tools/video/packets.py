"""Computes which packets of a video a frame needs, from the list of packets alone.

Packets are stored in decode order. Frames are numbered in presentation order, counting only those
that a player shows. A *group* starts at a keyframe. In an open group, frames that follow the
keyframe in the file but precede it in presentation order ("leading" frames) need the previous
group.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from egoexo_tools.arrays import Bool, Int64


@dataclass(frozen=True)
class PacketSpan:
    """Consecutive packets to decode, and the frames that are requested from them."""

    start: int
    """Decode index of the keyframe to start at."""
    stop: int
    """Decode index after the last packet to decode."""
    frame_idxs: tuple[int, ...]
    """Ascending."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """A video's packets in decode order, and its frames in presentation order."""

    position: Int64
    """(packets,) first byte in the file; -1 if the container does not say."""
    size: Int64
    """(packets,) bytes."""
    pts: Int64
    """(packets,) presentation time, in ticks of the stream."""
    is_key: Bool
    """(packets,) whether it is a keyframe."""
    frame_idx: Int64
    """(packets,) index of the frame; -1 if a player does not show it."""
    decode_idx: Int64
    """(frames,) decode index of the frame's packet."""

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
        order = np.argsort(times, kind="stable")
        decode_idx = order[np.array(list(is_shown), bool)[order]]
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
        """Number of frames that a player shows."""
        return len(self.decode_idx)

    def start_of(self, decode_idx: int) -> int:
        """The packet where decoding must start for this one; 0 if no keyframe precedes it."""
        group = int(np.searchsorted(self.keys, decode_idx, side="right")) - 1
        if group < 0:
            return 0
        # A leading frame refers to frames of the previous group.
        is_leading = self.pts[decode_idx] < self.pts[self.keys[group]]
        return int(self.keys[max(group - 1, 0) if is_leading else group])

    def group_end(self, decode_idx: int) -> int:
        """The first keyframe after this packet, or the number of packets."""
        group = int(np.searchsorted(self.keys, decode_idx, side="right"))
        return int(self.keys[group]) if group < len(self.keys) else len(self.pts)

    def earlier_start(self, frame_idxs: Iterable[int], start: int) -> int | None:
        """The keyframe to try next after decoding from `start` returned none of these frames.

        Goes back twice as far each time; None if there is no earlier keyframe.
        """
        usual = self.start_of(int(self.decode_idx[min(frame_idxs)]))
        group, usual_group = np.searchsorted(self.keys, [start, usual])
        earlier = max(0, 2 * group - usual_group - 1)
        return int(self.keys[earlier]) if earlier < group else None

    def is_leading(self, start: int, stop: int) -> Bool:
        """(stop - start,) whether a packet is a leading one of the group at `start`.

        Decoding from `start` must skip these: they depend on the previous group, and no frame
        after the keyframe in presentation order depends on them.
        """
        if not self.is_key[start]:
            return np.zeros(stop - start, bool)
        in_group = np.arange(start, stop) < self.group_end(start)
        in_group &= self.pts[start:stop] < self.pts[start]
        return in_group

    def spans(self, frame_idxs: Iterable[int], *, start: int | None = None) -> list[PacketSpan]:
        """The packets to decode for these frames, each packet once, in decode order.

        With `start`, a single span from there.
        """
        requested = np.sort(self.decode_idx[np.array(list(frame_idxs), np.int64)])
        spans: list[tuple[int, list[int]]] = []
        for packet in requested.tolist():
            first = self.start_of(packet) if start is None else int(start)
            packets = [packet]
            # Merge spans that overlap, as those of leading frames with the previous group's.
            while spans and first <= spans[-1][1][-1]:
                previous_first, previous_packets = spans.pop()
                first, packets = min(first, previous_first), previous_packets + packets
            spans.append((first, packets))
        return [
            PacketSpan(first, packets[-1] + 1, tuple(sorted(self.frame_idx[packets].tolist())))
            for first, packets in spans
        ]

    def reorder_depth(self) -> int:
        """The most packets that precede another packet in the file but follow it when shown."""
        # A frame can be shown once all frames that precede it in time are decoded. The delay is
        # the distance in the file to the last of those.
        order = np.argsort(self.pts, kind="stable")
        latest = np.maximum.accumulate(order)
        return int((latest - np.arange(len(order))).max(initial=0))

    def packets_before_first_picture(self) -> Int64:
        """Packets whose frames may be impossible to decode, because references are missing.

        These are the packets before the first keyframe and the leading ones of the first group,
        which remain when a video is cut at an open group. Almost always empty.
        """
        if len(self.keys) == 0:
            return self.keys
        first = int(self.keys[0])
        end = self.group_end(first)
        precedes = (np.arange(end) < first) | (self.pts[:end] < self.pts[first])
        return np.flatnonzero(precedes & (self.frame_idx[:end] >= 0))

    def without(self, packets: Int64) -> "PacketIndex":
        """The same packets, of which these are not shown."""
        is_shown = self.frame_idx >= 0
        is_shown[packets] = False
        return PacketIndex.build(
            position=self.position,
            size=self.size,
            pts=self.pts,
            is_key=self.is_key,
            is_shown=is_shown,
        )


def reference_test(codec: str, extradata: bytes) -> Callable[[bytes], bool]:
    """A function that returns whether other frames may refer to a packet's frame.

    Supports H.264 (`nal_ref_idc`, ITU-T H.264 7.4.1) and HEVC (sub-layer non-reference pictures
    of the highest sub-layer, ITU-T H.265 7.4.2.2) as stored in MP4 and Matroska, where each NAL
    unit follows its length. For other formats the function always returns True.
    """
    # Extradata that starts with 1 is a configuration record, so NAL units follow their lengths.
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return partial(_h264_is_reference, length_bytes=(extradata[4] & 3) + 1)
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        # In the HEVC configuration record, byte 21 has numTemporalLayers and lengthSizeMinusOne.
        sub_layers = extradata[21] >> 3 & 7
        length_bytes = (extradata[21] & 3) + 1
        return partial(_hevc_is_reference, length_bytes=length_bytes, sub_layers=sub_layers)
    return lambda packet: True


def hidden_test(codec: str) -> Callable[[bytes], bool] | None:
    """A function that returns whether a packet's picture is never shown; None if all are shown.

    VP8 stores alternate reference frames in packets of their own (`show_frame`, RFC 6386 9.1), as
    does VP9 if the muxer did not pack them into a superframe (`show_existing_frame` and
    `show_frame`, VP9 bitstream specification 6.2; superframes, annex B).
    """
    return {"vp8": _vp8_is_hidden, "vp9": _vp9_is_hidden}.get(codec)


def _vp8_is_hidden(packet: bytes) -> bool:
    return not packet[0] >> 4 & 1


def _vp9_is_hidden(packet: bytes) -> bool:
    # A superframe ends with an index that has the same marker byte at both ends. Its last frame is
    # shown.
    index_size = 2 + ((packet[-1] & 7) + 1) * ((packet[-1] >> 3 & 3) + 1)
    has_marker = packet[-1] >> 5 == 6 and len(packet) >= index_size
    if has_marker and packet[-index_size] == packet[-1]:
        return False
    bits = int.from_bytes(packet[:2].ljust(2, b"\0"))
    profile = (bits >> 13 & 1) | (bits >> 12 & 1) << 1
    show_existing = 11 - (profile == 3)  # bit number, counted from the lowest of the sixteen
    if bits >> 14 != 2 or bits >> show_existing & 1:  # not a frame; or repeats an earlier frame
        return False
    return not bits >> show_existing - 2 & 1


def _h264_is_reference(packet: bytes, *, length_bytes: int) -> bool:
    for start in _nal_starts(packet, length_bytes):
        if packet[start] & 31 in (1, 2, 5):  # slices, and the first partition of a slice
            return packet[start] >> 5 & 3 != 0
    return True


def _hevc_is_reference(packet: bytes, *, length_bytes: int, sub_layers: int) -> bool:
    for start in _nal_starts(packet, length_bytes):
        kind = packet[start] >> 1 & 63
        if kind < 32 and start + 1 < len(packet):
            # Types 0, 2, ... 14 are the non-reference pictures of their sub-layer.
            is_non_reference = kind <= 14 and kind % 2 == 0
            return not (is_non_reference and (packet[start + 1] & 7) == sub_layers)
    return True


def _nal_starts(packet: bytes, length_bytes: int) -> Iterator[int]:
    start = length_bytes
    while start < len(packet):
        yield start
        start += int.from_bytes(packet[start - length_bytes : start]) + length_bytes
