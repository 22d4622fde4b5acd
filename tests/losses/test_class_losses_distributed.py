# SPDX-License-Identifier: Apache-2.0
"""Two processes give the loss, the gradient and the memory of one process with all samples."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.losses.test_class_losses import K, S, make_loss
from tests.processes import run_in_two_processes

NAMES = ("cross_entropy", "weighted", "focal", "ldam", "seesaw", "eql", "eqlv2")
# Samples of the first process; the last of them has none.
SPLITS = (3, 6, 0)


class Classifier(nn.Module):
    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.loss = make_loss(name, background=True)
        self.linear = nn.Linear(3, self.loss.num_logits)

    def forward(self, features, classes):
        return self.loss(self.linear(features), classes)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(S, 3, generator=generator), torch.randint(
        0, K + 1, (S,), generator=generator
    )


def run(name, share=None):
    """A step for each split, on all samples or on the share of a rank."""
    model = Classifier(name)
    runner = model if share is None else DistributedDataParallel(model)
    results = []
    with EventStorage(start_iter=10):
        for step, split in enumerate(SPLITS):
            parts = [slice(0, split), slice(split, S)]
            own = slice(None) if share is None else parts[share]
            features, classes = batch(step)
            value = runner(features[own], classes[own])
            model.zero_grad()
            value.backward()
            results.append({"loss": value.detach(), "gradient": model.linear.weight.grad.clone()})
    return {"steps": results, "memory": model.loss.state_dict()}


def worker(rank, folder):
    torch.save({name: run(name, rank) for name in NAMES}, f"{folder}/rank{rank}.pth")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_in_two_processes(worker, folder)
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_as_one(ranks, name):
    expected = run(name)
    for step, alone in enumerate(expected["steps"]):
        both = [rank[name]["steps"][step] for rank in ranks]
        mean = (both[0]["loss"] + both[1]["loss"]) / 2
        torch.testing.assert_close(mean, alone["loss"], atol=1e-6, rtol=0)
        for one in both:
            torch.testing.assert_close(one["gradient"], alone["gradient"], atol=1e-6, rtol=0)
    for rank in ranks:
        torch.testing.assert_close(rank[name]["memory"], expected["memory"], rtol=1e-6, atol=0)
