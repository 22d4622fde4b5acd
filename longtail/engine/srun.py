# SPDX-License-Identifier: Apache-2.0
"""The processes of a run that SLURM's srun has started, by its variables."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Below those that Linux hands out itself.
_FIRST_PORT, _PORTS = 15000, 15000


@dataclass(frozen=True)
class Task:
    """A task of a job step, which is one process of a run.

    Attributes:
        rank: among all tasks.
        local_rank: among those of its machine.
        size: number of all tasks.
        local_size: number of those of a machine, the same on all.
        host: where the tasks meet.
        port: there.
    """

    rank: int
    local_rank: int
    size: int
    local_size: int
    host: str
    port: int


def srun_task(variables: Mapping[str, str] = os.environ) -> Task | None:
    """The task that this process is.

    Args:
        variables: of the environment. MASTER_ADDR and MASTER_PORT say where the tasks meet; by
            default that is the first machine, and a port that the numbers of job and step give.

    Returns:
        None where srun has not started the process, or it alone.

    Raises:
        ValueError: the machines have different numbers of tasks, or neighbouring ranks are not on
            one machine.
    """
    size = int(_either(variables, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") or 1)
    # A batch script has the job's variables, but is no step.
    if "SLURM_STEP_ID" not in variables or size == 1:
        return None
    rank, local_rank = int(variables["SLURM_PROCID"]), int(variables["SLURM_LOCALID"])
    per_node = _either(variables, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    # 8(x2): 8 tasks on each of 2 machines.
    equal = re.fullmatch(r"(\d+)(\(x\d+\))?", per_node)
    if not equal:
        raise ValueError(
            f"srun: the machines have {per_node} tasks (SLURM_STEP_TASKS_PER_NODE); let each have "
            "as many, with --ntasks-per-node"
        )
    local_size = int(equal[1])
    if rank % local_size != local_rank:
        raise ValueError(
            f"srun: task {rank} is number {local_rank} of its machine (SLURM_LOCALID), expected "
            f"{rank % local_size}: add --distribution=block"
        )
    nodes = _either(variables, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    number = 10 * int(variables["SLURM_JOB_ID"]) + int(variables["SLURM_STEP_ID"])
    return Task(
        *(rank, local_rank, size, local_size),
        host=variables.get("MASTER_ADDR") or first_host(nodes),
        port=int(variables.get("MASTER_PORT") or _FIRST_PORT + number % _PORTS),
    )


def first_host(nodes: str) -> str:
    """The first of SLURM's list of machines.

    Args:
        nodes: such as ``gpu[007-010,12],login1``, whose first is gpu007.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _either(variables: Mapping[str, str], *names: str) -> str:
    """The first that is set: the step's, which may be smaller than its job."""
    return next((variables[name] for name in names if variables.get(name)), "")
