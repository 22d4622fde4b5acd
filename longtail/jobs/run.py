# SPDX-License-Identifier: Apache-2.0
"""Running the rows of a table, by the options of the command line."""

import argparse
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from longtail.analysis.runs import Run, read_run
from longtail.jobs.board import Board
from longtail.jobs.local_queue import FAILED, run_jobs
from longtail.jobs.plan import Job, Plan, Row, make_plan
from longtail.jobs.slurm import write_arrays
from longtail.jobs.state import check_startable, is_done
from longtail.utils.cores import available_cores


def run_rows(
    rows: Iterable[Row],
    arguments: argparse.Namespace,
    *,
    output: Path | None = None,
    options: Sequence[str] = (),
    datasets: Callable[[int], str | os.PathLike] | None = None,
) -> tuple[Plan, dict[Row, list[Run]]]:
    """Run what is missing of some rows; nothing that is finished is run again.

    Args:
        rows: in the order in which they are run.
        arguments: of :func:`longtail.jobs.arguments.add_run_arguments`.
        output: folder of the runs; by default that of the arguments.
        options: keys and values of every run, first stages included.
        datasets: the folder of the data sets of a seed, if it is not the environment's.

    Returns:
        The plan, and the finished runs of each row, one a seed. There are none after ``--dry-run``,
        and after array jobs were written.

    Raises:
        ValueError: a bad config, or a folder holds a run with another one; nothing has been
            started then.
        SystemExit: a job has failed (exit code 1), or a signal ended them (130, 143).
    """
    num_gpus = arguments.num_gpus
    if num_gpus is None:
        num_gpus = int(torch.cuda.is_available())
    if num_gpus < 0:
        raise ValueError(f"--num-gpus must be 0 or more, got {num_gpus}")
    output = output or arguments.output
    plan = make_plan(
        rows,
        arguments.seeds,
        output,
        options=options,
        datasets=datasets,
        imports=arguments.imports,
    )
    done = {job for job in plan.jobs if is_done(job)}
    check_startable(plan.jobs, done)
    if arguments.dry_run:
        print("\n".join(listing(plan, done, num_gpus)))
        return plan, {}
    if arguments.launcher == "slurm":
        folder = output / "slurm"
        lines = write_arrays(plan.jobs, done, folder, num_gpus)
        print(f"# {len(done)} of {len(plan.jobs)} jobs are done.", *lines, sep="\n")
        return plan, {}
    if len(done) < len(plan.jobs):
        _run_here(plan, done, num_gpus)
    return plan, {row: [read_run(job.folder) for job in jobs] for row, jobs in plan.by_row.items()}


def listing(plan: Plan, done: set[Job], num_gpus: int) -> list[str]:
    """List the commands as a shell would run them, stage by stage; those that are done as comments.

    Args:
        plan: what is to be run.
        done: jobs that are finished.
        num_gpus: of each job.
    """
    lines: list[str] = []
    for stage in sorted({job.stage for job in plan.jobs}):
        jobs = [job for job in plan.jobs if job.stage == stage]
        finished = sum(job in done for job in jobs)
        lines.append(f"# Stage {stage + 1}: {len(jobs)} jobs, {finished} of them done")
        for job in jobs:
            variables = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
            command = shlex.join(["longtail", *job.arguments(num_gpus)])
            mark = "# done: " if job in done else ""
            lines.append(mark + " ".join([*variables, command]))
    return lines


def _run_here(plan: Plan, done: set[Job], num_gpus: int) -> None:
    # A run a core wastes nothing on synchronization; a GPU takes one at a time.
    slots = 1 if num_gpus else min(available_cores(), len(plan.jobs) - len(done))
    threads = None if num_gpus else 1
    tasks = run_jobs(plan.jobs, done, Board(), num_gpus=num_gpus, slots=slots, threads=threads)
    failed = [task for task in tasks if task.state == FAILED]
    if failed:
        listed = "".join(
            f"\n  {task.job.name}: {task.message} (log: {task.log})" for task in failed
        )
        left = sum(task.state not in ("done", FAILED) for task in tasks)
        also = f", and {left} that start from them did not run" if left else ""
        raise SystemExit(
            f"error: {len(failed)} of {len(tasks)} jobs failed{also}; the same command tries them "
            f"again:{listed}"
        )
