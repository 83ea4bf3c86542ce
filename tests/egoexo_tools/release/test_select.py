"""Selection of takes from a release, and the root that ingest makes of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_release import EGO, EXO

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
from egoexo_tools.release.survey import TakeFacts, survey
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.synthetic.manifests import write_manifests
from egoexo_tools.vocab import Split


def selected_uids(selection: Selection) -> str:
    return "".join(take.take_uid for take in selection.takes)


def reasons_of(selection: Selection) -> dict[str, str]:
    return {take.take_uid: take.reason for take in selection.left_out}


ALWAYS_LEFT_OUT = {
    "gone": "not in takes.json: redacted, or not part of this release",
    "blind": "no object is annotated in the ego and an exo camera",
}


@pytest.mark.parametrize(
    ("criteria", "takes", "reasons"),
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
def test_a_take_is_left_out_for_the_first_criterion_that_it_fails(
    release: Release, criteria: TakeCriteria, takes: str, reasons: dict[str, str]
) -> None:
    selection = select(release, criteria)
    assert selected_uids(selection) == takes
    assert reasons_of(selection) == ALWAYS_LEFT_OUT | reasons


@pytest.mark.parametrize(
    ("criteria", "message"),
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
def test_unknown_names_are_rejected(release: Release, criteria: TakeCriteria, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        select(release, criteria)


def test_an_empty_selection_and_a_cut_file_are_errors(release: Release) -> None:
    with pytest.raises(DataError, match="nothing is left: 4 takes: fewer than 9 cameras"):
        select(release, TakeCriteria(min_cameras=9))
    path = release.relations_json(Split.TEST)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"half a release.*relations_test.json is cut off"):
        select(release)


def test_a_limit_is_drawn_evenly_and_contains_every_smaller_one(release: Release) -> None:
    facts = survey(release, plan_ingest(release))
    order = [take.take_uid for take in stratified_order(facts, seed=3)]
    assert sorted(order) == ["a", "b", "c", "d"]
    assert selected_uids(select(release, TakeCriteria(limit=2), seed=3)) == "".join(
        sorted(order[:2])
    )
    assert set(reasons_of(select(release, TakeCriteria(limit=2))).values()) == {
        *ALWAYS_LEFT_OUT.values(),
        "beyond the limit of 2 takes",
    }
    # Every prefix of the order has each stratum's share.
    many = [
        TakeFacts(**{**vars(facts[0]), "take_uid": f"{name}{number}", "scenario": name})
        for name, count in (("x", 40), ("y", 20))
        for number in range(count)
    ]
    for first in (15, 30, 45):
        share = sum(take.scenario == "y" for take in stratified_order(many, 0)[:first]) / first
        assert abs(share - 1 / 3) < 0.07


def test_the_budget_counts_files_on_disk_and_in_manifests(
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
    reasons = reasons_of(selection)
    assert reasons["d"] == "the size of its videos is not known"
    assert reasons["c"] == "beyond the budget of 4e-06 GB"
    # The manifests have the same sizes, of both copies.
    manifests = tmp_path / "manifests"
    write_manifests(tiny_release, "s3://bucket/v2", manifests)
    bare = tmp_path / "bare"
    (bare / "annotations").mkdir(parents=True)
    for path in (tiny_release.takes_json, *tiny_release.splits_json.parent.glob("*.json")):
        (bare / path.relative_to(tiny_release.path)).write_bytes(path.read_bytes())
    for video in ("full", "448"):
        on_disk = [take.video_bytes for take in select(tiny_release, video=video).takes]
        in_manifests = select(Release(bare), video=video, manifests=manifests).takes
        assert None not in on_disk
        assert [take.video_bytes for take in in_manifests] == on_disk
    assert {take.video_bytes for take in select(Release(bare)).takes} == {None}


def test_ingest_uses_the_written_split(release: Release, tmp_path: Path) -> None:
    selection = select(release, splits="0.5,0.25,0.25")
    exclusions_path = write_selection(tmp_path / "mine.json", selection)
    assert exclusions_path.name == "mine.exclusions.json"
    content = json.loads(exclusions_path.read_text())
    assert content["settings"] == {
        **{"splits": "0.5,0.25,0.25", "group_by": "take", "seed": 0, "video": "full"}
    }
    assert {take["take_uid"]: take["reason"] for take in content["takes"]} == ALWAYS_LEFT_OUT
    root = DatasetRoot(tmp_path / "root")
    run = RunOptions(executor="inline", quiet=True)
    run_ingest(root, release, split_file=tmp_path / "mine.json", run=run).check()
    rows = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    assert {row["take_uid"]: row["split"] for row in rows} == selection.split_of
    assert sorted(selection.split_of.values()) == ["test", "train", "train", "val"]
    # On a release without damage, select counts exactly what ingest writes.
    assert sum(take.masks for take in selection.takes) == sum(
        read_manifest(root, "masks", columns=["visible"])["visible"].to_pylist()
    )


def test_the_text_counts_what_is_selected_and_left_out(release: Release) -> None:
    lines = selection_text(select(release, TakeCriteria(scenarios=("cooking",)))).splitlines()
    table = [line.split() for line in lines]
    assert ["train", "2", "3", "12", "12", "0.006", "?"] in table
    assert ["all", "2", "3", "12", "12", "0.006", "?"] in table
    assert "  2 left out: another scenario than Cooking" in lines
    assert "4 takes are left out:" in lines


def test_the_command_writes_a_split_and_a_report(tiny_release: Release, tmp_path: Path) -> None:
    take_list = tmp_path / "list.txt"
    uids = [take.take_uid for take in select(tiny_release).takes]
    take_list.write_text("\n".join([*uids, "", ""]))

    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["select", str(tiny_release.path), *arguments])
        return result.exit_code, result.output

    out = str(tmp_path / "split.json")
    code, text = invoke("-o", out, "--take-list", str(take_list), "--leaks", "--group-by", "take")
    assert code == 0, text
    assert "near-identical frame" in text and "participant" in text
    assert "Written: " in text and "2 left out: not in takes.json" in text
    assert {uid for split in json.loads(Path(out).read_text()).values() for uid in split} == {*uids}
    code, text = invoke("-o", out, "--scenario", "Cokking")
    assert code == 2 and "did you mean 'Cooking'" in text
    assert invoke("-o", out, "--group-by", "capture")[0] == 2
