# SPDX-License-Identifier: Apache-2.0
"""Two processes give the loss and the gradient of one process with the whole batch."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.pixels import dice_loss
from longtail.losses.reduction import mean_over_processes
from tests.processes import run_in_two_processes

pixel_cross_entropy = functools.partial(cross_entropy, ignore_label=255)
K = 3
LOSSES = {
    "plain": pixel_cross_entropy,
    "weighted": lambda z, y: pixel_cross_entropy(
        z, y, class_weight=torch.tensor([0.2, 3.0, 1.0], dtype=z.dtype)
    ),
    "prior": lambda z, y: pixel_cross_entropy(z, y, class_prior=torch.tensor([90, 9, 1])),
    "dice": dice_loss,
}
# Valid rows of the 8 in each of the two images.
SPLITS = {"uneven": (1, 8), "one without": (0, 8), "both without": (0, 0)}


def make_model():
    torch.manual_seed(0)
    return nn.Conv2d(2, K, 1)


def make_batch(valid_rows):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 2, 8, 8, generator=generator)
    labels = torch.randint(0, K, (2, 8, 8), generator=generator)
    for label, rows in zip(labels, valid_rows, strict=True):
        label[rows:] = 255
    return images, labels


def worker(rank, folder):
    results = {}
    for name, loss in LOSSES.items():
        for case, rows in SPLITS.items():
            model = make_model()
            images, labels = make_batch(rows)
            own = slice(rank, rank + 1)
            distributed = DistributedDataParallel(model)
            value = loss(distributed(images[own]), labels[own])
            value.backward()
            results[name, case] = {"loss": value.detach(), "gradient": model.weight.grad}
    own_count = torch.tensor(float(3 * rank))
    results["count", ""] = {"mean": mean_over_processes(own_count), "own": own_count}
    torch.save(results, f"{folder}/rank{rank}.pth")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_in_two_processes(worker, folder)
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", SPLITS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(results, name, case):
    model = make_model()
    images, labels = make_batch(SPLITS[case])
    expected = LOSSES[name](model(images), labels)
    expected.backward()
    mean = (results[0][name, case]["loss"] + results[1][name, case]["loss"]) / 2
    torch.testing.assert_close(mean, expected.detach(), atol=1e-6, rtol=0)
    for rank in range(2):
        torch.testing.assert_close(
            results[rank][name, case]["gradient"], model.weight.grad, atol=1e-6, rtol=0
        )


def test_mean_over_processes(results):
    for rank in range(2):
        # (0 + 3) / 2, and the argument stays as it is.
        assert results[rank]["count", ""] == {"mean": 1.5, "own": 3 * rank}
