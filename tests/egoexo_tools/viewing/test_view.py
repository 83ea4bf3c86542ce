"""Views of a take: the MP4 and the Rerun recording are read back."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.video.frames import probe, read_frames
from egoexo_tools.video.writer import open_video
from egoexo_tools.viewing.view import open_take, render, write_view

TAKE = next(iter(TAKES))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    return make_tiny_root(tmp_path_factory.mktemp("view") / "root")


def test_a_take_is_opened_by_uid_or_name(root: DatasetRoot) -> None:
    view = open_take(root, TAKE)
    assert view == open_take(root, "site0_take_0")
    assert view.cameras == (EGO, "cam01", "cam02")
    assert view.frame_idxs == (0, 30, 60, 90)
    assert [name for name, _ in view.moments["cam01", 30].masks] == ["red cup"]
    assert [name for name, _ in view.moments[EGO, 0].masks] == [
        *("red cup", "green box/lid", "blue bowl")
    ]
    assert len(view.moments[EGO, 0].proposals) == 6
    assert open_take(root, TAKE, proposals=False).moments[EGO, 0].proposals == []
    assert open_take(root, TAKE, cameras=["cam02", EGO]).cameras == (EGO, "cam02")
    assert len(set(view.colours.values())) == 3


def test_masks_and_proposals_are_drawn_where_they_are(root: DatasetRoot) -> None:
    view = open_take(root, TAKE, proposals=False)
    bare = open_take(root, TAKE, proposals=False)
    bare.moments[EGO, 0].masks.clear()
    picture, plain = render(view, EGO, 0), render(bare, EGO, 0)
    assert picture is not None and plain is not None and picture.shape == (140, 140, 3)
    changed = (picture != plain).any(axis=2)
    name, rle = view.moments[EGO, 0].masks[0]
    mask = rle.decode_at(140, 140)
    assert changed[mask].all()
    everything = np.any(
        [mask.decode_at(140, 140) for _, mask in view.moments[EGO, 0].masks], axis=0
    )
    grown = np.pad(everything, 2)
    near = np.any([np.roll(grown, (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)], axis=0)
    assert not changed[~near[2:-2, 2:-2]].any()
    y, x = (int(value) for value in np.argwhere(mask).mean(axis=0))
    blend = plain[y, x] * 0.55 + np.array(view.colours[name]) * 0.45
    assert np.abs(picture[y, x] - blend).max() <= 1
    proposed = render(open_take(root, TAKE), EGO, 0)
    assert proposed is not None and (proposed != picture).any()
    assert render(view, EGO, 15) is None


def test_the_mp4_holds_the_views_side_by_side(root: DatasetRoot, tmp_path: Path) -> None:
    view = open_take(root, TAKE, cameras=[EGO, "cam01"])
    path = tmp_path / "take.mp4"
    write_view(view, path, height=280, fps=3)
    info = probe(path)
    assert (info.frames, info.height, info.width) == (4, 280, 280 + 4 + 448)
    assert info.fps == pytest.approx(3, abs=0.01)
    frames = dict(read_frames(path, range(4)))
    first, second = frames[0].astype(float), frames[1].astype(float)
    rle = view.moments[EGO, 0].masks[0][1]  # red cup, still red under its overlay
    inside = first[:, :280][rle.decode_at(280, 280)].mean(axis=0)
    assert inside[0] > 150 and inside[1] < 90
    assert np.abs(first[:260, :280] - second[:260, :280]).max() > 60, "the objects move"
    green = first[120, 300:700]  # the exo panel's background
    assert np.abs(np.median(green, axis=0) - 120).max() < 6


def test_the_recording_holds_every_layer(root: DatasetRoot, tmp_path: Path) -> None:
    chunk = pytest.importorskip("rerun.chunk")
    path = tmp_path / "take.rrd"
    write_view(open_take(root, TAKE), path)
    chunks = list(chunk.RrdReader(path).stream())
    rows: dict[str, int] = {}
    for part in chunks:
        if not part.is_static and part.entity_path.count("/") == 2:
            rows[part.entity_path] = rows.get(part.entity_path, 0) + part.num_rows
    layers = ["picture", "masks", "objects", "proposals"]
    cameras = {entity.split("/")[1] for entity in rows}
    assert len(cameras) == 3
    assert rows == {f"/{camera}/{layer}": 4 for camera in cameras for layer in layers}
    timelines = {name for part in chunks for name in part.timeline_names}
    assert {"frame", "time"} <= timelines
    labels = {
        text
        for part in chunks
        if part.entity_path.endswith("/objects")
        for batch in [part.to_record_batch()]
        for name in batch.schema.names
        if "labels" in name
        for row in batch.column(name).to_pylist()
        for text in row or ()
    }
    assert labels == {"red cup", "green box/lid", "blue bowl"}
    assert [path.name for path in tmp_path.iterdir()] == ["take.rrd"]


def test_missing_data_and_wrong_options_are_errors(root: DatasetRoot, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'site0_tak' is not in this root; did you mean"):
        open_take(root, "site0_tak")
    with pytest.raises(SettingsError, match="'cam09' is not in this take; did you mean 'cam0"):
        open_take(root, TAKE, cameras=["cam09"])
    view = open_take(root, TAKE)
    with pytest.raises(SettingsError, match=r"must end in .mp4, .rrd or .html"):
        write_view(view, tmp_path / "take.avi")
    with pytest.raises(SettingsError, match="must be even"):
        write_view(view, tmp_path / "take.mp4", height=281)
    incomplete_root = make_tiny_root(tmp_path / "root")
    incomplete_root.frame(TAKE, "cam01", 30).unlink()
    with pytest.raises(DataError, match=r"cam01/30.jpg is missing; run `egoexo-tools frames`"):
        write_view(open_take(incomplete_root, TAKE), tmp_path / "take.mp4")
    assert not (tmp_path / "take.mp4").exists(), "nothing is left of a video that failed"
    for path in incomplete_root.table("frames").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="has no pictures; run `egoexo-tools frames` first"):
        open_take(incomplete_root, TAKE)


def test_a_video_needs_even_sides(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="a video of 4x3 pixels cannot be written"),
        open_video(tmp_path / "odd.mp4", hw=(3, 4)),
    ):
        pass


def test_command(root: DatasetRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["view", str(root.path), "--take", TAKE])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Written: site0_take_0.mp4, 4 frames of {EGO}, cam01")
    assert probe(Path("site0_take_0.mp4")).frames == 4
