"""Run a stage on a Slurm cluster: submit Dask workers as jobs, then run the command on them.

    python scripts/slurm.py --jobs 20 --workers 16 --memory 64GB -- \\
        egoexo-tools frames ROOT --release RELEASE
    python scripts/slurm.py --gpu --jobs 4 --cpus 8 --memory 32GB -- \\
        egoexo-tools propose ROOT --proposer fastsam --weights FastSAM-x.pt
    python scripts/slurm.py --gpu --dry-run       # show the job script, submit nothing

Run it on a node that the compute nodes can reach, with ROOT and RELEASE on a file system that all
of them see under the same path. The command gets `--executor dask --scheduler ADDRESS`, and with
--gpu also `--resource GPU=1`: each GPU job has one worker and one GPU. Without a command, the
address is printed and the jobs run until Ctrl-C. A worker ends shortly before its job's walltime,
and jobs that have ended are replaced while the command runs. If there is no worker and no job for
five minutes (--patience), the command is ended with an error. At the end the jobs are cancelled and
the command's exit code is returned. See docs/cluster.md, also for job arrays, which do not need
this script.
"""

import argparse
import getpass
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CHECK_SECONDS = 5


def main() -> int:
    options = parse(sys.argv[1:])
    import dask
    from dask_jobqueue import SLURMCluster

    # The job of a worker that has been lost for this long is replaced.
    dask.config.set({"distributed.deploy.lost-worker-timeout": f"{CHECK_SECONDS}s"})
    with SLURMCluster(**cluster_arguments(options)) as cluster:
        if options.dry_run:
            print(cluster.job_script())
            return 0
        cluster.scale(jobs=options.jobs)
        address = cluster.scheduler_address
        print(f"scheduler {address}, {options.jobs} jobs submitted", file=sys.stderr)
        if not options.command:
            return wait(cluster, options)
        return run(stage_command(options, address), cluster, options)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true", help="One GPU and one worker per job.")
    parser.add_argument("--jobs", type=int, default=1, help="Number of Slurm jobs.  [1]")
    parser.add_argument("--workers", type=int, default=1, help="CPU workers (units) per job.  [1]")
    parser.add_argument("--cpus", type=int, help="CPUs per job.  [one per worker]")
    parser.add_argument("--memory", default="4GB", help="Memory per job.  [4GB]")
    parser.add_argument("--walltime", default="08:00:00", help="Time limit of a job.  [08:00:00]")
    parser.add_argument("--queue", help="Partition.")
    parser.add_argument("--account")
    parser.add_argument("--interface", help="Network interface, such as ib0.")
    parser.add_argument("--logs", help="Folder for the jobs' output.")
    parser.add_argument(
        "--directive",
        action="append",
        default=[],
        help="Additional #SBATCH line, such as --exclusive.",
    )
    parser.add_argument(
        "--prologue", action="append", default=[], help="Shell line that runs before the worker."
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=300,
        help="Seconds without a job after which to end.  [300]",
    )
    parser.add_argument("--dry-run", action="store_true", help="Only print the job script.")
    parser.add_argument("command", nargs="*", help="After --: the command to run.")
    options = parser.parse_args(arguments)
    if options.gpu and options.workers != 1:
        parser.error("a GPU job holds one worker; ask for more --jobs instead of --workers")
    return options


def cluster_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of SLURMCluster, with one thread per worker, because it runs one unit at a time."""
    return {
        "cores": options.workers,
        "processes": options.workers,
        "job_cpu": options.cpus or options.workers,
        "memory": options.memory,
        "walltime": options.walltime,
        "queue": options.queue,
        "account": options.account,
        "interface": options.interface,
        "log_directory": options.logs,
        "job_name": "egoexo-gpu" if options.gpu else "egoexo-cpu",
        "job_extra_directives": [*(["--gres=gpu:1"] if options.gpu else []), *options.directive],
        "job_script_prologue": options.prologue,
        "worker_extra_args": [
            *lifetime(options.walltime),
            *(["--resources", "GPU=1"] if options.gpu else []),
        ],
        "scheduler_options": {"dashboard_address": ":0"},
    }


def lifetime(walltime: str) -> list[str]:
    """Options of `dask worker` that end workers before Slurm does, at different times.

    A walltime is `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`,
    `days-hours:minutes` or `days-hours:minutes:seconds`.
    """
    days, dash, time_of_day = walltime.rpartition("-")
    parts = [int(part) for part in time_of_day.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = (0, *parts, 0)[:3] if len(parts) < 3 else parts
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    margin = min(300, total // 10)
    return ["--lifetime", f"{total - 2 * margin}s", "--lifetime-stagger", f"{margin}s"]


def keep_jobs(
    cluster: Any, options: argparse.Namespace, ended: Callable[[float], bool]
) -> str | None:
    """Replace jobs that have ended until `ended(seconds)`, which waits that long, returns True.

    Returns an error message if there is no worker and no job in Slurm's queue for `--patience`.
    """
    alive = time.monotonic()
    while not ended(CHECK_SECONDS):
        if cluster.sync(drop_lost, cluster) or cluster.scheduler_info["workers"]:
            alive = time.monotonic()
        if time.monotonic() - alive > options.patience:
            return (
                f"there is no worker, and Slurm accepted no job for {options.patience:g} s; check "
                "the output of sbatch above (queue, account, limits), then run the same command "
                "again"
            )
        cluster.scale(jobs=options.jobs)
    return None


async def drop_lost(cluster: Any) -> int:
    """Forget jobs that are not in Slurm's queue, so that they are replaced.

    Dask notices that a worker leaves, but not that a worker will never come. Returns the number of
    remaining jobs.
    """
    workers = dict(cluster.workers)
    queued = in_queue()
    for name, job in workers.items():
        if job.job_id is None or (queued is not None and job.job_id not in queued):
            cluster.workers.pop(name, None)
    return len(cluster.workers)


def in_queue() -> set[str] | None:
    """Ids of the user's waiting and running jobs; None if `squeue` fails."""
    command = ["squeue", "--noheader", "--format", "%A", "--user", getpass.getuser()]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(process.stdout.split()) if process.returncode == 0 else None


def stage_command(options: argparse.Namespace, address: str) -> list[str]:
    resource = ["--resource", "GPU=1"] if options.gpu else []
    return [*options.command, "--executor", "dask", "--scheduler", address, *resource]


def run(command: list[str], cluster: Any, options: argparse.Namespace) -> int:
    """Run the command; returns its exit code. Ctrl-C goes to the command only."""
    # A new job may wait long in Slurm's queue; the command must not give up.
    environment = {"EGOEXO_TOOLS_NO_WORKER_SECONDS": "inf", **os.environ}
    process = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def ended(seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    try:
        if (error := keep_jobs(cluster, options, ended)) is None:
            return process.returncode
        process.send_signal(signal.SIGINT)  # finished units are kept
        process.wait()
        print(f"Error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, before)


def wait(cluster: Any, options: argparse.Namespace) -> int:
    """Keep the jobs for commands that use the address, until Ctrl-C."""

    def ended(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    try:
        error = keep_jobs(cluster, options, ended)
    except KeyboardInterrupt:
        return 0
    print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
