# SPDX-License-Identifier: Apache-2.0
"""Array jobs for SLURM: one array a stage, one task a job."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from longtail.jobs.plan import Job
from longtail.utils.errors import RESUMABLE
from longtail.utils.io import atomic_write

# The commands are inside the script, of which sbatch keeps a copy: a later call, which finds other
# jobs finished, changes nothing for what is queued.
_SCRIPT = """\
#!/bin/bash
# {count} jobs of stage {number}, written by longtail. Account, partition and the like: here, or as
# options of sbatch.
#SBATCH --job-name=longtail-stage{number}
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --time=24:00:00
#SBATCH --output={logs}/%x-%A_%a.txt
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before the time is up: the training writes a checkpoint and ends with {resumable}.
#SBATCH --signal=TERM@120

commands=(
{commands}
)

cd {folder} || exit 1
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}} OMP_WAIT_POLICY=passive
echo "${{commands[SLURM_ARRAY_TASK_ID]}}"
eval "srun --cpus-per-task={cpus} ${{commands[SLURM_ARRAY_TASK_ID]}}"
code=$?
if [ "$code" -eq {resumable} ]; then
    # It can be continued, and the same command does.
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
# Of a GPU, or of a job without: data loaders.
_CPUS = 8


def write_arrays(
    jobs: Sequence[Job], done: set[Job], folder: str | os.PathLike, num_gpus: int
) -> list[str]:
    """Write a script for each stage that has something to do.

    Args:
        jobs: in the order of their stages.
        done: those that are finished.
        folder: of the scripts and of what their tasks print.
        num_gpus: GPUs of a job.

    Returns:
        The lines that submit them, in this order. A later stage waits for the one before: task by
        task where each starts from the task of its own number, otherwise for all of them.

    Raises:
        OSError: the scripts cannot be written.
    """
    folder = Path(folder).resolve()
    to_do = [job for job in jobs if job not in done]
    stages = sorted({job.stage for job in to_do})
    lines, before = [], None
    for stage in stages:
        now = [job for job in to_do if job.stage == stage]
        path = folder / f"stage{stage + 1}.sh"
        with atomic_write(path) as file:
            file.write(_script(now, stage + 1, folder, num_gpus))
        condition = ""
        if before is not None:
            kind = "aftercorr" if [job.first for job in now] == before else "afterok"
            condition = f"--dependency={kind}:$stage{stages[stages.index(stage) - 1] + 1} "
        lines.append(f"stage{stage + 1}=$(sbatch --parsable {condition}{shlex.quote(str(path))})")
        before = now
    return lines


def _script(jobs: list[Job], number: int, folder: Path, num_gpus: int) -> str:
    cpus = _CPUS * max(num_gpus, 1) if num_gpus else 1
    return _SCRIPT.format(
        count=len(jobs),
        number=number,
        last=len(jobs) - 1,
        cpus=cpus,
        gpus=f"#SBATCH --gpus-per-node={num_gpus}\n" if num_gpus else "",
        logs=folder,
        commands="\n".join(f"    {shlex.quote(_command(job, num_gpus))}" for job in jobs),
        folder=shlex.quote(os.getcwd()),
        threads=1,
        resumable=RESUMABLE,
    )


def _command(job: Job, num_gpus: int) -> str:
    variables = [f"{name}={value}" for name, value in job.environment.items()]
    prefix = ["env", *variables] if variables else []
    return shlex.join([*prefix, sys.executable, "-m", "longtail", *job.arguments(num_gpus)])
