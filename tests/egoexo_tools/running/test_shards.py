"""Stages in shards: each unit in one of them, side by side as real processes, no row lost."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_release import plain_take, write_release
from test_resume import finish, start, tree, until

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.importing.images import run_import_images
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.lock import shared_files_lock, stage_lock, worker_lock
from egoexo_tools.running.records import RunOptions, Unit, read_statuses
from egoexo_tools.running.shard import Shard
from egoexo_tools.running.stage import run_stage
from egoexo_tools.stages.ingest import run_ingest
from omama.cli import main as omama_main

INLINE = RunOptions(executor="inline", quiet=True)


def shard(text: str) -> RunOptions:
    return RunOptions(executor="inline", quiet=True, shard=Shard.parse(text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0/40", "use 1/40 to 40/40"),
        ("41/40", "use 1/40 to 40/40"),
        ("1/0", "write NUMBER/COUNT"),
        ("3", "write NUMBER/COUNT"),
        ("3/-4", "write NUMBER/COUNT"),
        ("3/4/5", "write NUMBER/COUNT"),
        ("٣/٤", "write NUMBER/COUNT"),
    ],
)
def test_a_shard_is_checked(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Shard.parse(text)


def test_a_shard_goes_by_names_that_stay_where_they_are() -> None:
    names = [f"take{number}.cam01" for number in range(1000)]
    shards = [Shard(number, 7) for number in range(1, 8)]
    held = [[name for name in names if one.contains(name)] for one in shards]
    assert sorted(name for part in held for name in part) == sorted(names)
    assert min(map(len, held)) > 100
    # As it was when the first root was made in shards: another hash would do units twice.
    numbers = [next(one.number for one in shards if one.contains(name)) for name in ("a", "b", "é")]
    assert numbers == [5, 1, 4]


def test_a_stage_does_the_units_of_its_shard(tmp_path: Path) -> None:
    units = [Unit((str(number),)) for number in range(20)]
    units.append(Unit(("follower",), shard_key="0"))
    root = DatasetRoot(tmp_path)
    first, second = (
        run_stage(root, "s", units, lambda unit: {"units": 1}, settings={}, options=shard(text))
        for text in ("1/2", "2/2")
    )
    assert first.done + second.done == 21 and min(first.done, second.done) > 4
    assert first.text().startswith("s 1/2: ")
    whole = run_stage(root, "s", units, lambda unit: {}, settings={}, options=INLINE)
    assert (whole.done, whole.skipped) == (0, 21)
    with_take = next(one for one in (Shard(1, 2), Shard(2, 2)) if one.contains("0"))
    assert "follower" in {u.name for u in RunOptions(shard=with_take).in_shard(units)}


def test_only_the_whole_chain_has_no_shards() -> None:
    for words in (["ingest"], ["frames"], ["pairs"], ["propose"], ["export"], ["download"],
                  ["import", "images"], ["import", "processed"], ["import", "lm-eec"]):  # fmt: skip
        assert "--shard NUMBER/COUNT" in CliRunner().invoke(main, [*words, "--help"]).output, words
    assert "--shard" not in CliRunner().invoke(main, ["run", "--help"]).output
    result = CliRunner().invoke(main, ["pairs", "nowhere", "--shard", "0/4"])
    assert (result.exit_code, "use 1/4 to 4/4" in result.output) == (2, True)


def test_shards_of_one_division_run_beside_each_other_and_beside_nothing_else(
    tmp_path: Path,
) -> None:
    with stage_lock(tmp_path, "s", shard=Shard(1, 3)), stage_lock(tmp_path, "s", shard=Shard(3, 3)):
        for other, told in (
            (None, "another s is running"),
            (Shard(3, 3), "another s --shard 3/3 is running"),
            (Shard(2, 4), "another number of shards"),
        ):
            with pytest.raises(DataError, match=told), stage_lock(tmp_path, "s", shard=other):
                pass
    with (
        stage_lock(tmp_path, "s"),
        pytest.raises(DataError, match="another s is running"),
        stage_lock(tmp_path, "s", shard=Shard(1, 3)),
    ):
        pass
    with stage_lock(tmp_path, "s", shard=Shard(2, 4)):
        pass


@pytest.mark.parametrize("before", [None, Shard(1, 2), Shard(1, 3)])
@pytest.mark.parametrize("now", [None, Shard(1, 2)])
def test_workers_of_a_killed_run_give_up_or_are_waited_for(
    before: Shard | None, now: Shard | None, tmp_path: Path
) -> None:
    with stage_lock(tmp_path, "s", shard=before) as run:
        pass
    suffix = "" if before is None else f".{before.number}-of-{before.count}"
    (tmp_path / f".lock{suffix}").write_text(run.text)  # as a run that was killed leaves it
    with (
        worker_lock(tmp_path, run),
        pytest.raises(DataError, match="workers of an earlier s still write"),
        stage_lock(tmp_path, "s", shard=now, wait_seconds=0.1),
    ):
        pass
    (tmp_path / f".lock{suffix}").write_text(run.text)
    with (
        stage_lock(tmp_path, "s", shard=now),
        pytest.raises(DataError, match="its run has ended"),
        worker_lock(tmp_path, run),
    ):
        pass


def test_a_fellow_shard_s_workers_are_left_alone(tmp_path: Path) -> None:
    with (
        stage_lock(tmp_path, "s", shard=Shard(1, 2)) as run,
        worker_lock(tmp_path, run),
        stage_lock(tmp_path, "s", shard=Shard(2, 2), wait_seconds=0.1) as other,
        worker_lock(tmp_path, other),
        worker_lock(tmp_path, run),
    ):
        pass


INGEST = """
import sys, time
from pathlib import Path
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.shard import Shard
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages import ingest
root, release, shard = Path(sys.argv[1]), Path(sys.argv[2]), Shard.parse(sys.argv[3])
check, write = ingest.check_take, ingest.write_takes
def wait(reached, until):
    root.with_name(reached).touch()
    while not root.with_name(until).exists():
        time.sleep(0.01)
def slow_check(*args, **kwargs):
    wait("second works", "first has read the manifest")
    return check(*args, **kwargs)
def slow_write(path, entries):
    wait("first has read the manifest", "go")
    write(path, entries)
if shard.number == 1:
    ingest.write_takes = slow_write
else:
    ingest.check_take = slow_check
run = RunOptions(executor="inline", quiet=True, shard=shard)
ingest.run_ingest(DatasetRoot(root), Release(release), run=run).check()
"""


@pytest.mark.slow
def test_lists_of_all_takes_lose_none_to_a_shard_beside(tmp_path: Path) -> None:
    takes = {f"take-{number}": plain_take() for number in range(6)}
    release = write_release(tmp_path / "release", {"train": takes})
    root, whole = DatasetRoot(tmp_path / "root"), DatasetRoot(tmp_path / "whole")
    run_ingest(whole, release, run=INLINE).check()
    begin = [sys.executable, "-c", INGEST, str(root.path), str(release.path)]
    second = start([*begin, "2/2"])
    until((tmp_path / "second works").exists, process=second)
    first = start([*begin, "1/2"])
    until(lambda: len(read_statuses(root, "ingest")) == 6, process=second)
    with suppress(subprocess.TimeoutExpired):
        second.wait(timeout=3)  # it waits for the first; were it not to, it would end here
    (tmp_path / "go").touch()
    for process in (first, second):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    assert len(json.loads(root.takes_json.read_bytes())) == 6
    assert visible(root.path) == visible(whole.path)


def visible(root: Path) -> dict[str, bytes]:
    """The tree without locks."""
    return {
        name: content for name, content in tree(root).items() if not Path(name).name.startswith(".")
    }


def at_once(*commands: list[str]) -> list[str]:
    """What commands printed that ran at the same time, each to a good end."""
    processes = [start(arguments) for arguments in commands]
    told = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        told.append(out)
    return told


@pytest.mark.slow
def test_two_shards_at_once_leave_what_one_run_leaves(
    tiny_release: Release, tmp_path: Path
) -> None:
    """Every stage, as real processes, against the stages undivided."""
    release = ["--release", str(tiny_release.path)]
    stages: list[tuple[str, Callable[[str], list[str]]]] = [
        ("egoexo_tools", lambda root: ["ingest", root, *release]),
        ("egoexo_tools", lambda root: ["frames", root, *release]),
        ("egoexo_tools", lambda root: ["pairs", root]),
        ("egoexo_tools", lambda root: ["propose", root, "--proposer", "oracle"]),
        ("omama", lambda root: ["features", root, "--backbone", "rgb_grid"]),
        ("egoexo_tools", lambda root: ["export", root, "--format=lm-eec", "-o", f"{root}/out"]),
    ]
    whole, root = str(tmp_path / "whole"), str(tmp_path / "root")
    group = {"egoexo_tools": main, "omama": omama_main}
    for package, words in stages:
        inline = ["--executor", "inline", "--quiet"]
        result = CliRunner().invoke(group[package], [*words(whole), *inline])
        assert result.exit_code == 0, result.output
        begin = [sys.executable, "-m", f"{package}.cli", *words(root), *inline, "--shard"]
        told = at_once([*begin, "1/2"], [*begin, "2/2"])
        assert " 1/2: " in told[0] and " 2/2: " in told[1]
    shards, undivided = visible(Path(root)), visible(Path(whole))
    assert shards.keys() == undivided.keys()
    different = [name for name in undivided if shards[name] != undivided[name]]
    assert different == ["out/.egoexo-tools/export.json"]  # it names the root
    assert all(len(read_statuses(DatasetRoot(Path(root)), s)) > 1 for s in ("ingest", "frames"))


@pytest.mark.slow
def test_an_import_in_shards_is_the_import(tmp_path: Path) -> None:
    from tiny_root import make_tiny_root

    from egoexo_tools.stages.export import run_export

    ours = make_tiny_root(tmp_path / "ours")
    theirs = tmp_path / "theirs"
    run_export(ours, "omama", theirs, run=INLINE).check()
    (theirs / "takes.json").unlink()  # so that the import has to write one
    words = [sys.executable, "-m", "egoexo_tools.cli", "import", "processed", str(theirs),
             "--executor", "inline", "--quiet", "--root"]  # fmt: skip
    finish([*words, str(tmp_path / "whole")])
    at_once(*([*words, str(tmp_path / "root"), "--shard", f"{n}/3"] for n in (1, 2, 3)))
    whole, root = visible(tmp_path / "whole"), visible(tmp_path / "root")
    assert root.keys() == whole.keys()
    assert [name for name in whole if root[name] != whole[name]] == []
    assert read_manifest(DatasetRoot(tmp_path / "root"), "pairs").num_rows > 0


def test_a_take_that_was_cut_off_is_still_ours(tmp_path: Path) -> None:
    """Killed between a take's last manifest part and its status."""
    import cv2
    import numpy as np

    for camera in ("ego", "exo"):
        folder = tmp_path / "photos" / "first" / camera / "0"
        folder.mkdir(parents=True)
        picture = np.full((48, 64, 3), 90, np.uint8)
        cv2.imwrite(str(folder.with_suffix(".jpg")), picture)
        picture[:] = 0
        picture[5:20, 5:20] = 255
        cv2.imwrite(str(folder / "cup.png"), picture)
    root = DatasetRoot(tmp_path / "root")
    run_import_images(root, tmp_path / "photos", run=INLINE).check()
    root.status("import", "first").unlink()
    assert run_import_images(root, tmp_path / "photos", run=INLINE).check().done == 1


TURNS = """
import sys
from pathlib import Path
from egoexo_tools.running.lock import shared_files_lock
folder = Path(sys.argv[1])
for _ in range(200):
    with shared_files_lock(folder):
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
"""


@pytest.mark.slow
def test_turns_are_taken(tmp_path: Path) -> None:
    with shared_files_lock(tmp_path):
        (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", TURNS, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "600"
