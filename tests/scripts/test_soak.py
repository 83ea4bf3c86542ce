"""soak.py and fuzz.py find errors, and a short run of each has no finding."""

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


def run_script(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / name), *arguments]
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


def test_roots_with_the_same_content_do_not_differ(trees: tuple[Path, Path]) -> None:
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


@pytest.mark.parametrize(
    "change", ["row", "tensor", "pixel", "status", "half", "missing", "additional"]
)
def test_each_difference_is_found(change: str, trees: tuple[Path, Path], tmp_path: Path) -> None:
    first, root = trees[0], tmp_path / "root"
    shutil.copytree(first, root)
    part = sorted((root / "manifests" / "masks").glob("*.parquet"))[0]
    picture = sorted(root.rglob("*.jpg"))[0]
    table = pq.read_table(part)
    if change == "row":
        pq.write_table(table.slice(1), part)
    elif change == "tensor":
        weight = torch.nextafter(torch.arange(4.0), torch.tensor(9.0))
        torch.save({"model": {"weight": weight}}, root / "checkpoint.pt")
    elif change == "pixel":
        picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    elif change == "status":
        (root / "status" / "a.json").write_text('{"status": "failed", "seconds": 1.0}')
    elif change == "half":
        part.write_bytes(part.read_bytes()[:100])
    elif change == "missing":
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
    result = run_script("soak.py", "--kills=2", "--troubles=0", "--seed=3", f"--folder={tmp_path}")
    assert result.returncode == 0, result.stdout + result.stderr
    counts = re.findall(r"^(\d+) kills .* (\d+) roots compared and equal", result.stdout, re.M)
    kills, roots = map(int, counts[-1])
    assert kills >= 2 and roots >= 1


@pytest.mark.slow
def test_fuzz_finds_an_exception_a_crash_a_hang_and_too_much_memory(tmp_path: Path) -> None:
    result = run_script("fuzz.py", "--selftest", "--seconds=3", f"--keep={tmp_path}")
    assert result.returncode == 0, result.stdout + result.stderr
    for finding in ("ZeroDivisionError", "ended with -11", "ended with -9", "MemoryError"):
        assert finding in result.stdout


@pytest.mark.slow
def test_a_few_changed_inputs_have_no_finding(tmp_path: Path) -> None:
    arguments = ["--kinds=rle,relations,video", "--compiled=2000", "--files=150", "--videos=8"]
    result = run_script("fuzz.py", *arguments, f"--keep={tmp_path / 'found'}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 findings" in result.stdout and not (tmp_path / "found").exists()
