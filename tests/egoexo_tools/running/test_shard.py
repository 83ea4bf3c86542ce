"""Every unit is in exactly one shard, and shards together give the result of one run."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import file_contents, finish, run_concurrently, start, wait_until
from small_release import plain_take, write_release

from egoexo_tools.cli import main
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions, Unit, read_statuses
from egoexo_tools.running.shard import Shard
from egoexo_tools.running.stage import run_stage
from egoexo_tools.stages.ingest import run_ingest
from omama.cli import main as omama_main

INLINE = RunOptions(executor="inline", quiet=True)


def shard(text: str) -> RunOptions:
    return RunOptions(executor="inline", quiet=True, shard=Shard.parse(text))


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_invalid_shards_are_rejected(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Shard.parse(text)


def test_names_are_distributed_permanently() -> None:
    names = [f"take{number}.cam01" for number in range(1000)]
    shards = [Shard(number, 7) for number in range(1, 8)]
    parts = [[name for name in names if shard.contains(name)] for shard in shards]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert min(map(len, parts)) > 100
    # The hash must not change: the shards of a running job array would overlap.
    numbers = [next(s.number for s in shards if s.contains(name)) for name in ("a", "b", "é")]
    assert numbers == [5, 1, 4]


def test_a_stage_processes_the_units_of_its_shard(tmp_path: Path) -> None:
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
    leader_shard = next(s for s in (Shard(1, 2), Shard(2, 2)) if s.contains("0"))
    assert "follower" in {u.name for u in RunOptions(shard=leader_shard).in_shard(units)}


def test_all_commands_but_run_have_shards() -> None:
    for words in (["ingest"], ["frames"], ["pairs"], ["propose"], ["export"], ["download"],
                  ["import", "images"], ["import", "processed"], ["import", "lm-eec"]):  # fmt: skip
        assert "--shard NUMBER/COUNT" in CliRunner().invoke(main, [*words, "--help"]).output, words
    assert "--shard" not in CliRunner().invoke(main, ["run", "--help"]).output
    result = CliRunner().invoke(main, ["pairs", "nowhere", "--shard", "0/4"])
    assert (result.exit_code, "use 1/4 to 4/4" in result.output) == (2, True)


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
def test_concurrent_shards_lose_no_entries_of_shared_lists(tmp_path: Path) -> None:
    takes = {f"take-{number}": plain_take() for number in range(6)}
    release = write_release(tmp_path / "release", {"train": takes})
    root, whole = DatasetRoot(tmp_path / "root"), DatasetRoot(tmp_path / "whole")
    run_ingest(whole, release, run=INLINE).check()
    begin = [sys.executable, "-c", INGEST, str(root.path), str(release.path)]
    second = start([*begin, "2/2"])
    wait_until((tmp_path / "second works").exists, process=second)
    first = start([*begin, "1/2"])
    wait_until(lambda: len(read_statuses(root, "ingest")) == 6, process=second)
    with suppress(subprocess.TimeoutExpired):
        second.wait(timeout=3)  # it must wait for the first one
    (tmp_path / "go").touch()
    for process in (first, second):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    assert len(json.loads(root.takes_json.read_bytes())) == 6
    assert contents_without_locks(root.path) == contents_without_locks(whole.path)


def contents_without_locks(root: Path) -> dict[str, bytes]:
    """All files but locks."""
    return {
        name: content
        for name, content in file_contents(root).items()
        if not Path(name).name.startswith(".")
    }


@pytest.mark.slow
def test_two_concurrent_shards_give_the_result_of_one_run(
    tiny_release: Release, tmp_path: Path
) -> None:
    """Every stage, as real processes, compared with the stages without shards."""
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
        outputs = run_concurrently([*begin, "1/2"], [*begin, "2/2"])
        assert " 1/2: " in outputs[0] and " 2/2: " in outputs[1]
    shards, undivided = contents_without_locks(Path(root)), contents_without_locks(Path(whole))
    assert shards.keys() == undivided.keys()
    differing = [name for name in undivided if shards[name] != undivided[name]]
    assert differing == ["out/.egoexo-tools/export.json"]  # it contains the path of the root
    assert all(len(read_statuses(DatasetRoot(Path(root)), s)) > 1 for s in ("ingest", "frames"))


@pytest.mark.slow
def test_an_import_in_shards_gives_the_result_of_one_run(tmp_path: Path) -> None:
    from tiny_root import make_tiny_root

    from egoexo_tools.stages.export import run_export

    ours = make_tiny_root(tmp_path / "ours")
    theirs = tmp_path / "theirs"
    run_export(ours, "omama", theirs, run=INLINE).check()
    (theirs / "takes.json").unlink()  # so that the import has to write one
    words = [sys.executable, "-m", "egoexo_tools.cli", "import", "processed", str(theirs),
             "--executor", "inline", "--quiet", "--root"]  # fmt: skip
    finish([*words, str(tmp_path / "whole")])
    run_concurrently(*([*words, str(tmp_path / "root"), "--shard", f"{n}/3"] for n in (1, 2, 3)))
    whole, root = (
        contents_without_locks(tmp_path / "whole"),
        contents_without_locks(tmp_path / "root"),
    )
    assert root.keys() == whole.keys()
    assert [name for name in whole if root[name] != whole[name]] == []
    assert read_manifest(DatasetRoot(tmp_path / "root"), "pairs").num_rows > 0
