"""The videos have the format of the real release."""

from dataclasses import replace
from pathlib import Path

import av
from synthetic_release import ONE_TAKE, decode, load

from egoexo_tools.layout import Release
from egoexo_tools.synthetic import read_frame_index, synthesize
from egoexo_tools.vocab import View, view_of


def test_every_frame_contains_its_index(tiny_release: Release) -> None:
    videos = sorted(tiny_release.path.rglob("*.mp4"))
    assert len(videos) == 2 * 3 * 3  # 448p copies; takes; an ego and two exo cameras
    for path in videos:
        assert [read_frame_index(rgb) for rgb in decode(path)] == list(range(61)), path


def test_videos_are_h264_at_30_fps_with_b_frames_and_448p_copies(tiny_release: Release) -> None:
    for take in load(tiny_release.takes_json):
        for streams in take["frame_aligned_videos"].values():
            for stream in streams.values():
                relative = f"{take['root_dir']}/{stream['relative_path']}"
                video = tiny_release.video(take["take_name"], stream["cam_id"])
                assert tiny_release.inside(relative) == video
                ego = view_of(stream["cam_id"]) is View.EGO
                small = tiny_release.video(take["take_name"], stream["cam_id"], short_side=448)
                check_video(video, (140, 140) if ego else (384, 216))
                check_video(small, (448, 448) if ego else (796, 448))


def check_video(path: Path, size: tuple[int, int]) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (stream.width, stream.height) == size
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * 60
        assert any(packet.pts != packet.dts for packet in packets)


def test_portrait_takes_have_an_upright_exo_camera(tmp_path: Path) -> None:
    options = replace(ONE_TAKE, portrait_takes=1, annotated_frames=1, exo_cameras=1)
    release = synthesize(tmp_path / "upright", options, quiet=True, workers=1)
    name = load(release.takes_json)[0]["take_name"]
    assert decode(release.video(name, "cam01"))[0].shape == (384, 216, 3)
    assert decode(release.video(name, "cam01", short_side=448))[0].shape == (796, 448, 3)
