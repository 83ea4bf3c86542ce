"""Small videos whose frames contain their own number in their pixels.

The number is a row of 10 black or white squares, one per binary digit, at the top of a grey
picture. The picture has a moving texture, which reveals a frame that was decoded from the wrong
references. `number_in` reads the number.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.video.frames import read_frames

DIGITS = 10
SQUARE = 16
"""Pixels."""
MEDIUM = {"preset": "medium", "bf": "3", "g": "20"}
"""Encoder options for B-frames and a keyframe every 20 frames."""


def picture(number: int, *, height: int, width: int) -> Rgb:
    """The image of one frame, (height, width, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., 0] = 60 + (rows // 4 + number) % 64
    rgb[..., 1] = 60 + (columns // 4 + 2 * number) % 64
    rgb[..., 2] = np.random.default_rng(number).integers(60, 90, (height, width))
    for digit in range(DIGITS):
        rgb[:SQUARE, digit * SQUARE : (digit + 1) * SQUARE] = 255 * (number >> digit & 1)
    return rgb


def number_in(rgb: Rgb) -> int:
    """The number in a decoded image."""
    middle = SQUARE // 2
    squares = rgb[middle, middle : DIGITS * SQUARE : SQUARE].mean(axis=-1) > 128
    return int((squares << np.arange(DIGITS)).sum())


def read_numbers(path: Path | str, frame_idxs: Iterable[int], **options: Any) -> dict[int, int]:
    """frame_idx → the number in its pixels."""
    return {idx: number_in(rgb) for idx, rgb in read_frames(path, frame_idxs, **options)}


def write_video(
    path: Path,
    frames: int,
    *,
    codec: str = "libx264",
    height: int = 120,
    width: int = 176,
    rate: Fraction = Fraction(30),
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pts: Callable[[int], int] | None = None,
    matrix: Sequence[int] | None = None,
    colour: tuple[int, int] | None = None,
) -> Path:
    """Write `frames` numbered frames.

    `pts` maps a number to a time in ticks of 1/3000 s (None: constant `rate`). `matrix` is a
    display matrix of nine numbers. `colour` is FFmpeg's (colour space, range).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"preset": "ultrafast", **(options or {})}
        stream.codec_context.thread_count = 1
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 3000)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if colour is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colour
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(
                picture(number, height=height, width=width), format="rgb24"
            )
            if colour is not None:
                frame = frame.reformat(
                    format="yuv420p", dst_colorspace=colour[0], dst_color_range=colour[1]
                )
                frame.colorspace, frame.color_range = colour
            if pts is None:
                frame.pts, frame.time_base = number, 1 / rate
            else:
                frame.pts, frame.time_base = pts(number), Fraction(1, 3000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def trim_with_edit_list(path: Path, *, ticks: int) -> Path:
    """Make the only edit of an MP4 start later, so that players skip the frames before it."""
    data = bytearray(path.read_bytes())
    # type, version and flags, number of edits, duration, start in the media (each 4 bytes)
    start = data.index(b"elst") + 16
    earlier = int.from_bytes(data[start : start + 4])
    data[start : start + 4] = (earlier + ticks).to_bytes(4)
    path.write_bytes(data)
    return path


def truncate(path: Path, *, share: float) -> Path:
    """Keep this share of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damage(path: Path, packet: int, *, keep: int) -> Path:
    """Overwrite the middle of a packet (in decode order), from byte `keep` on."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start, size = packets[packet].pos or 0, packets[packet].size
    data = bytearray(path.read_bytes())
    end = keep + (size - keep) // 2
    data[start + keep : start + end] = np.random.default_rng(packet).bytes(end - keep)
    path.write_bytes(data)
    return path


def every_frame(path: Path) -> list[Rgb]:
    """All frames of a complete decode by FFmpeg, in order."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def join_as_one_track(path: Path, *parts: Path) -> Path:
    """Join H.264 videos into one MP4 track with a sample description per part.

    `MP4Box -cat` joins videos with different settings in this way. The parts must not have
    B-frames.
    """
    descriptions, packets, counts = [], [], []
    for part in parts:
        with av.open(str(part)) as container:
            stream = container.streams.video[0]
            size = stream.height, stream.width
            descriptions.append(_avc1(*size, stream.codec_context.extradata or b""))
            part_packets = [p for p in container.demux(stream) if p.size]
            packets += [(bytes(packet), packet.is_keyframe) for packet in part_packets]
            counts.append(len(part_packets))
    head = _box(b"ftyp", b"isom" + _u32(512) + b"isomavc1")
    first = len(head) + 8
    ends = np.cumsum([0, *(len(data) for data, _ in packets)])
    offsets = first + ends[np.cumsum([0, *counts])[:-1]]
    table = _sample_table(descriptions, packets, counts, offsets.tolist())
    mdat = _box(b"mdat", b"".join(data for data, _ in packets))
    path.write_bytes(head + mdat + _movie(table, len(packets), *size))
    return path


def _u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4) for value in values)


def _box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return _u32(len(data) + 8) + kind + data


def _avc1(height: int, width: int, settings: bytes) -> bytes:
    sizes = width.to_bytes(2) + height.to_bytes(2)
    fixed = bytes(6) + b"\0\1" + bytes(16) + sizes + _u32(0x480000, 0x480000, 0) + b"\0\1"
    return _box(b"avc1", fixed + bytes(32) + b"\0\x18\xff\xff", _box(b"avcC", settings))


def _sample_table(
    descriptions: list[bytes],
    packets: list[tuple[bytes, bool]],
    counts: list[int],
    offsets: list[int],
) -> bytes:
    keys = [number for number, (_, is_key) in enumerate(packets, start=1) if is_key]
    chunks = [_u32(number, count, number) for number, count in enumerate(counts, start=1)]
    return _box(
        b"stbl",
        _box(b"stsd", _u32(0, len(descriptions)), *descriptions),
        _box(b"stts", _u32(0, 1, len(packets), 1)),
        _box(b"stss", _u32(0, len(keys), *keys)),
        _box(b"stsc", _u32(0, len(chunks)), *chunks),
        _box(b"stsz", _u32(0, 0, len(packets), *(len(data) for data, _ in packets))),
        _box(b"stco", _u32(0, len(offsets), *offsets)),
    )


def _movie(table: bytes, frames: int, height: int, width: int) -> bytes:
    unit = _u32(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    mvhd = _box(
        b"mvhd", _u32(0, 0, 0, 30, frames, 0x10000, 0x01000000, 0, 0), unit, _u32(*[0] * 6, 2)
    )
    tkhd = _box(
        b"tkhd", _u32(3, 0, 0, 1, 0, frames, 0, 0, 0, 0), unit, _u32(width << 16, height << 16)
    )
    mdhd = _box(b"mdhd", _u32(0, 0, 0, 30, frames, 0x55C40000))
    hdlr = _box(b"hdlr", _u32(0, 0), b"vide", bytes(12), b"video\0")
    dinf = _box(b"dinf", _box(b"dref", _u32(0, 1), _box(b"url ", _u32(1))))
    minf = _box(b"minf", _box(b"vmhd", _u32(1, 0, 0)), dinf, table)
    return _box(b"moov", mvhd, _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf)))
