# SPDX-License-Identifier: Apache-2.0
"""Two processes give the gradients of one process with the whole batch."""

from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from region_rebalance.head import RegionRebalanceHead
from torch.nn.parallel import DistributedDataParallel

from longtail.losses import CrossEntropy, PixelLoss
from longtail.modeling import FCNHead
from tests.processes import run_in_two_processes
from tests.tiny import uneven_pixels

K = 5


def make_head() -> RegionRebalanceHead:
    torch.manual_seed(0)
    base = FCNHead(
        input_shape={"res5": ShapeSpec(channels=3, stride=4)},
        in_feature="res5",
        channels=4,
        # Batch statistics are not what is tested here.
        norm="",
        num_classes=K,
        dropout=0.0,
        pixel_loss=PixelLoss(CrossEntropy(K)),
    )
    head = RegionRebalanceHead(base, num_classes=K, class_counts=torch.tensor([9, 5, 3, 2, 1]))
    return head.double().train()


def worker(rank: int, folder: Path) -> None:
    features, targets = uneven_pixels(K)
    # Rank 1 has far fewer regions; in the second round none at all.
    for name, split in (("uneven", [[0, 1], [2, 3]]), ("empty", [[0, 1, 2], [3]])):
        head = make_head()
        model = DistributedDataParallel(head)
        losses = model({"res5": features[split[rank]]}, targets[split[rank]])[1]
        sum(losses.values()).backward()
        if rank == 0:
            gradients = {key: p.grad for key, p in head.named_parameters()}
            torch.save(gradients, f"{folder}/{name}.pth")


def test_gradients_equal_those_of_one_process(tmp_path):
    run_in_two_processes(worker, tmp_path)
    head = make_head()
    features, targets = uneven_pixels(K)
    sum(head({"res5": features}, targets)[1].values()).backward()
    for name in ("uneven", "empty"):
        gradients = torch.load(tmp_path / f"{name}.pth", weights_only=True)
        for key, parameter in head.named_parameters():
            assert parameter.grad.abs().max() > 0, key
            torch.testing.assert_close(gradients[key], parameter.grad, atol=1e-12, rtol=0)
