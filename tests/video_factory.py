"""Small videos whose frames carry their own number in their pixels.

The number is a row of 10 black or white squares (a binary digit each) along the top of a grey
picture with a texture that moves, so that a frame that was decoded from the wrong references
shows. `number_in` reads it back.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

DIGITS = 10
SQUARE = 16
"""Pixels."""

Rgb = NDArray[np.uint8]


def picture(number: int, *, height: int, width: int) -> Rgb:
    """The picture of one frame, (height, width, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., 0] = 60 + (rows // 4 + number) % 64
    rgb[..., 1] = 60 + (columns // 4 + 2 * number) % 64
    rgb[..., 2] = np.random.default_rng(number).integers(60, 90, (height, width))
    for digit in range(DIGITS):
        rgb[:SQUARE, digit * SQUARE : (digit + 1) * SQUARE] = 255 * (number >> digit & 1)
    return rgb


def number_in(rgb: Rgb) -> int:
    """The number that a decoded picture carries."""
    middle = SQUARE // 2
    squares = rgb[middle, middle : DIGITS * SQUARE : SQUARE].mean(axis=-1) > 128
    return int((squares << np.arange(DIGITS)).sum())


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

    `pts` maps a number to a time in ticks of 1/3000 s (None: even at `rate`); `matrix` is a
    display matrix of nine numbers; `colour` is FFmpeg's (colour space, range).
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
    """Make the (only) edit of an MP4 begin this much later: players show the rest alone."""
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
    """All frames that FFmpeg's decoder gives from beginning to end, in order."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
