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
job's walltime, and a job that has ended is replaced while the command runs. Jobs are cancelled at
the end; the exit code is the command's. See docs/cluster.md.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from threading import Thread
from typing import Any

LOST_SECONDS = 5


def main() -> int:
    options = parse(sys.argv[1:])
    import dask
    from dask_jobqueue import SLURMCluster

    # A worker that is gone this long is not only out of touch: its job is replaced.
    dask.config.set({"distributed.deploy.lost-worker-timeout": f"{LOST_SECONDS}s"})
    with SLURMCluster(**cluster_arguments(options)) as cluster:
        if options.dry_run:
            print(cluster.job_script())
            return 0
        cluster.scale(jobs=options.jobs)
        Thread(target=keep_jobs, args=(cluster, options.jobs), daemon=True).start()
        address = cluster.scheduler_address
        print(f"scheduler {address}, {options.jobs} jobs submitted", file=sys.stderr)
        return run(stage_command(options, address)) if options.command else wait()


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


def keep_jobs(cluster: Any, jobs: int) -> None:
    """Submit a job for each that has ended, as long as this program runs."""
    while True:
        time.sleep(LOST_SECONDS)
        cluster.scale(jobs=jobs)


def stage_command(options: argparse.Namespace, address: str) -> list[str]:
    resource = ["--resource", "GPU=1"] if options.gpu else []
    return [*options.command, "--executor", "dask", "--scheduler", address, *resource]


def run(command: list[str]) -> int:
    """Its exit code. Ctrl-C is the command's to answer; the jobs are cancelled after it."""
    # A new job may wait in Slurm's queue for long: the command waits with it.
    environment = {"EGOEXO_TOOLS_NO_WORKER_SECONDS": "inf", **os.environ}
    process = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def wait() -> int:
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
