"""scripts/slurm.py runs stages on the jobs of a Slurm cluster, of which this is a stand-in."""

import os
import sys
from pathlib import Path

import pytest
from processes import TESTS, finish, python_command, stage_command, start

from egoexo_tools.layout import Release

pytestmark = pytest.mark.slow


SBATCH = """#!/bin/sh
cp "$1" "$0.job"  # the caller deletes it when this ends
setsid bash "$0.job" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""


SCANCEL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/cancelled"
for job in "$@"; do kill -- -"$job" 2> /dev/null; done
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replacements of Slurm's two commands: a job runs here at once, in its own session."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


SLURM = str(Path(__file__).parents[2] / "scripts" / "slurm.py")


def test_a_stage_runs_on_slurm_jobs(queue: Path, tiny_release: Release, tmp_path: Path) -> None:
    root = tmp_path / "root"
    finish(stage_command("ingest", root, tiny_release, executor="inline"))
    stage = stage_command("frames", root, tiny_release, executor="dask")
    cluster = ["--gpu", "--interface", "lo", "--memory", "2GB", "--"]
    output = finish([sys.executable, SLURM, *cluster, *stage])
    assert "9 done" in output
    assert len((queue / "cancelled").read_text().split()) == 1


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            [
                "--workers",
                "16",
                "--memory",
                "64GB",
                "--queue",
                "long",
                "--prologue",
                "module load x",
            ],
            ["#SBATCH -p long", "#SBATCH --cpus-per-task=16", "#SBATCH --mem=60G"]
            + ["#SBATCH -t 08:00:00", "module load x"],
        ),
        (
            ["--gpu", "--cpus", "8", "--walltime", "02:00:00", "--directive=--exclusive"],
            ["#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=8", "#SBATCH -t 02:00:00"]
            + ["#SBATCH --exclusive"],
        ),
    ],
)
def test_job_scripts_have_the_requested_resources(options: list[str], lines: list[str]) -> None:
    script = finish([sys.executable, SLURM, "--dry-run", *options]).splitlines()
    assert set(lines) <= set(script)
    worker = next(line for line in script if "distributed.cli.dask_worker" in line)
    assert "--nthreads 1 " in worker
    assert ("--nworkers 16" in worker) == ("--workers" in options)
    assert worker.endswith("--resources GPU=1") == ("--gpu" in options)


def test_a_gpu_job_has_one_worker() -> None:
    process = start([sys.executable, SLURM, "--gpu", "--workers", "2"])
    assert "a GPU job holds one worker" in process.communicate()[1]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("08:00:00", 28_200), ("00:10:00", 480), ("30", 1440), ("1-12", 129_000), ("2:30", 120)],
)
def test_a_worker_ends_before_its_job(walltime: str, seconds: int) -> None:
    script = finish([sys.executable, SLURM, "--dry-run", "--walltime", walltime])
    assert f"--lifetime {seconds}s --lifetime-stagger" in script


SBATCH_WITH_TIMEOUT = """#!/bin/sh
cp "$1" "$0.job.$$"  # the caller deletes it when this ends
echo "$$" >> "$(dirname "$0")/submitted"
setsid timeout 25 bash "$0.job.$$" > /dev/null 2>&1 &
echo "$!" >> "$(dirname "$0")/jobs"
echo "Submitted batch job $!"
"""


SQUEUE = """#!/bin/sh
for job in $(cat "$(dirname "$0")/jobs"); do kill -0 "$job" 2> /dev/null && echo "$job"; done
true
"""


def test_jobs_that_end_are_replaced(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four units of eight seconds on jobs that are killed after 25 seconds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, sys.path)]))
    (queue / "sbatch").write_text(SBATCH_WITH_TIMEOUT)
    (queue / "squeue").write_text(SQUEUE)
    (queue / "squeue").chmod(0o755)
    code = "import stage_units; stage_units.run_sleeps(sys.argv[2], sys.argv[-1])"
    command = python_command(code, tmp_path / "root")
    cluster = ["--jobs", "1", "--interface", "lo", "--memory", "1GB", "--"]
    output = finish([sys.executable, SLURM, *cluster, *command])
    assert "sleep: 4 done" in output
    assert len((queue / "submitted").read_text().split()) > 1


@pytest.mark.parametrize(
    "sbatch",
    [
        "#!/bin/sh\necho 'sbatch: error: Invalid account' >&2; exit 1\n",
        "#!/bin/sh\necho 'Submitted batch job 77'\n",  # a job that is cancelled in the queue
    ],
)
def test_a_cluster_without_jobs_is_an_error(
    sbatch: str, queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, sys.path)]))
    (queue / "sbatch").write_text(sbatch)
    (queue / "squeue").write_text("#!/bin/sh\n")
    (queue / "squeue").chmod(0o755)
    code = "import stage_units; stage_units.run_sleeps(sys.argv[2], sys.argv[-1])"
    command = python_command(code, tmp_path / "root")
    cluster = ["--patience", "6", "--interface", "lo", "--memory", "1GB", "--"]
    process = start([sys.executable, SLURM, *cluster, *command])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Error: there is no worker, and Slurm accepted no job for 6 s" in err
