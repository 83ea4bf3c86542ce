"""Runs a stage on a Slurm cluster: starts Dask workers as jobs, then the command on them.

    python scripts/slurm.py --jobs 20 --workers 16 --memory 64GB -- \\
        egoexo-tools frames ROOT --release RELEASE
    python scripts/slurm.py --gpu --jobs 4 --cpus 8 --memory 32GB -- \\
        egoexo-tools propose ROOT --proposer fastsam --weights FastSAM-x.pt
    python scripts/slurm.py --gpu --dry-run       # show the job script, submit nothing

Run it on a node that the compute nodes can reach, with ROOT and RELEASE on a file system that
all of them see under the same path. The command gets `--executor dask --scheduler ADDRESS`, and
with --gpu also `--resource GPU=1`: each GPU job holds one worker and one GPU. Without a command
the address is printed and the jobs last until Ctrl-C. A worker ends by itself shortly before its
job's walltime, and a job that has ended is replaced while the command runs. Where no worker is
left and none can be had for five minutes (--patience), the command is ended with an error. Jobs
are cancelled at the end; the exit code is the command's. See docs/cluster.md, also for job arrays,
which need none of this.
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

LOOK_SECONDS = 5


def main() -> int:
    options = parse(sys.argv[1:])
    import dask
    from dask_jobqueue import SLURMCluster

    # A worker that is gone this long is not only out of touch: its job is replaced.
    dask.config.set({"distributed.deploy.lost-worker-timeout": f"{LOOK_SECONDS}s"})
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
    parser.add_argument("--gpu", action="store_true", help="One GPU and one worker a job.")
    parser.add_argument("--jobs", type=int, default=1, help="Slurm jobs.  [1]")
    parser.add_argument("--workers", type=int, default=1, help="CPU workers (units) a job.  [1]")
    parser.add_argument("--cpus", type=int, help="CPUs a job.  [one a worker]")
    parser.add_argument("--memory", default="4GB", help="Memory a job.  [4GB]")
    parser.add_argument("--walltime", default="08:00:00", help="[08:00:00]")
    parser.add_argument("--queue", help="Partition.")
    parser.add_argument("--account")
    parser.add_argument("--interface", help="Network interface, such as ib0.")
    parser.add_argument("--logs", help="Folder for the jobs' output.")
    parser.add_argument(
        "--directive", action="append", default=[], help="Another #SBATCH line, as --exclusive."
    )
    parser.add_argument(
        "--prologue", action="append", default=[], help="Shell line before the worker."
    )
    parser.add_argument(
        "--patience", type=float, default=300, help="Seconds without any job, then end.  [300]"
    )
    parser.add_argument("--dry-run", action="store_true", help="Print the job script and end.")
    parser.add_argument("command", nargs="*", help="After --: the command to run.")
    options = parser.parse_args(arguments)
    if options.gpu and options.workers != 1:
        parser.error("a GPU job holds one worker; ask for more --jobs instead of --workers")
    return options


def cluster_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """For SLURMCluster. One thread a worker: a unit is one worker's whole attention."""
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
    """dask worker's options: end before Slurm does, and not all workers at once.

    A walltime is `minutes`, `minutes:seconds`, `hours:minutes:seconds` or the same after `days-`
    (then `days-hours` first).
    """
    days, dash, rest = walltime.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
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
    """Submit a job for each that has gone, until `ended` (which waits so many seconds) says so.

    Returns a sentence where for `--patience` no worker was there and no job in Slurm's queue.
    """
    alive = time.monotonic()
    while not ended(LOOK_SECONDS):
        if cluster.sync(drop_lost, cluster) or cluster.scheduler_info["workers"]:
            alive = time.monotonic()
        if time.monotonic() - alive > options.patience:
            return (
                f"no worker is left and Slurm took no job for {options.patience:g} s; look at what "
                "sbatch says above (queue, account, limits), then run the same command again"
            )
        cluster.scale(jobs=options.jobs)
    return None


async def drop_lost(cluster: Any) -> int:
    """Forget the jobs that are not in Slurm's queue, so that others take their place; how many
    are left. Dask itself notices only that a worker leaves, not that one will never come."""
    known = dict(cluster.workers)
    queued = in_queue()
    for name, job in known.items():
        if job.job_id is None or (queued is not None and job.job_id not in queued):
            cluster.workers.pop(name, None)
    return len(cluster.workers)


def in_queue() -> set[str] | None:
    """Ids of the user's jobs that wait or run; None where Slurm does not tell."""
    command = ["squeue", "--noheader", "--format", "%A", "--user", getpass.getuser()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None


def stage_command(options: argparse.Namespace, address: str) -> list[str]:
    resource = ["--resource", "GPU=1"] if options.gpu else []
    return [*options.command, "--executor", "dask", "--scheduler", address, *resource]


def run(command: list[str], cluster: Any, options: argparse.Namespace) -> int:
    """Its exit code. Ctrl-C is the command's to answer; the jobs are cancelled after it."""
    # A new job may wait in Slurm's queue for long: the command waits with it.
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
        if (trouble := keep_jobs(cluster, options, ended)) is None:
            return process.returncode
        process.send_signal(signal.SIGINT)  # what it has finished is kept
        process.wait()
        print(f"Error: {trouble}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, before)


def wait(cluster: Any, options: argparse.Namespace) -> int:
    """Keep the jobs for commands that use the address, until Ctrl-C."""

    def ended(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    try:
        trouble = keep_jobs(cluster, options, ended)
    except KeyboardInterrupt:
        return 0
    print(f"Error: {trouble}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
