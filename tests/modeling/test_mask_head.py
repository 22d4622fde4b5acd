# SPDX-License-Identifier: Apache-2.0
"""The normalised mask predictor against its definition, and in a detector."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from longtail.modeling.roi_heads import NormedConv2d
from tests.messages import raises_naming
from tests.tiny_detection import CASCADE, detector_config, detector_inputs

HEAD = ["MODEL.ROI_MASK_HEAD.NAME", "NormedMaskHead"]
TEMPERATURE = "MODEL.ROI_MASK_HEAD.TEMPERATURE"


def test_it_is_its_formula():
    """tau w.x / ((|w| + 1e-6)(|x| + 1e-6)) + b at every pixel, by loops; also its gradient."""
    torch.manual_seed(0)
    layer = NormedConv2d(4, 3, 20.0).double()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, 3, 3, 2, dtype=torch.float64)
    for n in range(2):
        for j in range(3):
            for row in range(3):
                for column in range(2):
                    v, w = x[n, :, row, column].tolist(), layer.weight[j].flatten().tolist()
                    dot = sum(a * b for a, b in zip(v, w, strict=True))
                    lengths = (math.hypot(*w) + 1e-6) * (math.hypot(*v) + 1e-6)
                    expected[n, j, row, column] = 20 * dot / lengths + layer.bias[j].item()
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(layer, (x,))
    zero = torch.zeros(1, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(zero).flatten(), layer.bias)
    assert torch.autograd.grad(layer(zero).sum(), zero)[0].isfinite().all()


def test_it_starts_as_published():
    """N(0, 2 / K) weights (Kaiming, by the outputs): 5 standard errors; biases of 0."""
    torch.manual_seed(0)
    layer = NormedConv2d(256, 50, 20.0)
    assert layer.weight.std().item() == pytest.approx(0.2, rel=5 / (2 * 256 * 50) ** 0.5)
    assert not layer.bias.any()


@pytest.mark.parametrize("options", [[], CASCADE], ids=["mask", "cascade"])
def test_a_detector_with_it_trains_and_predicts(tmp_path, options):
    plain = build_model(detector_config(tmp_path, options))
    model = build_model(detector_config(tmp_path, [*options, *HEAD, TEMPERATURE, "10.0"]))
    predictor = model.roi_heads.mask_head.predictor
    assert type(predictor) is NormedConv2d and predictor.temperature == 10
    # The same names, shapes and order of layers: weights of plain heads can be loaded.
    model.load_state_dict(plain.state_dict())
    names = [name for name, _ in plain.roi_heads.mask_head.named_children()]
    assert names == [name for name, _ in model.roi_heads.mask_head.named_children()]
    with EventStorage():
        losses = model.train()(detector_inputs())
    losses["loss_mask"].backward()
    assert predictor.weight.grad.abs().max() > 0
    with torch.no_grad():
        instances = model.eval()(detector_inputs())[0]["instances"]
    assert len(instances) and instances.has("pred_masks")


def test_masks_that_do_not_depend_on_the_class(tmp_path):
    model = build_model(
        detector_config(tmp_path, [*HEAD, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True"])
    )
    assert model.roi_heads.mask_head.predictor.out_channels == 1


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none(tmp_path, value):
    cfg = detector_config(tmp_path, HEAD)
    cfg.defrost()
    cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = value
    with raises_naming(ValueError, TEMPERATURE, "finite and > 0"):
        build_model(cfg)
