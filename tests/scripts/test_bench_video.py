"""The video benchmark: what is compared by the packet, and where torchcodec finds FFmpeg."""

import sys
from pathlib import Path

import pytest
from video_factory import write_video

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import bench_video  # noqa: E402
from bench_video import DECODING, SAME_PACKETS, Turn  # noqa: E402


def test_a_packet_is_compared_with_decoding_alone() -> None:
    best = {
        "ours": Turn(1.0, 3.0, 300, packets=100),
        DECODING: Turn(4.0, 12.0, 300, packets=600),
        SAME_PACKETS: Turn(1.0, 2.7, 300, packets=100),
    }
    all_packets, same, packets = bench_video.limit_rows("noisy", best)
    assert all_packets[1:] == pytest.approx((30, 20, 20 / 30))  # ms, ms, ratio
    assert same[1:] == pytest.approx((30, 27, 0.9))
    assert packets[1:] == (100, 600, 6)


def test_our_packets_alone_are_those_that_reading_decodes(tmp_path: Path) -> None:
    options = {"preset": "medium", "bf": "3", "g": "20"}
    path = str(write_video(tmp_path / "video.mp4", 90, options=options))
    counts = {
        name: bench_video.CONTENDERS[name](path, [3, 47])() for name in ("ours", SAME_PACKETS)
    }
    assert counts["ours"] == counts[SAME_PACKETS] < 30
    assert bench_video.CONTENDERS[DECODING](path, [3, 47])() == 90


def test_libraries_are_linked_under_the_names_by_which_others_ask(tmp_path: Path) -> None:
    paths = bench_video.ffmpeg_libraries(tmp_path).split(":")
    assert str(tmp_path) in paths
    names = {path.name.split(".so.")[0] for path in tmp_path.iterdir()}
    if not names:
        pytest.skip("PyAV was built against the system's FFmpeg")
    assert {"libavcodec", "libavformat", "libavutil", "libswscale"} <= names
    assert all(path.resolve().is_file() for path in tmp_path.iterdir())
