# SPDX-License-Identifier: Apache-2.0
"""Finding the linear classifiers of a trained model, whatever its task.

Shape alphabet:
    C: channels of a classifier's input feature
    K: classes
    D: outputs of a classifier; K, or K + 1 with the background last
"""

from dataclasses import dataclass

from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from torch import nn

from longtail.losses import BOXES, IMAGES, PIXELS, LossTask
from longtail.utils.detectron2 import has_sigmoid

from .classification import ImageClassifier
from .sem_seg.wrapping import innermost


@dataclass(frozen=True)
class LinearClassifiers:
    """The linear classifiers of a model, one for each stage of a cascade, otherwise one.

    Attributes:
        task: what is classified.
        layers: linear layers or 1x1 convolutions with a bias; weight (D, C) or (D, C, 1, 1).
        num_classes: K.
    """

    task: LossTask
    layers: list[nn.Linear | nn.Conv2d]
    num_classes: int


def linear_classifiers(model: nn.Module, purpose: str) -> LinearClassifiers:
    """The layers of a model whose outputs are the logits of a softmax over its classes.

    Args:
        model: an image classifier, a semantic segmentor or a detector.
        purpose: what they are wanted for, for the error: "<purpose> has no linear classifier".

    Raises:
        ValueError: the model has none: its logits are cosines or changed by a second stage, its
            probabilities are not a softmax, or it is of another kind.
    """
    for module in model.modules():
        if getattr(module, "trained_module_names", ()):
            raise _none(purpose, f"{type(module).__name__} is a second stage: take the first one")
    if isinstance(model, ImageClassifier):
        owners, layers, task = [model], [model.classifier], IMAGES
    elif isinstance(model, SemanticSegmentor):
        head = innermost(model.sem_seg_head)
        owners, layers, task = [head], [getattr(head, "predictor", None)], PIXELS
    elif isinstance(model, GeneralizedRCNN):
        predictors = getattr(model.roi_heads, "box_predictor", None)
        owners = list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]
        layers, task = [getattr(owner, "cls_score", None) for owner in owners], BOXES
    else:
        raise _none(purpose, f"{type(model).__name__} is not a model for which it is known")
    for owner, layer in zip(owners, layers, strict=True):
        _check(purpose, owner, layer)
    outputs = layers[0].weight.shape[0]
    return LinearClassifiers(task, layers, outputs - task.background)


def is_linear(layer: nn.Module | None) -> bool:
    """Tell whether a layer is linear in the feature, or in every pixel's, and has a bias."""
    linear = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    )
    return linear and layer.bias is not None


def _check(purpose: str, owner: nn.Module, layer: nn.Module | None) -> None:
    """Refuse a classifier that is not a linear one with a softmax.

    Raises:
        ValueError: a layer is not a linear classifier of softmax logits.
    """
    if not is_linear(layer):
        raise _none(
            purpose,
            f"that of {type(owner).__name__} is a {type(layer).__name__}, expected a linear layer "
            "or a 1x1 convolution, with a bias",
        )
    loss = getattr(owner, "class_loss", None)
    if (loss is not None and not loss.is_softmax) or has_sigmoid(owner):
        raise _none(purpose, f"the probabilities of {type(owner).__name__} are no softmax")


def _none(purpose: str, why: str) -> ValueError:
    return ValueError(f"{purpose}: the model has no linear classifier to change; {why}")
