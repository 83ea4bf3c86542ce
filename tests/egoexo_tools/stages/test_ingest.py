"""The ingest stage on small releases, read back with plain json, pyarrow and pycocotools."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pycocotools import mask as coco
from small_release import (
    EGO,
    EXO,
    annotated,
    block,
    plain_take,
    shipped,
    takes_entry,
    track,
    write_release,
)
from video_factory import write_video

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.stages.ingest import STAGE, run_ingest
from egoexo_tools.stages.left_out import left_out_text
from egoexo_tools.vocab import Split

INLINE = RunOptions(executor="inline", quiet=True)
OVERWRITE = RunOptions(executor="inline", quiet=True, overwrite=True)


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(tmp_path / "root")


def ingest(root: DatasetRoot, release: Release, **options: Any) -> StageSummary:
    return run_ingest(root, release, **{"run": INLINE, **options})


def three_takes(path: Path, **options: Any) -> Release:
    relations = {"train": {"a": plain_take(), "b": plain_take()}, "test": {"c": plain_take()}}
    return write_release(path / "release", relations, **options)


def reasons(root: DatasetRoot) -> dict[str, str]:
    """take_uid → reason of the takes that were left out whole."""
    rows = read_manifest(root, "exclusions").to_pylist()
    assert {row["stage"] for row in rows} <= {"ingest"}
    return {row["take_uid"]: row["reason"] for row in rows if row["camera"] is None}


def tree(root: DatasetRoot, *, without: str = "status") -> dict[str, bytes]:
    files = [path for path in sorted(root.path.rglob("*")) if path.is_file()]
    names = {path.relative_to(root.path).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(without)}


def test_manifests_hold_the_release(tmp_path: Path, root: DatasetRoot) -> None:
    summary = ingest(root, three_takes(tmp_path))
    assert summary.failed == () and summary.done == 3
    assert summary.counts == {"masks": 12, "absent": 3, "excluded": 0}
    takes = read_manifest(root, "takes").to_pylist()
    assert takes[0] == {
        "take_uid": "a",
        "take_name": "name of a",
        "scenario": "Cooking",
        "university": "cmu",
        "split": "train",
        "ego_camera": EGO,
        "exo_cameras": [EXO],
        "duration_seconds": 10.0,
        "frames_annotated": 3,
    }
    assert [take["split"] for take in takes] == ["train", "train", "test"]
    assert read_manifest(root, "masks").num_rows == 15
    assert read_manifest(root, "exclusions").num_rows == 0
    assert left_out_text(root, STAGE) == ""


def test_annotation_json_is_read_by_json_and_pycocotools(tmp_path: Path, root: DatasetRoot) -> None:
    ingest(root, three_takes(tmp_path))
    content = json.loads((root.path / "processed/a/annotation.json").read_text())
    assert content.keys() == {"masks", "subsample_idx", "scenario", "take_name"}
    assert content["subsample_idx"] == [0, 30, 60]
    assert (content["scenario"], content["take_name"]) == ("Cooking", "name of a")
    masks = content["masks"]["cup_0"]
    assert {camera: list(frames) for camera, frames in masks.items()} == {
        EGO: ["0", "30"],
        EXO: ["0", "30"],
    }
    assert masks[EXO]["30"]["size"] == [9, 16]
    assert coco.decode(masks[EXO]["30"]).tolist() == block(EXO, 30).decode().astype(int).tolist()


def test_takes_json_keeps_the_entries_and_split_json_the_order(
    tmp_path: Path, root: DatasetRoot
) -> None:
    entries = [takes_entry(name) for name in ["c", "x", "b", "a"]]
    splits = {"train": ["b", "a"], "val": [], "test": ["c"]}
    ingest(root, three_takes(tmp_path, entries=entries, splits=splits))
    assert json.loads(root.takes_json.read_text()) == [entries[0], entries[2], entries[3]]
    assert json.loads(root.split_json.read_text()) == splits


@pytest.mark.parametrize("form", ["split.json", "splits.json"])
def test_a_split_file_overrides_the_release(tmp_path: Path, root: DatasetRoot, form: str) -> None:
    release = three_takes(tmp_path, splits={"train": ["a", "b"], "val": [], "test": ["c"]})
    split_file = tmp_path / form
    lists = {"train": ["c"], "val": ["a", "gone"], "test": []}
    split_file.write_text(
        json.dumps(lists if form == "split.json" else {"split_to_take_uids": lists})
    )
    ingest(root, release, split_file=split_file)
    assert json.loads(root.split_json.read_text()) == {"train": ["c"], "val": ["a"], "test": []}
    assert reasons(root) == {
        "b": "not in the split file",
        "gone": "not in takes.json: redacted, or not part of this release",
    }


def test_unusable_takes_are_named_with_a_reason(tmp_path: Path, root: DatasetRoot) -> None:
    names = ["good", "redacted", "dropped", "both", "nosplit", "../up", "badname", "alone"]
    entries = [takes_entry(name) for name in names if name != "redacted"]
    entries[1]["is_dropped"] = True
    entries[5]["take_name"] = "../../etc"
    entries.append(takes_entry("good", take_name="another"))
    entries.append(takes_entry("unannotated"))
    relations = {name: plain_take() for name in names if name != "alone"}
    relations["alone"] = annotated({"cup_0": {EGO: track(EGO)}})
    split_uids = [name for name in names if name != "nosplit"]
    split_file = tmp_path / "split.json"
    split_file.write_text(json.dumps({"train": [*split_uids, "unannotated"], "test": ["both"]}))
    release = write_release(tmp_path / "release", {"train": relations}, entries=entries)
    summary = ingest(root, release, split_file=split_file)
    assert summary.failed == ()
    assert [row["take_uid"] for row in read_manifest(root, "takes").to_pylist()] == ["good"]
    take_reasons = reasons(root)
    expected = {
        "good": "duplicate take in takes.json",
        "redacted": "not in takes.json",
        "dropped": "dropped",
        "both": "in more than one split: train, test",
        "nosplit": "not in the split file",
        "../up": "cannot be a file name",
        "badname": "cannot be a file name",
        "alone": "object without exo",
        "unannotated": "in no relations file",
    }
    assert take_reasons.keys() == expected.keys()
    for name, message in expected.items():
        assert message in take_reasons[name]
    assert not (tmp_path / "up").exists()
    assert "1 left out: takes.json marks it as dropped\n" in left_out_text(root, STAGE, reasons=99)
    assert "and 8 more reasons" in left_out_text(root, STAGE, reasons=1)


def test_a_take_in_two_files_comes_from_the_file_of_its_split(
    tmp_path: Path, root: DatasetRoot
) -> None:
    other = annotated({"fork_1": {EGO: track(EGO), EXO: track(EXO)}})
    relations = {"train": {"a": plain_take()}, "val": {"a": other}}
    release = write_release(tmp_path / "release", relations, splits={"train": [], "val": ["a"]})
    ingest(root, release)
    names = read_manifest(root, "masks").column("object_name").unique().to_pylist()
    assert names == ["fork_1"]
    assert "duplicate take: relations_train.json" in reasons(root)["a"]


def test_the_first_copy_of_a_take_is_used(tmp_path: Path, root: DatasetRoot) -> None:
    first, second = json.dumps(plain_take()), json.dumps(annotated({}))
    text = f'{{"annotations": {{"a": {first}, "a": {second}}}}}'
    release = write_release(tmp_path / "release", {"val": text}, entries=[takes_entry("a")])
    ingest(root, release)
    assert read_manifest(root, "masks").num_rows == 5
    assert "duplicate take: relations_val.json" in reasons(root)["a"]


def test_a_truncated_file_gives_the_takes_before_its_end_and_fails(
    tmp_path: Path, root: DatasetRoot
) -> None:
    text = json.dumps({"annotations": {name: plain_take() for name in "abc"}})
    cut = text[: text.index('"b": ') + 200]
    entries = [takes_entry(name) for name in "abc"]
    release = write_release(tmp_path / "release", {"train": cut}, entries=entries)
    summary = ingest(root, release)
    (failed,) = summary.failed
    assert failed.unit == "b" and "relations_train.json is cut off inside take b" in failed.error
    assert reasons(root) == {"b": failed.error}
    assert [row["take_uid"] for row in read_manifest(root, "takes").to_pylist()] == ["a"]
    # Once the file is whole, the rest follows and the finished take stays as it is.
    before = root.part("masks", "a").stat().st_mtime_ns
    release.relations_json("train").write_text(text)
    assert ingest(root, release).failed == ()
    assert reasons(root) == {}
    assert root.part("masks", "a").stat().st_mtime_ns == before
    assert read_manifest(root, "takes").num_rows == 3


def test_a_take_of_another_structure_fails_its_own_unit(tmp_path: Path, root: DatasetRoot) -> None:
    relations = {"train": {"a": {"object_masks": [1]}, "b": plain_take()}}
    summary = ingest(root, write_release(tmp_path / "release", relations))
    (failed,) = summary.failed
    assert failed.unit == "a" and "damaged in take a" in failed.error
    assert json.loads(root.split_json.read_text())["train"] == ["b"]


def test_bad_masks_are_exclusions_of_their_take(tmp_path: Path, root: DatasetRoot) -> None:
    take = plain_take()
    take["object_masks"]["cup_0"][EXO]["annotation"]["90"] = {"width": 16, "height": 9}
    take["object_masks"]["cup_0"][EXO]["annotation"]["3000"] = shipped(block(EXO))
    summary = ingest(root, write_release(tmp_path / "release", {"train": {"a": take}}))
    rows = read_manifest(root, "exclusions").to_pylist()
    assert summary.counts["excluded"] == len(rows) == 2
    assert [(row["take_uid"], row["camera"], row["frame_idx"]) for row in rows] == [
        ("a", EXO, 90),
        ("a", EXO, 3000),
    ]
    assert "at 300" in rows[1]["reason"]  # from duration_sec: there is no video


def test_the_video_limits_the_frames_of_its_camera(tmp_path: Path, root: DatasetRoot) -> None:
    relations = {"train": {"a": plain_take(), "b": plain_take(), "c": plain_take()}}
    release = write_release(tmp_path / "release", relations)
    video = release.video("name of a", EGO)
    video.parent.mkdir(parents=True)
    write_video(video, 31, height=160, width=160)
    small = release.video("name of b", EXO, short_side=448)
    small.parent.mkdir(parents=True)
    write_video(small, 20, height=180, width=320)
    unreadable = release.video("name of c", EGO)
    unreadable.parent.mkdir(parents=True)
    unreadable.write_bytes(b"not a video")
    ingest(root, release)
    rows = read_manifest(root, "exclusions").to_pylist()
    assert [(row["take_uid"], row["camera"], row["frame_idx"]) for row in rows] == [
        ("a", EGO, 60),
        ("b", EXO, 30),
    ]
    assert [row["reason"] for row in rows] == [
        "frame beyond the video's end, at 31",
        "frame beyond the video's end, at 20",
    ]


def test_takes_and_scenarios_can_be_selected(tmp_path: Path, root: DatasetRoot) -> None:
    scenarios = {"a": "Cooking", "b": "Bike Repair", "c": "Cooking"}
    entries = [takes_entry(name, parent_task_name=value) for name, value in scenarios.items()]
    release = three_takes(tmp_path, entries=entries)
    assert ingest(root, release, scenarios=["bike repair"]).done == 1
    assert ingest(root, release, take_uids=["c"]).done == 1
    assert [row["take_uid"] for row in json.loads(root.takes_json.read_text())] == ["b", "c"]
    with pytest.raises(SettingsError, match="'Bike Repir'.*did you mean 'Bike Repair'"):
        ingest(root, release, scenarios=["Bike Repir"])
    with pytest.raises(SettingsError, match="'d' is not in this release; it has a, b, c"):
        ingest(root, release, take_uids=["d"])
    with pytest.raises(DataError, match="no take has both"):
        ingest(root, release, take_uids=["a"], scenarios=["Bike Repair"])


def test_a_requested_take_that_is_left_out_is_an_error(tmp_path: Path, root: DatasetRoot) -> None:
    release = three_takes(tmp_path, entries=[takes_entry("a")])
    with pytest.raises(SettingsError, match="take b cannot be ingested: not in takes.json"):
        ingest(root, release, take_uids=["b"])


def test_a_second_run_ingests_changed_takes_only(tmp_path: Path, root: DatasetRoot) -> None:
    release = three_takes(tmp_path)
    ingest(root, release)
    before = tree(root, without="-")
    second = ingest(root, release)
    assert (second.done, second.skipped) == (0, 3)
    assert tree(root, without="-") == before
    three_takes(tmp_path, splits={"train": ["a"], "val": ["b"], "test": ["c"]})
    assert ingest(root, release).done == 1
    assert json.loads(root.split_json.read_text())["val"] == ["b"]


@pytest.mark.slow
def test_processes_give_the_same_bytes(tmp_path: Path, root: DatasetRoot) -> None:
    release = three_takes(tmp_path)
    ingest(root, release)
    other = DatasetRoot(tmp_path / "other")
    ingest(other, release, run=RunOptions(executor="process", workers=2, quiet=True))
    assert tree(other) == tree(root)


def test_takes_of_another_split_are_not_mixed_in(tmp_path: Path, root: DatasetRoot) -> None:
    release = three_takes(tmp_path)
    ingest(root, release)
    three_takes(tmp_path, splits={"train": ["a"], "val": [], "test": ["c"]})
    with pytest.raises(SettingsError, match=r"1 takes .*\(b\).*--overwrite"):
        ingest(root, release)
    ingest(root, release, run=OVERWRITE)
    assert {path.stem for path in root.table("masks").iterdir()} == {"a", "c"}
    assert not root.annotation_json("b").exists()


@pytest.mark.parametrize(
    "remove, message",
    [
        ("takes.json", "is not an Ego-Exo4D release"),
        ("annotations/relations_train.json", "no annotations/relations_"),
    ],
)
def test_other_folders_are_refused(
    tmp_path: Path, root: DatasetRoot, remove: str, message: str
) -> None:
    release = write_release(tmp_path / "release", {"train": {"a": plain_take()}})
    (release.path / remove).unlink()
    with pytest.raises(DataError, match=message):
        ingest(root, release)
    assert not root.path.exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not a list of takes"),
        ('{"a": 1}', "is not a list of takes"),
        ('[{"take_uid": 3}]', "entry 0 of takes.json has no take_uid"),
    ],
)
def test_a_damaged_takes_json_is_refused(
    tmp_path: Path, root: DatasetRoot, text: str, message: str
) -> None:
    release = three_takes(tmp_path)
    release.takes_json.write_text(text)
    with pytest.raises(DataError, match=message):
        ingest(root, release)


@pytest.mark.parametrize("text", ["[]", "{}", '{"train": "a"}', '{"train": [1]}', "{"])
def test_an_invalid_split_file_is_refused(tmp_path: Path, root: DatasetRoot, text: str) -> None:
    split_file = tmp_path / "split.json"
    split_file.write_text(text)
    with pytest.raises(DataError, match="split.json"):
        ingest(root, three_takes(tmp_path), split_file=split_file)


def test_a_release_without_usable_takes_is_an_error(tmp_path: Path, root: DatasetRoot) -> None:
    with pytest.raises(DataError, match="3 takes are left out .not in takes.json"):
        ingest(root, three_takes(tmp_path, entries=[]))


def test_the_command(tmp_path: Path, root: DatasetRoot) -> None:
    release = three_takes(tmp_path)
    arguments = ["ingest", str(root.path), "--release", str(release.path), "--executor", "inline"]
    result = CliRunner().invoke(main, [*arguments, "--quiet", "--take", "a"])
    assert result.exit_code == 0 and "ingest: 1 done, 4 masks" in result.output
    result = CliRunner().invoke(main, [*arguments, "--scenario", "Coking"])
    assert result.exit_code == 2 and "did you mean 'Cooking'" in result.output
    release.relations_json("test").write_text('{"annotations": {"c": {')
    result = CliRunner().invoke(main, [*arguments, "--quiet"])
    assert result.exit_code == 1 and "cut off inside take c" in result.output


def ingest_one(
    root: DatasetRoot, folder: Path, take: Any, change: Callable[[str], str] = str, **entry: Any
) -> set[str]:
    """Ingest a release of one take, after a change to its relations; returns the exclusions."""
    release = write_release(folder, {"train": {"a": take}}, entries=[takes_entry("a", **entry)])
    path = release.relations_json(Split.TRAIN)
    path.write_text(change(path.read_text()))
    ingest(root, release).check()
    return {row["reason"] for row in read_manifest(root, "exclusions").to_pylist()}


def visibility(root: DatasetRoot, camera: str) -> dict[int, bool]:
    """frame_idx → visible, of a camera's rows."""
    rows = read_manifest(root, "masks").to_pylist()
    return {row["frame_idx"]: row["visible"] for row in rows if row["camera"] == camera}


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_an_invalid_annotation_makes_no_object_absent(
    root: DatasetRoot, tmp_path: Path, value: Any
) -> None:
    take = plain_take()
    take["object_masks"]["cup_0"][EXO]["annotation"] = value
    reasons = ingest_one(root, tmp_path / "release", take)
    assert any(reason.startswith("its annotation is") for reason in reasons)
    assert visibility(root, EXO) == {}


def test_two_masks_of_one_frame_are_not_used(root: DatasetRoot, tmp_path: Path) -> None:
    other = json.dumps(shipped(block(EXO, 2)))
    first_frame = '"annotation": {"0": '
    reasons = ingest_one(
        root, tmp_path / "release", plain_take(),
        lambda text: text.replace(first_frame, f'{first_frame}{other}, "0": '),
    )  # fmt: skip
    assert any("or two different masks" in reason for reason in reasons)
    assert visibility(root, EXO) == {30: True}


def test_paths_with_backslashes_name_their_camera(root: DatasetRoot, tmp_path: Path) -> None:
    videos = takes_entry("a")["frame_aligned_videos"]
    videos["aria01"]["rgb"]["relative_path"] = f"frame_aligned_videos\\{EGO}.mp4"
    assert ingest_one(root, tmp_path / "r", plain_take(), frame_aligned_videos=videos) == set()
    assert visibility(root, EGO) == {0: True, 30: True, 60: False}


def test_a_name_that_is_not_valid_text_excludes_its_object(
    root: DatasetRoot, tmp_path: Path
) -> None:
    take = plain_take()
    take["object_masks"]["c\ud800"] = take["object_masks"]["cup_0"]
    reasons = ingest_one(root, tmp_path / "release", take)
    assert any("its name cannot be written as text" in reason for reason in reasons)
    assert visibility(root, EXO) == {0: True, 30: True}


def test_marks_and_invalid_values_in_a_release(root: DatasetRoot, tmp_path: Path) -> None:
    take = plain_take()
    track = take["object_masks"]["cup_0"][EXO]
    track["annotation"]["30"] = None
    track["annotated_frames"] = ["0", 30.0, "0060", None]
    entries = [takes_entry("a"), takes_entry("b", duration_sec="NaN!"), {"take_uid": "c"}]
    relations = {"train": {"a": take, "b": plain_take(), "c": plain_take()}}
    release = write_release(tmp_path / "release", relations, entries=entries)
    text = release.takes_json.read_text().replace('"NaN!"', "NaN")
    release.takes_json.write_text("\ufeff" + text, encoding="utf-8")
    path = release.path / "annotations" / "relations_train.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    release.splits_json.write_text(
        "\ufeff" + json.dumps({"train": ["a", "b", "c", None]}), encoding="utf-8"
    )
    ingest(root, release).check()
    assert read_manifest(root, "takes")["take_uid"].to_pylist() == ["a", "b"]
    rows = read_manifest(root, "exclusions").to_pylist()
    reasons_by_frame = {(row["take_uid"], row["frame_idx"]): row["reason"] for row in rows}
    assert "undecodable mask: null" in reasons_by_frame["a", 30]
    assert "None in annotated_frames is not a frame number" in reasons_by_frame["a", None]
    assert reasons_by_frame["c", None] == "entry 2 of takes.json has no take_name"
    assert "None in train is not a take_uid" in reasons_by_frame[None, None]
    masks = [
        row for row in read_manifest(root, "masks", units=["a"]).to_pylist() if row["camera"] == EXO
    ]
    assert [(row["frame_idx"], row["visible"]) for row in masks] == [(0, True), (60, False)]
    assert "NaN" not in root.takes_json.read_text()
