# SPDX-License-Identifier: Apache-2.0
"""Starting processes: detectron2's launcher, or the ones that torchrun or srun have started."""

import argparse
import contextlib
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm

from longtail.engine.srun import srun_task
from longtail.utils.detectron2 import create_local_process_group, forget_process_groups
from longtail.utils.distributed import from_main_process
from longtail.utils.errors import RESUMABLE

T = TypeVar("T")
# How long a process that has finished its share of a command waits for the others; torch's default,
# 10 or 30 minutes, is meant for training steps. It is not for a process that has ended: torchrun,
# and srun with --kill-on-bad-exit, then end the others.
PATIENCE = timedelta(days=7)
# Seconds that a process has to say its error, before another one ends without a word: at the first
# end torchrun ends all.
LAST_WORD = 1.0


def launch_training(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process of the job.

    Under torchrun, and srun with several tasks, the processes exist; on a machine without GPU they
    talk through gloo. Otherwise detectron2's launcher starts ``--num-gpus`` processes on each of
    ``--num-machines`` machines.

    Args:
        main: the work of one process.
        args: with the options of detectron2's ``default_argument_parser``.

    Raises:
        ValueError: more GPUs are asked for than the machine has.
    """
    if _joined(args):
        _work_and_leave(main, args)
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
            _work_and_leave,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )


def run_in_each_process(
    main: Callable[[argparse.Namespace], T], options: argparse.Namespace, *, on_gpus: bool = True
) -> T:
    """Run a command in every process that torchrun or srun has started, or in this one alone.

    Args:
        main: the work of one process.
        options: of the command.
        on_gpus: whether each process works on a GPU of its own, where the machine has any.

    Returns:
        What ``main`` gives in this process.

    Raises:
        Exception: what ``main`` raises, in the first process that fails.
        SystemExit: another process has failed, and says why.
    """
    if not _joined(argparse.Namespace(num_gpus=1, num_machines=1), on_gpus=on_gpus):
        return main(options)
    # Not before: a process that does not find the others would look for them as long.
    dist.distributed_c10d._set_pg_timeout(PATIENCE)
    try:
        return _work_and_leave(main, options)
    except (Exception, KeyboardInterrupt):
        if not is_first_to_fail():
            raise _silent_end() from None
        raise


def run_in_main_process(main: Callable[[argparse.Namespace], T], options: argparse.Namespace) -> T:
    """Run a command once; the other processes of the job take their share of its work, on CPUs.

    Args:
        main: the command; what it gives :func:`~longtail.utils.distributed.in_all_processes` is
            shared.
        options: of the command.

    Returns:
        What ``main`` gives, in all processes.

    Raises:
        Exception: what ``main`` raises, in the main process.
        SystemExit: in the others, then.
    """

    def lead_or_help(options: argparse.Namespace) -> T:
        try:
            return from_main_process(lambda: main(options))
        except Exception:
            if comm.is_main_process():
                raise
            # The main process has the error, too, and says it.
            raise _silent_end() from None

    return run_in_each_process(lead_or_help, options, on_gpus=False)


def _silent_end() -> SystemExit:
    """The end of a process whose error another one says, once that one has had the time."""
    time.sleep(LAST_WORD)
    return SystemExit(1)


def _work_and_leave(main: Callable[[argparse.Namespace], T], args: argparse.Namespace) -> T:
    """Run ``main(args)``, and end the threads of the process groups before the interpreter ends.

    The threads need Python's lock to release the tensors of their last message. A thread that asks
    for the lock while the interpreter shuts down is killed inside a destructor, and takes the
    process with it: "terminate called without an active exception". ``destroy_process_group`` ends
    only the threads of groups that nobody else holds.

    This is done only after success, or after a signal that all processes have heeded. After an
    error another process may still wait for a message, and is ended by torchrun.
    """
    result, stopped = None, False
    try:
        result = main(args)
    except SystemExit as end:
        if end.code != RESUMABLE:
            raise
        # Raised again below: its traceback holds the model.
        stopped = True
    if dist.is_initialized():
        if not stopped:
            comm.synchronize()
        forget_process_groups()
        # A model that is distributed holds a group, and is in a cycle with its trainer. It goes
        # first: it would join the threads while it holds Python's lock.
        gc.collect()
        dist.destroy_process_group()
    if stopped:
        raise SystemExit(RESUMABLE)
    return result


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


def _joined(args: argparse.Namespace, *, on_gpus: bool = True) -> bool:
    """Join the processes that torchrun or srun have started; False if neither has.

    Args:
        args: ``num_gpus`` and ``num_machines``.
        on_gpus: whether each process takes a GPU, where the machine has any.

    Raises:
        ValueError: they cannot be one run.
        SystemExit: the same, and the first process of this machine says it.
    """
    try:
        return _joined_any(args, on_gpus)
    except ValueError:
        # The processes cannot ask one another yet.
        if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0):
            raise _silent_end() from None
        raise


def _joined_any(args: argparse.Namespace, on_gpus: bool) -> bool:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local_rank, local_size = (int(os.environ[f"LOCAL_{k}"]) for k in ("RANK", "WORLD_SIZE"))
        started = f"--nproc_per_node {local_size}"
        _join(local_rank, local_size, started, local_size, on_gpus)
        return True
    # Whoever numbers the machines starts one task on each, and its processes are detectron2's.
    task = srun_task() if args.num_machines == 1 else None
    if task is None:
        return False
    if args.num_gpus > 1:
        raise ValueError(
            f"--num-gpus {args.num_gpus}: srun has started {task.size} tasks, each is one process "
            "for one GPU; leave it out"
        )
    # With --gpus-per-task each sees its own GPU alone.
    own = torch.cuda.device_count() == 1
    _join(
        *(0 if own else task.local_rank, 1 if own else task.local_size),
        *(f"srun with {task.local_size} tasks on a machine", task.local_size, on_gpus),
        init_method=f"tcp://{task.host}:{task.port}",
        rank=task.rank,
        world_size=task.size,
    )
    return True


def _join(
    device: int, devices: int, started: str, local_size: int, on_gpus: bool, **meeting: Any
) -> None:
    """Join the other processes.

    Args:
        device: number of this process's GPU, where the machine has any.
        devices: that the processes of this machine see together.
        started: how they were.
        local_size: number of processes on a machine.
        on_gpus: whether each process takes a GPU, where the machine has any.
        **meeting: where the processes meet, by default what torchrun says.

    Raises:
        ValueError: the machine has fewer GPUs than that.
    """
    gpu = on_gpus and torch.cuda.is_available()
    if gpu:
        available = torch.cuda.device_count()
        if devices > available:
            raise ValueError(
                f"{started}: this machine has {available} GPUs; start one process a GPU"
            )
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", **meeting)
    create_local_process_group(local_size)
    comm.synchronize()
