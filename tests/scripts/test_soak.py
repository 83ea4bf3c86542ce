"""The two programs that look for trouble: that they find it, and a short run of each."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_root import make_tiny_root

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from soak_compare import differences  # noqa: E402


def program(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / name), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small root with a checkpoint and a status, and a copy."""
    first = make_tiny_root(tmp_path_factory.mktemp("trees") / "first").path
    torch.save({"model": {"weight": torch.arange(4.0)}}, first / "checkpoint.pt")
    (first / "status").mkdir()
    (first / "status" / "a.json").write_text(json.dumps({"status": "done", "seconds": 1.0}))
    (first / "log.jsonl").write_text('{"step": 1, "loss": 2, "pairs_per_second": 3}\n')
    shutil.copytree(first, first.with_name("second"))
    return first, first.with_name("second")


def test_what_is_the_same_by_content_is_no_difference(trees: tuple[Path, Path]) -> None:
    first, second = trees
    part = next((second / "manifests" / "masks").glob("*.parquet"))
    pq.write_table(pq.read_table(part), part, compression="none")
    with (second / "checkpoint.pt").open("wb") as file:  # an archive of another name
        torch.save({"model": {"weight": torch.arange(4.0)}}, file)
    assert (second / "checkpoint.pt").read_bytes() != (first / "checkpoint.pt").read_bytes()
    (second / "status" / "a.json").write_text(json.dumps({"seconds": 7.5, "status": "done"}))
    (second / "log.jsonl").write_text('{"step": 1, "loss": 2, "pairs_per_second": 9}\n')
    (second / "status" / ".lock").touch()
    assert (second / "log.jsonl").read_bytes() != (first / "log.jsonl").read_bytes()
    assert differences(second, first) == []


@pytest.mark.parametrize("what", ["row", "tensor", "pixel", "status", "half", "gone", "more"])
def test_each_difference_is_found(what: str, trees: tuple[Path, Path], tmp_path: Path) -> None:
    first, root = trees[0], tmp_path / "root"
    shutil.copytree(first, root)
    part = sorted((root / "manifests" / "masks").glob("*.parquet"))[0]
    picture = sorted(root.rglob("*.jpg"))[0]
    table = pq.read_table(part)
    if what == "row":
        pq.write_table(table.slice(1), part)
    elif what == "tensor":
        weight = torch.nextafter(torch.arange(4.0), torch.tensor(9.0))
        torch.save({"model": {"weight": weight}}, root / "checkpoint.pt")
    elif what == "pixel":
        picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    elif what == "status":
        (root / "status" / "a.json").write_text('{"status": "failed", "seconds": 1.0}')
    elif what == "half":
        part.write_bytes(part.read_bytes()[:100])
    elif what == "gone":
        picture.unlink()
    else:
        (root / "frames.parquet.partial").write_bytes(b"half")
    assert len(differences(root, first)) == 1


def test_a_null_and_a_number_differ(tmp_path: Path) -> None:
    for name, values in (("a", [1.0, float("nan")]), ("b", [1.0, None])):
        (tmp_path / name).mkdir()
        pq.write_table(
            pa.table({"x": pa.array(values, pa.float64())}), tmp_path / name / "t.parquet"
        )
    assert differences(tmp_path / "a", tmp_path / "b") == ["t.parquet differs"]
    assert differences(tmp_path / "a", tmp_path / "a") == []


@pytest.mark.slow
def test_two_kills_of_the_whole_chain(tmp_path: Path) -> None:
    done = program("soak.py", "--kills=2", "--troubles=0", "--seed=3", f"--folder={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\d+) kills .* (\d+) roots compared and equal", done.stdout, re.M)
    assert int(found[-1][0]) >= 2 and int(found[-1][1]) >= 1


def test_fuzz_notices_an_exception_a_crash_a_hang_and_hunger(tmp_path: Path) -> None:
    done = program("fuzz.py", "--selftest", "--seconds=3", f"--keep={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    for finding in ("ZeroDivisionError", "ended with -11", "ended with -9", "MemoryError"):
        assert finding in done.stdout


@pytest.mark.slow
def test_a_few_changed_inputs_have_an_answer(tmp_path: Path) -> None:
    words = ["--kinds=rle,relations,video", "--compiled=2000", "--files=150", "--videos=8"]
    done = program("fuzz.py", *words, f"--keep={tmp_path / 'found'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings" in done.stdout and not (tmp_path / "found").exists()
