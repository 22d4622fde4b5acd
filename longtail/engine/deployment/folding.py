# SPDX-License-Identifier: Apache-2.0
"""Folding what a second stage has learned into the baseline's weights.

Shape alphabet:
    C: channels of a classifier's input feature
    K: classes
"""

import copy

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from longtail.config import Folding, deployed_config, get_value, installed_projects, set_value
from longtail.modeling.backbone.lora import merge_lora
from longtail.modeling.classification import RetrainedImageClassifier, ScaledImageClassifier

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


@torch.no_grad()
def fold_scaling(model: ScaledImageClassifier) -> None:
    """Multiply the rows and biases of the classifier by the factors of LWS, in place.

    Raises:
        ValueError: the classifier is not a linear layer.
    """
    layer, factor = model.classifier, model.scaling.factor
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"the scaling cannot be folded into a {type(layer).__name__}: only a linear layer "
            "takes a factor for each class"
        )
    weight, bias = fold_linear(layer.weight, layer.bias, factor, torch.zeros_like(factor))
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


OWN_FOLDINGS = (
    *(
        Folding("MODEL.META_ARCHITECTURE", name, lambda cfg: "ImageClassifier", fold)
        for name, fold in (
            (RetrainedImageClassifier.__name__, fold_retrained),
            (ScaledImageClassifier.__name__, fold_scaling),
        )
    ),
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
