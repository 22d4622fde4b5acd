# SPDX-License-Identifier: Apache-2.0
"""Two processes give the calibration of a semantic head the gradients of one with all images."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.utils.events import EventStorage
from disalign.sem_seg import DisAlignSemSegHead
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longtail.engine.training.stages import freeze
from longtail.losses import CrossEntropy, PixelLoss
from longtail.modeling import FCNHead
from tests.disalign.detectors import disturb
from tests.processes import run_in_two_processes
from tests.tiny import uneven_pixels

K = 4


def make_head(weighted_mean: bool) -> DisAlignSemSegHead:
    torch.manual_seed(0)
    base = FCNHead(
        input_shape={"res5": ShapeSpec(channels=3, stride=4)},
        in_feature="res5",
        channels=4,
        norm="BN",
        num_classes=K,
        pixel_loss=PixelLoss(CrossEntropy(K)),
    )
    nn.init.normal_(base.predictor.weight)
    head = DisAlignSemSegHead(
        base,
        num_classes=K,
        class_weights=torch.tensor([0.1, 0.4, 1.0, 2.5]),
        class_groups={},
        weighted_mean=weighted_mean,
    )
    freeze(disturb(head).double().train())
    return head


def gradients(model, features, targets) -> dict[str, torch.Tensor]:
    with EventStorage():
        model({"res5": features}, targets)[1]["loss_sem_seg"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def worker(rank: int, folder: Path) -> None:
    features, targets = uneven_pixels(K)
    # Rank 1 has far fewer valid pixels; in the second round none at all.
    for name, split in (("uneven", [[0, 1], [2, 3]]), ("empty", [[0, 1, 2], [3]])):
        for weighted_mean in (True, False):
            model = DistributedDataParallel(make_head(weighted_mean))
            found = gradients(model, features[split[rank]], targets[split[rank]])
            if rank == 0:
                found = {key.removeprefix("module."): value for key, value in found.items()}
                torch.save(found, f"{folder}/{name}_{weighted_mean}.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    run_in_two_processes(worker, folder)
    return folder


@pytest.mark.parametrize("weighted_mean", [True, False])
@pytest.mark.parametrize("name", ["uneven", "empty"])
def test_gradients_equal_those_of_one_process(folder, name, weighted_mean):
    expected = gradients(make_head(weighted_mean), *uneven_pixels(K))
    given = torch.load(folder / f"{name}_{weighted_mean}.pth", weights_only=True)
    assert given.keys() == expected.keys() and len(given) == 4
    for key, gradient in expected.items():
        assert gradient.abs().max() > 1e-3, key
        # The loss is computed in float32.
        torch.testing.assert_close(given[key], gradient, atol=1e-6, rtol=1e-5)
