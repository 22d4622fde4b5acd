# SPDX-License-Identifier: Apache-2.0
"""The differences between detectron2's versions, on whichever is installed."""

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling.roi_heads import cascade_rcnn, fast_rcnn
from torch import nn

from longtail.utils.detectron2 import has_sigmoid, own_class_losses, traceable_roi_heads


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_put_aside_for_tracing_comes_back(fails):
    before = cascade_rcnn._ScaleGradient
    try:
        with traceable_roi_heads():
            assert cascade_rcnn._ScaleGradient.apply("features", 0.5) == "features"
            assert fast_rcnn.len is not len
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert cascade_rcnn._ScaleGradient is before
    assert not hasattr(fast_rcnn, "len")


def test_class_losses_of_detectron2s_own():
    cfg = get_cfg()
    assert own_class_losses(cfg) == []
    cfg.MODEL.ROI_BOX_HEAD = CfgNode({"USE_SIGMOID_CE": True, "USE_FED_LOSS": True})
    assert own_class_losses(cfg) == [
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
    ]
    cfg.MODEL.ROI_BOX_HEAD = CfgNode({"USE_SIGMOID_CE": True, "USE_FED_LOSS": False})
    assert own_class_losses(cfg) == ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"]
    # As in 0.6.
    cfg.MODEL.ROI_BOX_HEAD = CfgNode()
    assert own_class_losses(cfg) == []


def test_sigmoids_of_detectron2s_own():
    layers = nn.Linear(2, 2)
    assert not has_sigmoid(layers)
    layers.use_sigmoid_ce = False
    assert not has_sigmoid(layers)
    layers.use_sigmoid_ce = True
    assert has_sigmoid(layers)
