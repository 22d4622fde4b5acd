# SPDX-License-Identifier: Apache-2.0
"""Folding what a second stage has learned into the baseline's weights.

Shape alphabet:
    C: channels of a classifier's input feature
    K: classes
"""

import copy
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

from longtail.config import Folding, deployed_config, get_value, installed_projects, set_value
from longtail.modeling import (
    RetrainedImageClassifier,
    RetrainedRCNN,
    RetrainedSemSegHead,
    ScaledImageClassifier,
    ScaledRCNN,
    ScaledSemSegHead,
)
from longtail.modeling.backbone.lora import merge_lora
from longtail.modeling.linear_classifiers import is_linear
from longtail.modeling.nearest_mean import NearestClassMean
from longtail.modeling.sem_seg.wrapping import innermost

POST_HOC_KEY = "MODEL.POST_HOC.METHOD"


def fold_linear(weight: Tensor, bias: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    r"""The layer whose logits are alpha_j z_j + beta_j.

    .. math::

        \alpha_j (w_j \cdot x + b_j) + \beta_j = (\alpha_j w_j) \cdot x + (\alpha_j b_j + \beta_j)

    Args:
        weight: (K, C, ...) of a linear layer or a 1x1 convolution.
        bias: (K,).
        alpha: (K,) factors of the logits.
        beta: (K,) terms of the logits.

    Returns:
        Weight and bias.
    """
    return weight * alpha.view(-1, *[1] * (weight.ndim - 1)), alpha * bias + beta


def fold_retrained(model: RetrainedImageClassifier) -> None:
    """Put cRT's classifier in the place of the first stage's."""
    model.classifier = model.retrained_classifier


def fold_retrained_detector(model: RetrainedRCNN) -> None:
    """:func:`fold_retrained` at every stage of the box head."""
    for predictor in model.roi_heads.predictors:
        predictor.cls_score = predictor.retrained_classifier


@torch.no_grad()
def fold_retrained_segmentor(model: SemanticSegmentor) -> None:
    """:func:`fold_retrained` of a :class:`.RetrainedSemSegHead`."""
    classifier = _pixel_classifier(model)
    classifier.weight.copy_(model.sem_seg_head.retrained_classifier.weight)
    classifier.bias.copy_(model.sem_seg_head.retrained_classifier.bias)


@torch.no_grad()
def scale_layer(layer: nn.Module, factor: Tensor) -> None:
    """Multiply the first K rows and biases of a classifier by the factors of LWS, in place.

    Args:
        layer: a linear layer or a 1x1 convolution with a bias, of K outputs, or in detection of
            K + 1 with the background's last, which stays as it is.
        factor: (K,).

    Raises:
        ValueError: the classifier is of another kind.
    """
    if not is_linear(layer):
        raise ValueError(
            f"the scaling cannot be folded into a {type(layer).__name__}: only a linear layer "
            "or a 1x1 convolution with a bias takes a factor for each class"
        )
    K = len(factor)
    layer.weight[:K], layer.bias[:K] = fold_linear(
        layer.weight[:K], layer.bias[:K], factor, torch.zeros_like(factor)
    )


def fold_scaling(model: ScaledImageClassifier) -> None:
    """:func:`scale_layer` of an image classifier."""
    scale_layer(model.classifier, model.scaling.factor)


def fold_scaled_detector(model: ScaledRCNN) -> None:
    """:func:`scale_layer` at every stage of the box head."""
    for predictor in model.roi_heads.predictors:
        scale_layer(predictor.cls_score, predictor.scaling.factor)


def fold_scaled_segmentor(model: SemanticSegmentor) -> None:
    """:func:`scale_layer` of a :class:`.ScaledSemSegHead`, into the pixel classifier."""
    scale_layer(_pixel_classifier(model), model.sem_seg_head.scaling.factor)


def _pixel_classifier(model: SemanticSegmentor) -> nn.Module:
    head = model.sem_seg_head
    return innermost(head).get_submodule(head.pixel_classifier)


def _folding(kind: type, fold: Callable[[nn.Module], None], baseline: str = "") -> Folding:
    """A model or, without the name of its baseline, a semantic head around another."""
    if baseline:
        return Folding("MODEL.META_ARCHITECTURE", kind.__name__, lambda cfg: baseline, fold)
    key = "MODEL.SEM_SEG_HEAD.NAME"
    return Folding(key, kind.__name__, lambda cfg: cfg.MODEL.SECOND_STAGE.BASE_HEAD_NAME, fold)


OWN_FOLDINGS = (
    _folding(RetrainedImageClassifier, fold_retrained, "ImageClassifier"),
    _folding(ScaledImageClassifier, fold_scaling, "ImageClassifier"),
    _folding(RetrainedRCNN, fold_retrained_detector, "GeneralizedRCNN"),
    _folding(ScaledRCNN, fold_scaled_detector, "GeneralizedRCNN"),
    _folding(RetrainedSemSegHead, fold_retrained_segmentor),
    _folding(ScaledSemSegHead, fold_scaled_segmentor),
    Folding("MODEL.TIMM.LORA.ENABLED", True, lambda cfg: False, merge_lora),
)


def foldings() -> tuple[Folding, ...]:
    """Those of longtail and of all installed projects."""
    return (*OWN_FOLDINGS, *(f for project in installed_projects() for f in project.foldings))


def foldings_of(cfg: CfgNode) -> list[Folding]:
    """The foldings of the parts that a config has."""
    return [folding for folding in foldings() if get_value(cfg, folding.key) == folding.value]


def fold(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Copy a model such that its tensors include those of the baseline that computes the same.

    Args:
        cfg: the complete config.
        model: what was trained, built from the config for inference.

    Raises:
        ValueError: there is no such baseline.
    """
    if any(isinstance(module, NearestClassMean) for module in model.modules()):
        raise ValueError(
            "the nearest class mean is no linear classifier: export it as TorchScript; of images "
            "and pixels also as ONNX, or with MODEL.POST_HOC.NCM_DISTANCE cosine"
        )
    folded = copy.deepcopy(model)
    for folding in foldings_of(cfg):
        folding.fold(folded)
    return folded


def baseline_config(cfg: CfgNode) -> CfgNode:
    """The config for inference that has neither a second stage nor a post hoc method.

    Args:
        cfg: a complete config; it is not changed.
    """
    baseline = cfg.clone()
    baseline.defrost()
    for folding in foldings_of(cfg):
        set_value(baseline, folding.key, folding.baseline(cfg))
    set_value(baseline, POST_HOC_KEY, "")
    return deployed_config(baseline)


def changes(cfg: CfgNode, baseline: CfgNode) -> list[str]:
    """Keys and values of a baseline where the config that it comes from says something else.

    Args:
        cfg: a complete config.
        baseline: its :func:`baseline_config`.
    """
    # A head for training alone is left out as well.
    keys = (*(folding.key for folding in foldings()), "MODEL.SEM_SEG_HEAD.NAME", POST_HOC_KEY)
    values = {k: (get_value(cfg, k), get_value(baseline, k)) for k in dict.fromkeys(keys)}
    return [item for key, (old, new) in values.items() if old != new for item in (key, str(new))]
