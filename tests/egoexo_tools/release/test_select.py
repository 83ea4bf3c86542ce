"""Selection of takes from a release, and what ingest makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_release import EGO, EXO, annotated, plain_take, takes_entry, track, write_release

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.release.plan import plan_ingest
from egoexo_tools.release.select import (
    Selection,
    TakeCriteria,
    select,
    selection_text,
    stratified_order,
    write_selection,
)
from egoexo_tools.release.survey import TakeFacts, capture_of, survey
from egoexo_tools.release.takes import read_takes
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.synthetic.manifests import write_manifests
from egoexo_tools.vocab import Split

PLACES = {
    "a": ("Cooking", "cmu", "cmu_kitchen_1", "train"),
    "b": ("Cooking", "sfu", "sfu_kitchen_2", "train"),
    "c": ("Health", "cmu", "cmu_covid_1", "val"),
    "d": ("Bike Repair", "cmu", "cmu_bike_1", "test"),
}


def objects(count: int) -> dict[str, Any]:
    """`count` objects in both views; the last one's ego track has a frame more."""
    names = [f"cup_{number}" for number in range(count)]
    return {
        name: {EGO: track(EGO, absent=[60] if name == names[-1] else ()), EXO: track(EXO)}
        for name in names
    }


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Takes a to d with 1 to 4 objects; `gone` is redacted and `blind` has no exo camera."""
    relations: dict[str, dict[str, Any]] = {"train": {}, "val": {}, "test": {}}
    entries = [takes_entry("blind", take_name="cmu_blind_1")]
    for number, (uid, (scenario, university, name, split)) in enumerate(PLACES.items()):
        relations[split][uid] = annotated(objects(number + 1), scenario=scenario)
        entries.append(
            takes_entry(uid, take_name=name, university_id=university, parent_task_name=scenario)
        )
    relations["train"] |= {"gone": plain_take(), "blind": annotated({"cup": {EGO: track(EGO)}})}
    splits = {split: list(takes) for split, takes in relations.items()}
    return write_release(tmp_path / "release", relations, entries=entries, splits=splits)


def chosen(selection: Selection) -> str:
    return "".join(take.take_uid for take in selection.takes)


def left_out(selection: Selection) -> dict[str, str]:
    return {take.take_uid: take.reason for take in selection.left_out}


ALWAYS = {
    "gone": "not in takes.json: redacted, or not part of this release",
    "blind": "no object is annotated in the ego and an exo camera",
}


def test_a_take_is_counted_as_ingest_counts_it(release: Release) -> None:
    facts = {take.take_uid: take for take in survey(release, plan_ingest(release))}
    assert facts["b"] == TakeFacts(
        take_uid="b",
        take_name="sfu_kitchen_2",
        scenario="Cooking",
        university="sfu",
        task="",
        split=Split.TRAIN,
        capture="sfu_kitchen",
        capture_named=False,
        participant=None,
        objects=("cup_0", "cup_1"),
        cameras=(EGO, EXO),
        frame_idxs=(0, 30, 60),
        masks=8,
        pairs=8,
        seconds=10.0,
        video_bytes=None,
    )


@pytest.mark.parametrize(
    ("fields", "capture", "participant"),
    [
        ({"capture_uid": "u1", "participant_uid": 388}, ("u1", True), "388"),
        ({"capture": {"capture_uid": "u2"}, "participant_uid": "p"}, ("u2", True), "p"),
        ({"capture": None, "participant_uid": None}, ("cmu_bike01", False), None),
        ({"capture": ["?"], "participant_uid": {}, "task_name": 3}, ("cmu_bike01", False), None),
    ],
)
def test_captures_and_participants_of_takes_json(
    tmp_path: Path, fields: dict[str, Any], capture: tuple[str, bool], participant: str | None
) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([takes_entry("a", take_name="cmu_bike01_2", **fields)]))
    take = read_takes(path)[0][0]
    assert (capture_of(take), take.participant_uid) == (capture, participant)


def test_a_name_without_a_number_is_its_own_capture(tmp_path: Path) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([takes_entry("a", take_name="kitchen")]))
    assert capture_of(read_takes(path)[0][0]) == ("kitchen", False)


@pytest.mark.parametrize(
    ("wanted", "takes", "reasons"),
    [
        (TakeCriteria(), "abcd", {}),
        (
            TakeCriteria(scenarios=("cooking", "Health")),
            "abc",
            {"d": "another scenario than Cooking, Health"},
        ),
        (
            TakeCriteria(scenarios=("*i*",)),
            "abd",
            {"c": "another scenario than Bike Repair, Cooking"},
        ),
        (
            TakeCriteria(universities=("SFU",)),
            "b",
            dict.fromkeys("acd", "another university than SFU"),
        ),
        (
            TakeCriteria(splits=("val", "test")),
            "cd",
            dict.fromkeys("ab", "another official split than val, test"),
        ),
        (
            TakeCriteria(keywords=("Kitchen", "cup_3")),
            "abd",
            {"c": "no keyword in its names: Kitchen, cup_3"},
        ),
        (
            TakeCriteria(takes=("c", "cmu_bike_1")),
            "cd",
            dict.fromkeys("ab", "not in the list of takes"),
        ),
        (TakeCriteria(min_objects=3), "cd", dict.fromkeys("ab", "fewer than 3 objects")),
        (
            TakeCriteria(universities=("cmu",), min_objects=2),
            "cd",
            {"a": "fewer than 2 objects", "b": "another university than cmu"},
        ),
    ],
)
def test_filters_and_the_first_reason(
    release: Release, wanted: TakeCriteria, takes: str, reasons: dict[str, str]
) -> None:
    selection = select(release, wanted)
    assert chosen(selection) == takes
    assert left_out(selection) == ALWAYS | reasons


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (TakeCriteria(scenarios=("Helth",)), "scenario 'Helth' .* did you mean 'Health'"),
        (TakeCriteria(universities=("cmx",)), "university 'cmx' .* did you mean 'cmu'"),
        (TakeCriteria(takes=("cmu_bike",)), "take 'cmu_bike' .* did you mean 'cmu_bike_1'"),
        (TakeCriteria(takes=("gone",)), "take gone cannot be used: not in takes.json"),
        (TakeCriteria(takes=("cmu_blind_1",)), "take cmu_blind_1 cannot be used: no object"),
        (TakeCriteria(splits=("dev",)), "'dev' is not a split"),
        (TakeCriteria(max_gb=1.0), "the sizes of the videos are not known.*--manifests"),
    ],
)
def test_names_that_are_not_there_are_refused(
    release: Release, wanted: TakeCriteria, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        select(release, wanted)


def test_nothing_left_and_half_a_file_are_errors(release: Release) -> None:
    with pytest.raises(DataError, match="nothing is left: 4 takes: fewer than 9 cameras"):
        select(release, TakeCriteria(min_cameras=9))
    path = release.relations_json(Split.TEST)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"half a release.*relations_test.json is cut off"):
        select(release)


def test_a_limit_is_drawn_stratified_order_and_a_smaller_one_lies_inside(release: Release) -> None:
    facts = survey(release, plan_ingest(release))
    order = [take.take_uid for take in stratified_order(facts, seed=3)]
    assert sorted(order) == ["a", "b", "c", "d"]
    assert chosen(select(release, TakeCriteria(limit=2), seed=3)) == "".join(sorted(order[:2]))
    assert set(left_out(select(release, TakeCriteria(limit=2))).values()) == {
        *ALWAYS.values(),
        "beyond the limit of 2 takes",
    }
    # Any first part of the order holds every stratum's share.
    many = [
        TakeFacts(**{**vars(facts[0]), "take_uid": f"{name}{number}", "scenario": name})
        for name, count in (("x", 40), ("y", 20))
        for number in range(count)
    ]
    for first in (15, 30, 45):
        share = sum(take.scenario == "y" for take in stratified_order(many, 0)[:first]) / first
        assert abs(share - 1 / 3) < 0.07


def test_the_budget_counts_files_on_disk_and_manifests(
    release: Release, tiny_release: Release, tmp_path: Path
) -> None:
    names = {"a": "cmu_kitchen_1", "b": "sfu_kitchen_2", "c": "cmu_covid_1"}
    for number, name in enumerate(names.values()):
        for camera in (EGO, EXO):
            path = release.video(name, camera)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(1000 * (number + 1)))
    selection = select(release, TakeCriteria(max_gb=4e-6))
    sizes = {take.take_uid: take.video_bytes for take in select(release).takes}
    assert sizes == {"a": 2000, "b": 4000, "c": 6000, "d": None}
    assert sum(take.video_bytes or 0 for take in selection.takes) <= 4000
    reasons = left_out(selection)
    assert reasons["d"] == "the size of its videos is not known"
    assert reasons["c"] == "beyond the budget of 4e-06 GB"
    # The manifests know the same sizes, of either copy.
    manifests = tmp_path / "manifests"
    write_manifests(tiny_release, "s3://bucket/v2", manifests)
    bare = tmp_path / "bare"
    (bare / "annotations").mkdir(parents=True)
    for path in (tiny_release.takes_json, *tiny_release.splits_json.parent.glob("*.json")):
        (bare / path.relative_to(tiny_release.path)).write_bytes(path.read_bytes())
    for video in ("full", "448"):
        on_disk = [take.video_bytes for take in select(tiny_release, video=video).takes]
        listed = select(Release(bare), video=video, manifests=manifests).takes
        assert None not in on_disk
        assert [take.video_bytes for take in listed] == on_disk
    assert {take.video_bytes for take in select(Release(bare)).takes} == {None}


def test_ingest_takes_the_written_split(release: Release, tmp_path: Path) -> None:
    selection = select(release, splits="0.5,0.25,0.25")
    beside = write_selection(tmp_path / "mine.json", selection)
    assert beside.name == "mine.exclusions.json"
    content = json.loads(beside.read_text())
    assert content["settings"] == {
        **{"splits": "0.5,0.25,0.25", "group_by": "take", "seed": 0, "video": "full"}
    }
    assert {take["take_uid"]: take["reason"] for take in content["takes"]} == ALWAYS
    root = DatasetRoot(tmp_path / "root")
    run = RunOptions(executor="inline", quiet=True)
    run_ingest(root, release, split_file=tmp_path / "mine.json", run=run).check()
    rows = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    assert {row["take_uid"]: row["split"] for row in rows} == selection.split_of
    assert sorted(selection.split_of.values()) == ["test", "train", "train", "val"]
    # What select promised is what ingest made of this sound release.
    assert sum(take.masks for take in selection.takes) == sum(
        read_manifest(root, "masks", columns=["visible"])["visible"].to_pylist()
    )


def test_the_text_says_what_remains_and_what_does_not(release: Release) -> None:
    lines = selection_text(select(release, TakeCriteria(scenarios=("cooking",)))).splitlines()
    table = [line.split() for line in lines]
    assert ["train", "2", "3", "12", "12", "0.006", "?"] in table
    assert ["all", "2", "3", "12", "12", "0.006", "?"] in table
    assert "  2 left out: another scenario than Cooking" in lines
    assert "4 takes are left out:" in lines


def test_command(tiny_release: Release, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    uids = [take.take_uid for take in select(tiny_release).takes]
    listed.write_text("\n".join([*uids, "", ""]))

    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["select", str(tiny_release.path), *arguments])
        return result.exit_code, result.output

    out = str(tmp_path / "split.json")
    code, text = invoke("-o", out, "--take-list", str(listed), "--leaks", "--group-by", "take")
    assert code == 0, text
    assert "near-identical frame" in text and "participant" in text
    assert "Written: " in text and "2 left out: not in takes.json" in text
    assert {uid for split in json.loads(Path(out).read_text()).values() for uid in split} == {*uids}
    code, text = invoke("-o", out, "--scenario", "Cokking")
    assert code == 2 and "did you mean 'Cooking'" in text
    assert invoke("-o", out, "--group-by", "capture")[0] == 2
