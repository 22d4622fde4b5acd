# SPDX-License-Identifier: Apache-2.0
"""Two processes give the second stage the gradients of one process with all RoIs."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils.events import EventStorage
from disalign.fast_rcnn import DisAlignFastRCNNOutputLayers
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longtail.engine.training.stages import freeze
from tests.processes import run_in_two_processes

K = 4


class Predictor(nn.Module):
    """The output layers as a second stage of their own."""

    trained_module_names = ("calibration",)

    def __init__(self, weighted_mean: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = DisAlignFastRCNNOutputLayers(
            ShapeSpec(channels=6),
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=K,
            class_weights=torch.tensor([0.1, 0.4, 1.0, 2.5]),
            class_groups={},
            weighted_mean=weighted_mean,
        )
        # Away from the identity, where sigma's gradient would be zero.
        nn.init.normal_(self.layers.cls_score.weight)
        nn.init.normal_(self.layers.calibration.alpha, 1.0, 0.5)
        nn.init.normal_(self.layers.calibration.beta)
        freeze(self.double())

    def forward(self, features, classes):
        with EventStorage():
            return self.layers.roi_loss(features, classes)


def rois():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(9, 6, dtype=torch.float64, generator=generator)
    # The rare class is on the first process alone.
    return features, torch.tensor([3, 3, K, 0, 1, K, 0, 0, K])


def worker(rank: int, folder: Path) -> None:
    features, classes = rois()
    for weighted_mean in (True, False):
        for name, cut in (("uneven", 4), ("empty", 9)):
            part = slice(None, cut) if rank == 0 else slice(cut, None)
            predictor = Predictor(weighted_mean)
            # Kept: without it nothing would be averaged.
            model = DistributedDataParallel(predictor)
            model(features[part], classes[part]).backward()
            if rank == 0:
                gradients = {n: p.grad for n, p in predictor.named_parameters() if p.requires_grad}
                torch.save(gradients, f"{folder}/{name}_{weighted_mean}.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    run_in_two_processes(worker, folder)
    return folder


@pytest.mark.parametrize("weighted_mean", [True, False])
@pytest.mark.parametrize("name", ["uneven", "empty"])
def test_gradients_equal_those_of_one_process(folder, name, weighted_mean):
    predictor = Predictor(weighted_mean)
    predictor(*rois()).backward()
    gradients = torch.load(folder / f"{name}_{weighted_mean}.pth", weights_only=True)
    assert len(gradients) == 4
    for key, gradient in gradients.items():
        expected = predictor.get_parameter(key).grad
        assert expected.abs().max() > 0, key
        torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)
