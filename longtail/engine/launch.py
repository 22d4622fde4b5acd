# SPDX-License-Identifier: Apache-2.0
"""Starting processes: detectron2's launcher, or the ones that torchrun has started."""

import argparse
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm

from longtail.utils.detectron2 import create_local_process_group


def launch_training(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process of the job.

    Under torchrun the processes exist; on a machine without GPU they talk through gloo. Otherwise
    detectron2's launcher starts ``--num-gpus`` processes on each of ``--num-machines`` machines.

    Args:
        main: the work of one process.
        args: with the options of detectron2's ``default_argument_parser``.

    Raises:
        ValueError: more GPUs are asked for than the machine has.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        main(args)
        # Only after success: taking leave waits for the others, and torchrun ends them when one
        # of them has failed. Waiting here also lets gloo's threads release their last tensors,
        # for which they need Python's lock; its destructor joins them while it holds that lock.
        comm.synchronize()
        dist.destroy_process_group()
        return
    if args.num_gpus < 0:
        raise ValueError(f"--num-gpus must be 0 or more, got {args.num_gpus}")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--num-machines must be 1 or more and --machine-rank below it, got "
            f"{args.num_machines} and {args.machine_rank}"
        )
    available = torch.cuda.device_count()
    if args.num_gpus > max(available, 1):
        raise ValueError(
            f"--num-gpus {args.num_gpus}: this machine has {available} GPUs; several processes on "
            "CPUs are started with torchrun --nproc_per_node N -m longtail train ..."
        )
    if args.num_machines > 1 and not available:
        raise ValueError(
            f"--num-machines {args.num_machines}: this machine has no GPU; processes on CPUs of "
            "several machines are started with torchrun --nnodes N ..."
        )
    several = args.num_gpus * args.num_machines > 1
    with passing_signals_on() if several else contextlib.nullcontext():
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )


@contextlib.contextmanager
def passing_signals_on() -> Iterator[None]:
    """Pass SIGTERM and SIGUSR1 on to the processes that this one has started, and wait for them.

    It would be ended by them at once, and its end interrupts the others, before their checkpoint.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_first_to_fail() -> bool:
    """Whether no other process of the run has said yet why it ends: one line is enough."""
    if comm.get_world_size() == 1:
        return True
    try:
        return dist.distributed_c10d._get_default_store().add("longtail/failed", 1) == 1
    # Nobody answers any more: better two lines than none.
    except Exception:
        return True


def _join_torchrun() -> None:
    gpu = torch.cuda.is_available()
    if gpu:
        if int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
            raise ValueError(
                f"--nproc_per_node {os.environ['LOCAL_WORLD_SIZE']}: this machine has "
                f"{torch.cuda.device_count()} GPUs; start one process a GPU"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo")
    create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
