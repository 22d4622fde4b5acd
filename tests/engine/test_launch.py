# SPDX-License-Identifier: Apache-2.0
"""Which processes run a program: those of torchrun, or as many as detectron2's launcher starts."""

import argparse

import pytest
import torch

import longtail.engine.launch as package_launch
from longtail.engine.launch import launch_training
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
    assert calls == [((print, 2), {**machines, "args": (args,)})]


def test_more_gpus_than_there_are(two_gpus, monkeypatch):
    monkeypatch.setattr(package_launch, "launch", None)
    with raises_naming(ValueError, "--num-gpus 3", "2 GPUs", "torchrun"):
        launch_training(print, arguments(3))
    # One process is possible without a GPU.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with raises_naming(ValueError, "--num-gpus 2", "0 GPUs"):
        launch_training(print, arguments(2))
    calls = []
    monkeypatch.setattr(package_launch, "launch", lambda *args, **kw: calls.append(args))
    one = arguments(1)
    with raises_naming(ValueError, "--num-machines 2", "torchrun"):
        launch_training(print, one)
    one.num_machines = 1
    launch_training(print, one)
    assert calls == [(print, 1)]
