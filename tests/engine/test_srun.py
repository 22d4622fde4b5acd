# SPDX-License-Identifier: Apache-2.0
"""srun's variables, as two machines with eight tasks each have them, and as two processes here."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

import longtail.engine.launch as package_launch
from longtail.engine.launch import launch_training, run_in_main_process
from longtail.engine.srun import Task, first_host, srun_task
from tests.engine.test_launch import arguments
from tests.messages import raises_naming

# The eleventh of 16 tasks, in a step of a job that has more machines.
STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "3",
    "SLURM_JOB_NODELIST": "gpu[001-004]",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "32",
    "SLURM_TASKS_PER_NODE": "8(x4)",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_PROCID": "10",
    "SLURM_LOCALID": "2",
}


@pytest.fixture
def step(monkeypatch):
    """This process is the task."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in STEP.items() if name not in names}


def test_a_task_of_a_step():
    # 15000 + 12345673 % 15000, and 823 * 15000 = 12345000.
    assert srun_task(STEP) == Task(10, 2, 16, 8, "gpu003", 15673)
    chosen = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert srun_task({**STEP, **chosen}) == Task(10, 2, 16, 8, "10.0.0.1", 29500)


def test_variables_of_the_job_where_the_step_has_none():
    names = [name for name in STEP if name.startswith("SLURM_STEP_") and name != "SLURM_STEP_ID"]
    assert srun_task(without(*names)) == Task(10, 2, 32, 8, "gpu001", 15673)


@pytest.mark.parametrize(
    "variables",
    [{}, without("SLURM_STEP_ID"), {**STEP, "SLURM_STEP_NUM_TASKS": "1"}],
    ids=["no SLURM", "a batch script", "one task"],
)
def test_processes_that_are_alone(variables):
    assert srun_task(variables) is None


def test_tasks_that_cannot_be_one_run():
    with raises_naming(ValueError, "8,2", "--ntasks-per-node"):
        srun_task({**STEP, "SLURM_STEP_TASKS_PER_NODE": "8,2"})
    # Dealt out like cards: the second machine's first task is number 1.
    cyclic = {**STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    with raises_naming(ValueError, "task 1", "SLURM_LOCALID", "--distribution=block"):
        srun_task(cyclic)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login1", "login1"),
        ("a,b", "a"),
        ("gpu[007-010,12],login1", "gpu007"),
        ("gpu[3,5-6]", "gpu3"),
        ("rack[2-3]node[08-11].x,gpu1", "rack2node08.x"),
    ],
)
def test_the_first_machine(nodes, first):
    assert first_host(nodes) == first


@pytest.fixture
def calls(step, monkeypatch):
    """What this task does to join the others, on a machine with GPUs."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(package_launch.comm, "synchronize", lambda: None)
    monkeypatch.setattr(package_launch, "create_local_process_group", calls.append)
    monkeypatch.setattr(
        package_launch.dist, "init_process_group", lambda *a, **kw: calls.append((a, kw))
    )
    monkeypatch.setattr(package_launch.dist, "destroy_process_group", lambda: None)
    return calls


MEETING = {"init_method": "tcp://gpu003:15673", "rank": 10, "world_size": 16}


def test_commands_without_a_model_work_on_cpus(calls, monkeypatch):
    """They need no GPU; they meet in torch's time, and wait for one another as long as it takes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(package_launch.dist.distributed_c10d, "_set_pg_timeout", calls.append)
    run_in_main_process(calls.append, "options")
    assert calls == [(("gloo",), MEETING), 8, timedelta(days=7), "options"]


def test_gpus_of_tasks(calls, monkeypatch):
    """One task a GPU: the one with its local rank, or the only one that it sees."""
    args = arguments(1)
    args.num_machines, args.machine_rank = 1, 0
    for gpus, device in ((8, 2), (1, 0)):
        calls.clear()
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        launch_training(lambda args: calls.append("main"), args)
        assert calls == [device, (("nccl",), MEETING), 8, "main"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    # The first task of each machine says it, the others give it time and end without a word.
    slept = []
    monkeypatch.setattr(package_launch.time, "sleep", slept.append)
    with pytest.raises(SystemExit, match=r"^1$"):
        launch_training(print, args)
    assert slept == [package_launch.LAST_WORD] and slept[0] > 0
    monkeypatch.setenv("SLURM_PROCID", "8")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    with raises_naming(ValueError, "8 tasks", "4 GPUs"):
        launch_training(print, args)
    args.num_gpus = 8
    with raises_naming(ValueError, "--num-gpus 8", "16 tasks"):
        launch_training(print, args)


def test_detectron2s_launcher_on_each_machine(step, monkeypatch):
    """One task a machine, with --machine-rank: as it is without SLURM."""
    calls = []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(package_launch, "launch", lambda *a, **kw: calls.append(kw["machine_rank"]))
    launch_training(print, arguments(2))
    assert calls == [1]


# What holds process groups: the functions of comm, and a distributed model in a cycle, as in a
# trainer. Threads of gloo that outlive them now and then abort the interpreter at its end.
PROGRAM = """
import argparse, pathlib, torch
from detectron2.utils import comm
from longtail.engine.launch import launch_training

def gloo_threads():
    names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]

def main(args):
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
    model(torch.ones(1, 2)).sum().backward()
    model.itself = [model]
    assert gloo_threads()
    ranks = comm.all_gather((comm.get_rank(), comm.get_local_rank(), comm.get_local_size()))
    if comm.is_main_process():
        print(ranks)

launch_training(main, argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url=""))
assert not gloo_threads(), gloo_threads()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes on CPUs")
def test_two_tasks_are_one_run():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    step = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "localhost"},
        **{"SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2", "MASTER_PORT": str(port)},
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    printed = [task.communicate(timeout=120)[0] for task in tasks]
    assert printed == ["[(0, 0, 2), (1, 1, 2)]\n", ""]
    assert [task.returncode for task in tasks] == [0, 0]
