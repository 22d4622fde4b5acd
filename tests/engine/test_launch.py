# SPDX-License-Identifier: Apache-2.0
"""Which processes run a program: those of torchrun, or as many as detectron2's launcher starts."""

import argparse
import multiprocessing
import os
import signal
import time

import pytest
import torch
from detectron2.utils import comm

import longtail.engine.launch as package_launch
from longtail.engine.launch import is_first_to_fail, launch_training
from tests.messages import raises_naming


def arguments(num_gpus: int) -> argparse.Namespace:
    return argparse.Namespace(
        num_gpus=num_gpus, num_machines=2, machine_rank=1, dist_url="tcp://host:1"
    )


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_detectron2s_launcher_gets_the_command_line(two_gpus, monkeypatch):
    calls = []
    monkeypatch.setattr(package_launch, "launch", lambda *args, **kw: calls.append((args, kw)))
    args = arguments(2)
    launch_training(print, args)
    machines = {"num_machines": 2, "machine_rank": 1, "dist_url": "tcp://host:1"}
    [((work, number), options)] = calls
    assert number == 2 and options == {**machines, "args": (print, args)}
    done = []
    work(done.append, args)
    assert done == [args]


def test_more_gpus_than_there_are(two_gpus, monkeypatch):
    monkeypatch.setattr(package_launch, "launch", None)
    with raises_naming(ValueError, "--num-gpus 3", "2 GPUs", "torchrun"):
        launch_training(print, arguments(3))
    # One process is possible without a GPU.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with raises_naming(ValueError, "--num-gpus 2", "0 GPUs"):
        launch_training(print, arguments(2))
    calls = []
    monkeypatch.setattr(package_launch, "launch", lambda *args, **kw: calls.append((args, kw)))
    one = arguments(1)
    with raises_naming(ValueError, "--num-machines 2", "torchrun"):
        launch_training(print, one)
    one.num_machines, one.machine_rank = 1, 0
    launch_training(print, one)
    [((_, number), options)] = calls
    assert number == 1 and options["args"] == (print, one)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("num_gpus", -1, "--num-gpus"),
        ("num_machines", 0, "--num-machines"),
        ("machine_rank", 2, "--machine-rank"),
        ("machine_rank", -1, "--machine-rank"),
    ],
)
def test_numbers_of_processes_that_cannot_be(two_gpus, name, value, part):
    args = arguments(1)
    setattr(args, name, value)
    with raises_naming(ValueError, part, str(value)):
        launch_training(print, args)


class Store:
    """The counters that the processes of a run share."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, amount: int) -> int:
        self.counts[name] = self.counts.get(name, 0) + amount
        return self.counts[name]


def test_one_process_says_why_a_run_ends(monkeypatch):
    assert is_first_to_fail()
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    # Nobody can be asked: better two lines than none.
    assert is_first_to_fail() and is_first_to_fail()
    store = Store()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    assert [is_first_to_fail() for _ in range(3)] == [True, False, False]


def _wait_for_sigterm(folder, rank):
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
    (folder / f"{rank}").touch()
    time.sleep(60)


def test_signals_are_passed_on_to_all_processes(two_gpus, monkeypatch, tmp_path):
    """The process that waits for the others is not ended by what asks them for a checkpoint."""

    def start_two(main, *args, **kw):
        context = multiprocessing.get_context("fork")
        ranks = [context.Process(target=_wait_for_sigterm, args=(tmp_path, r)) for r in (0, 1)]
        for process in ranks:
            process.start()
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        for process in ranks:
            process.join()
        codes.extend(process.exitcode for process in ranks)

    codes, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(package_launch, "launch", start_two)
    launch_training(print, arguments(2))
    assert codes == [143, 143] and signal.getsignal(signal.SIGTERM) is before
