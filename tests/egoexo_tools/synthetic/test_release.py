"""A release has the layout of the real one, is reproducible and can be resumed."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from synthetic_release import ONE_TAKE, decode, load, relations

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import Release
from egoexo_tools.synthetic import SyntheticOptions, read_frame_index, synthesize
from egoexo_tools.synthetic.frame_code import code_size
from egoexo_tools.synthetic.options import Motion
from egoexo_tools.vocab import Split, View, view_of


def test_takes_and_splits_have_the_layout_of_the_real_release(tiny_release: Release) -> None:
    takes = load(tiny_release.takes_json)
    assert set(takes[0]) == {
        *("root_dir", "take_uid", "take_name", "university_id", "university_name"),
        *("parent_task_name", "duration_sec", "is_dropped", "frame_aligned_videos"),
        *("capture_uid", "participant_uid"),
    }
    assert takes[0]["frame_aligned_videos"]["aria01"]["rgb"]["cam_id"] == "aria01_214-1"
    splits = load(tiny_release.splits_json)
    split_of = splits["take_uid_to_split"]
    assert [len(splits["split_to_take_uids"][split]) for split in Split] == [3, 1, 1]
    assert all(uid in splits["split_to_take_uids"][split] for uid, split in split_of.items())
    assert split_of.keys() == splits["take_uid_to_benchmark"].keys()
    uids = {take["take_uid"] for take in takes}
    assert len(split_of.keys() - uids) == 2, "redacted takes"
    assert len(relations(tiny_release).keys() - uids) == 1, "a redacted take with annotation"


@pytest.mark.slow
def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    first = synthesize(tmp_path / "a", ONE_TAKE, quiet=True, workers=1)
    second = synthesize(tmp_path / "b", ONE_TAKE, quiet=True, workers=1)
    files = sorted(path.relative_to(first.path) for path in first.path.rglob("*.*"))
    assert files == sorted(path.relative_to(second.path) for path in second.path.rglob("*.*"))
    for name in files:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_a_second_run_does_nothing_and_rejects_other_options(tiny_release: Release) -> None:
    options = SyntheticOptions(**load(tiny_release.path / "synthetic.json"))
    before = {path: path.stat().st_mtime_ns for path in tiny_release.path.rglob("*")}
    synthesize(tiny_release.path, options, quiet=True)
    assert before == {path: path.stat().st_mtime_ns for path in tiny_release.path.rglob("*")}
    changed = SyntheticOptions(**{**options.to_json(), "seed": 1, "gop": 30})
    with pytest.raises(SettingsError, match=r"seed=0, now 1, gop=250, now 30"):
        synthesize(tiny_release.path, changed, quiet=True)


def test_a_killed_run_is_not_a_release_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(ONE_TAKE, val_takes=1, annotated_frames=1)
    whole = synthesize(tmp_path / "whole", options, quiet=True, workers=1)
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        from egoexo_tools.synthetic import release as module

        def kill(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module, "_write_annotations", kill)
        with pytest.raises(KeyboardInterrupt):
            synthesize(killed, options, quiet=True, workers=1)
    with pytest.raises(DataError, match="not an Ego-Exo4D release"):
        Release(killed).require()
    synthesize(killed, options, quiet=True, workers=1)
    names = {path.relative_to(killed) for path in killed.rglob("*")}
    assert names == {path.relative_to(whole.path) for path in whole.path.rglob("*")}
    assert (killed / "takes.json").read_bytes() == whole.takes_json.read_bytes()


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="not a synthetic release"):
        synthesize(tmp_path, ONE_TAKE, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_lower_motion_rate_keeps_the_annotated_frames(tmp_path: Path) -> None:
    whole = synthesize(tmp_path / "whole", ONE_TAKE, quiet=True, workers=1)
    options = replace(ONE_TAKE, motion_fps=3)
    quick = synthesize(tmp_path / "quick", options, quiet=True, workers=1)
    for split in ("train", "val", "test"):
        name = f"annotations/relations_{split}.json"
        assert (quick.path / name).read_bytes() == (whole.path / name).read_bytes()
    for path in sorted((quick.path / "takes").rglob("*.mp4")):
        if "downscaled" in path.parts:
            continue
        frames = decode(path)
        assert [read_frame_index(frame) for frame in frames] == list(range(31))
        rows, _ = code_size(*frames[0].shape[:2])
        if view_of(path.stem) is View.EGO:  # the head always moves
            below = [frame[rows:].astype(int) for frame in frames]
            changes = np.array([np.abs(a - b).mean() for a, b in pairwise(below)])
            rendered = [9, 19, 29]  # the codec changes the other frames only slightly
            assert changes[rendered].min() > 2 * np.delete(changes, rendered).max()


def test_an_option_that_the_stored_options_lack_has_its_default(tmp_path: Path) -> None:
    synthesize(tmp_path, ONE_TAKE, quiet=True, workers=1)
    marker = tmp_path / "synthetic.json"
    options = json.loads(marker.read_text())
    del options["motion_fps"]
    marker.write_text(json.dumps(options))
    assert synthesize(tmp_path, ONE_TAKE, quiet=True, workers=1).path == tmp_path


def test_a_calm_release_does_not_store_the_motion(tmp_path: Path) -> None:
    options = replace(ONE_TAKE, annotated_frames=1)
    calm = synthesize(tmp_path / "calm", options, quiet=True, workers=1)
    assert "motion" not in json.loads((calm.path / "synthetic.json").read_bytes())
    lively = replace(options, motion=Motion.LIVELY)
    with pytest.raises(SettingsError, match="motion=calm, now lively"):
        synthesize(calm.path, lively, quiet=True, workers=1)
    other = synthesize(tmp_path / "lively", lively, quiet=True, workers=1)
    stored_options = json.loads((other.path / "synthetic.json").read_bytes())
    assert SyntheticOptions(**stored_options) == lively
    with pytest.raises(SettingsError, match="motion=lively, now calm"):
        synthesize(other.path, options, quiet=True, workers=1)
    assert json_files(synthesize(other.path, lively, quiet=True, workers=1)) == json_files(other)


def json_files(release: Release) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.path.rglob("*.json")}
