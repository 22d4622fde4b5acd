# SPDX-License-Identifier: Apache-2.0
"""Label-aware smoothing against numbers by hand, and through a config."""

import math
from pathlib import Path

import pytest
import torch
from label_aware_smoothing.loss import (
    LabelAwareSmoothing,
    smoothed_cross_entropy,
    smoothing_factors,
)
from torch.nn import functional as F

from longtail.config import load_config
from longtail.engine.methods import all_methods
from longtail.losses import IMAGES, build_loss

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "digits_lt.yaml"


def test_smoothing_is_linear_in_the_count():
    """Halfway between 10 and 110 images: halfway between 0.1 and 0.4."""
    factors = smoothing_factors(torch.tensor([110, 60, 10]), head=0.4, tail=0.1)
    torch.testing.assert_close(factors, torch.tensor([0.4, 0.25, 0.1]))


def test_equal_classes_are_smoothed_as_the_tail():
    assert smoothing_factors(torch.tensor([5, 5]), 0.4, 0.1).tolist() == pytest.approx([0.1, 0.1])


def test_the_loss_by_hand():
    """Probabilities 1/2, 1/4, 1/4, class 0, epsilon 0.2: 0.8 ln 2 + 0.2 ln 4 = 1.2 ln 2."""
    logits = torch.tensor([[math.log(2), 0.0, 0.0]])
    loss = smoothed_cross_entropy(logits, torch.tensor([0]), torch.tensor([0.2, 0.5, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([1.2 * math.log(2)]))


def test_without_smoothing_it_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([0, 1, 2, 3, 0, 0, 1])
    mine = LabelAwareSmoothing(4, smoothing=torch.zeros(4))(logits, classes)
    plain = F.cross_entropy(logits, classes)
    torch.testing.assert_close(mine, plain)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (mine, plain)]
    torch.testing.assert_close(*gradients)


def test_a_config_builds_it():
    """For inference, without the training set: nothing will read the smoothing."""
    cfg = load_config(str(CONFIG), ["DATASETS.TRAIN", "()"])
    loss = build_loss(cfg, IMAGES)
    assert isinstance(loss, LabelAwareSmoothing) and loss.num_classes == 10


def test_options_out_of_range():
    cfg = load_config(str(CONFIG), ["MODEL.LABEL_AWARE_SMOOTHING.TAIL", "0.5"])
    with pytest.raises(ValueError, match=r"MODEL.LABEL_AWARE_SMOOTHING .* TAIL 0.5 and HEAD 0.4"):
        build_loss(cfg, IMAGES)


def test_it_is_listed():
    """``longtail methods`` names it for both tasks."""
    listed = [method for method in all_methods() if method.name == "label_aware_smoothing"]
    assert [method.task for method in listed] == ["images", "pixels"]
