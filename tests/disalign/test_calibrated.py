# SPDX-License-Identifier: Apache-2.0
"""The state that the calibrated classifiers of all tasks share, and its names in checkpoints."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from disalign.fast_rcnn import DisAlignFastRCNNOutputLayers
from disalign.image_classifier import DisAlignImageClassifier
from disalign.rcnn import DisAlignRCNN
from disalign.sem_seg import DisAlignSemSegHead
from torch import nn

from longtail.losses import CrossEntropy
from longtail.modeling import TimmClassificationBackbone

K = 3
WEIGHTS = torch.tensor([0.2, 0.9, 1.9])
GROUPS = {"rare": (2,), "frequent": [0, 1]}


class BaseHead(nn.Module):
    ignore_value = 255

    def __init__(self):
        super().__init__()
        self.predictor = nn.Conv2d(5, K, 1)


def boxes(**options):
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    return DisAlignFastRCNNOutputLayers(
        ShapeSpec(channels=5), box2box_transform=transform, num_classes=K, **options
    )


def images(**options):
    backbone = TimmClassificationBackbone(name="test_resnet", image_size=32)
    mean_and_std = {"pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 1)}
    return DisAlignImageClassifier(
        backbone=backbone, class_loss=CrossEntropy(K), **mean_and_std, **options
    )


def pixels(**options):
    return DisAlignSemSegHead(BaseHead(), num_classes=K, **options)


# With the config key of K.
KINDS = {
    "boxes": (boxes, "MODEL.ROI_HEADS.NUM_CLASSES"),
    "images": (images, "MODEL.CLASSIFIER.NUM_CLASSES"),
    "pixels": (pixels, "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
}
each_kind = pytest.mark.parametrize(("make", "key"), KINDS.values(), ids=KINDS.keys())


@each_kind
def test_names_in_checkpoints(make, key):
    """They must not change: checkpoints of older versions have them."""
    names = set(make(class_weights=WEIGHTS, class_groups={}).state_dict())
    assert {name for name in names if "calib" in name or "class_weights" in name} == {
        "calibration.alpha",
        "calibration.beta",
        "calibration.confidence_layer.weight",
        "calibration.confidence_layer.bias",
    }


@each_kind
def test_options_of_the_calibration(make, key):
    options = {"margin": False, "confidence_bias": False}
    model = make(class_weights=WEIGHTS, class_groups={}, calibration=options)
    names = {name for name, _ in model.calibration.named_parameters()}
    assert names == {"alpha", "confidence_layer.weight"}
    assert len(model.calibration.alpha) == K
    with pytest.raises(TypeError, match="mragin"):
        make(class_weights=WEIGHTS, class_groups={}, calibration={"mragin": False})


@each_kind
def test_weights_and_groups_are_kept(make, key):
    model = make(class_weights=WEIGHTS.double(), class_groups=GROUPS)
    background = [1.0] if make is boxes else []
    assert model.class_weights.tolist() == pytest.approx([0.2, 0.9, 1.9, *background])
    assert model.class_weights.dtype == torch.float32
    assert model.class_groups == {"rare": [2], "frequent": [0, 1]}
    assert model.weighted_mean is True


@each_kind
def test_weights_of_another_number_of_classes(make, key):
    with pytest.raises(ValueError, match=rf"must have shape \(3,\), got \(4,\).*{key}") as info:
        make(class_weights=torch.ones(4), class_groups={})
    assert "\n" not in str(info.value)


@each_kind
@pytest.mark.parametrize("weighted_mean", [True, False])
def test_the_loss_and_what_it_is_a_mean_over(make, key, weighted_mean):
    """All classes alike likely, hence a loss of log D for every sample."""
    model = make(class_weights=WEIGHTS, class_groups={}, weighted_mean=weighted_mean)
    D = K + (make is boxes)
    classes = torch.tensor([0, 2, 2, 1])
    total, number = 0.2 + 2 * 1.9 + 0.9, 4
    divisor = total if weighted_mean else number
    loss = model.alignment_loss(torch.zeros(4, D), classes)
    assert loss.item() == pytest.approx(torch.tensor(D).log().item() * total / divisor)
    assert model.alignment_normalizer(classes).item() == pytest.approx(divisor)
    # The same as pixels of which two are left out.
    labels = torch.tensor([[[0, 255, 2], [2, 1, 255]]])
    of_pixels = model.alignment_loss(torch.zeros(1, D, 2, 3), labels, ignore_label=255)
    assert of_pixels.item() == pytest.approx(loss.item())
    assert model.alignment_normalizer(labels, 255).item() == pytest.approx(divisor)


@pytest.mark.parametrize("kind", [DisAlignRCNN, DisAlignImageClassifier, DisAlignSemSegHead])
def test_what_is_trained_and_what_does_not_decay(kind):
    assert kind.trained_module_names == ("calibration",)
    assert kind.no_decay_params == ("alpha", "beta")
