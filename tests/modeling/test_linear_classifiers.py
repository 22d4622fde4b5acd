# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model are linear classifiers of softmax logits, on models made by hand."""

import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, GeneralizedRCNN, SemanticSegmentor
from torch import nn

from longtail.losses import BOXES, IMAGES, PIXELS, CrossEntropy, Equalization, Focal
from longtail.modeling import CosineLinear, ImageClassifier
from longtail.modeling.linear_classifiers import is_linear, linear_classifiers
from longtail.modeling.sem_seg.base import PixelClassifier
from longtail.modeling.sem_seg.wrapping import SemSegHeadWrapper
from tests.messages import raises_naming

C = 5
PIXELS_OF_IMAGES = {"pixel_mean": (0.0,) * 3, "pixel_std": (1.0,) * 3}


class Vectors(Backbone):
    """C channels an image."""

    def forward(self, image):
        raise NotImplementedError

    def output_shape(self):
        return {"pooled": ShapeSpec(channels=C)}


def image_classifier(layer: nn.Module | None = None, class_loss=None) -> ImageClassifier:
    """Of four classes."""
    model = ImageClassifier(
        backbone=Vectors(), class_loss=class_loss or CrossEntropy(4), **PIXELS_OF_IMAGES
    )
    model.classifier = layer or model.classifier
    return model


class Head(nn.Module):
    """A semantic head; its classifier is what is given."""

    ignore_value = 255

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class Wrapper(SemSegHeadWrapper):
    config_node, own_module = "REGION_REBALANCE", "own"

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head, "predictor")
        self.own = nn.Linear(C, 9)


class OtherWrapper(Wrapper):
    """A class of its own: no type is wrapped twice."""


def segmentor(head: nn.Module) -> SemanticSegmentor:
    return SemanticSegmentor(backbone=nn.Identity(), sem_seg_head=head, **PIXELS_OF_IMAGES)


class Predictor(nn.Module):
    """A detector's output layers, with the class loss of ours or, without one, detectron2's."""

    def __init__(self, layer: nn.Module, class_loss: nn.Module | None = None) -> None:
        super().__init__()
        self.cls_score = layer
        self.bbox_pred = nn.Linear(C, 4)
        if class_loss is not None:
            self.class_loss = class_loss


def detector(*predictors: nn.Module) -> GeneralizedRCNN:
    """Of one stage, or a cascade of several."""
    heads = nn.Module()
    if predictors:
        heads.box_predictor = predictors[0] if len(predictors) == 1 else nn.ModuleList(predictors)
    parts = {"backbone": nn.Identity(), "proposal_generator": nn.Identity(), "roi_heads": heads}
    return GeneralizedRCNN(**parts, **PIXELS_OF_IMAGES)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(C, 3), True),
        (nn.Conv2d(C, 3, 1), True),
        (PixelClassifier(C, 3), True),
        (nn.Linear(C, 3, bias=False), False),
        (nn.Conv2d(C, 3, 1, bias=False), False),
        (nn.Conv2d(C, 3, 3, padding=1), False),
        (nn.Conv2d(C, 3, (1, 3), padding=(0, 1)), False),
        (nn.ConvTranspose2d(C, 3, 1), False),
        (CosineLinear(C, 3), False),
        (nn.Sequential(nn.Linear(C, 3)), False),
        (None, False),
    ],
    ids=repr,
)
def test_what_is_linear_with_a_bias(layer, expected):
    assert is_linear(layer) is expected


def test_an_image_classifier():
    model = image_classifier()
    found = linear_classifiers(model, "this")
    assert found.task is IMAGES and found.num_classes == 4
    assert found.layers == [model.classifier] and found.layers[0].weight.shape == (4, C)


@pytest.mark.parametrize("wrappers", [[], [Wrapper], [Wrapper, OtherWrapper]], ids=len)
def test_a_segmentor_whose_head_may_be_wrapped_twice(wrappers):
    inside = head = Head(predictor=PixelClassifier(C, 7), auxiliary=nn.Conv2d(C, 7, 1))
    for wrapper in wrappers:
        head = wrapper(head)
    found = linear_classifiers(segmentor(head), "this")
    assert found.task is PIXELS and found.num_classes == 7
    assert found.layers == [inside.predictor]


@pytest.mark.parametrize("class_loss", [None, CrossEntropy(3, background=True)], ids=str)
@pytest.mark.parametrize("stages", [1, 3])
def test_a_detector_has_one_for_each_stage_and_a_background(stages, class_loss):
    predictors = [Predictor(nn.Linear(C, 4), class_loss) for _ in range(stages)]
    found = linear_classifiers(detector(*predictors), "this")
    assert found.task is BOXES and found.num_classes == 3
    assert found.layers == [predictor.cls_score for predictor in predictors]


def test_any_softmax_will_do():
    focal = Focal(4, gamma=2.0)
    assert linear_classifiers(image_classifier(class_loss=focal), "this").num_classes == 4


def sigmoids() -> Equalization:
    return Equalization(3, background=True, tail=None)


def with_sigmoid_of_detectron2() -> Predictor:
    """As newer versions of detectron2 say it."""
    predictor = Predictor(nn.Linear(C, 4))
    predictor.use_sigmoid_ce = True
    return predictor


def second_stage(model: nn.Module, path: str = "") -> nn.Module:
    """The model, in which the module at a path says that it trains something."""
    model.get_submodule(path).trained_module_names = ("calibration",)
    return model


REFUSED = {
    "another model": (lambda: nn.Linear(C, 3), ["Linear"]),
    "cosines of images": (
        lambda: image_classifier(CosineLinear(C, 4)),
        ["ImageClassifier", "CosineLinear"],
    ),
    "no bias": (lambda: image_classifier(nn.Linear(C, 4, bias=False)), ["ImageClassifier"]),
    "sigmoids of images": (
        lambda: image_classifier(class_loss=Equalization(4, tail=None)),
        ["ImageClassifier", "softmax"],
    ),
    "a 3x3 convolution": (
        lambda: segmentor(Head(predictor=nn.Conv2d(C, 3, 3))),
        ["Head", "Conv2d", "1x1"],
    ),
    "no predictor": (lambda: segmentor(Head(classifier=nn.Conv2d(C, 3, 1))), ["Head", "NoneType"]),
    "one stage with cosines": (
        lambda: detector(Predictor(nn.Linear(C, 4)), Predictor(CosineLinear(C, 4))),
        ["Predictor", "CosineLinear"],
    ),
    "one stage with sigmoids": (
        lambda: detector(Predictor(nn.Linear(C, 4)), Predictor(nn.Linear(C, 4), sigmoids())),
        ["Predictor", "softmax"],
    ),
    "sigmoids of detectron2": (
        lambda: detector(with_sigmoid_of_detectron2()),
        ["Predictor", "softmax"],
    ),
    "no box head": (detector, ["NoneType"]),
    "a second stage": (lambda: second_stage(image_classifier()), ["ImageClassifier"]),
    "a head of a second stage": (
        lambda: second_stage(segmentor(Head(predictor=nn.Conv2d(C, 3, 1))), "sem_seg_head"),
        ["Head"],
    ),
}


@pytest.mark.parametrize(("build", "parts"), REFUSED.values(), ids=REFUSED)
def test_models_without_one_are_refused_with_what_they_have(build, parts):
    with raises_naming(ValueError, "METHOD of the test", *parts):
        linear_classifiers(build(), "METHOD of the test")


def test_a_model_that_trains_all_of_itself_is_a_first_stage():
    model = image_classifier()
    model.trained_module_names = ()
    assert linear_classifiers(model, "this").layers == [model.classifier]
