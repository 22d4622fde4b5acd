"""Where detectron2 0.6 and its current main differ."""

import torch.distributed as dist
from detectron2.utils import comm


def create_local_process_group(processes_per_machine: int) -> None:
    """Tell ``detectron2.utils.comm`` which processes share a machine.

    0.6 leaves this to its launcher alone; main has a function for it.

    Args:
        processes_per_machine: the same on every machine.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    machines = dist.get_world_size() // processes_per_machine
    for machine in range(machines):
        first = machine * processes_per_machine
        group = dist.new_group(list(range(first, first + processes_per_machine)))
        if dist.get_rank() // processes_per_machine == machine:
            comm._LOCAL_PROCESS_GROUP = group
