# SPDX-License-Identifier: Apache-2.0
r"""Folding a calibration into the classifier that it calibrates, for deployment.

Without confidence (sigma = 1) Eq. 5 is linear in the feature, so that the classifier can take it:

.. math::

    \hat z{}_j = \alpha_j (w_j \cdot x + b_j) + \beta_j
        = (\alpha_j w_j) \cdot x + (\alpha_j b_j + \beta_j)

and likewise Eq. 6, with 1 + alpha. A confidence depends on the image and a cosine is not linear:
neither can be folded.

Shape alphabet:
    C: channels of the classifier's input feature
    K: classes (foreground classes in detection)
"""

import torch
from detectron2.modeling import SemanticSegmentor
from torch import nn

from longtail.engine.deployment.folding import fold_linear
from longtail.modeling.linear_classifiers import is_linear
from longtail.modeling.sem_seg.wrapping import innermost

from .calibration import AdaptiveCalibration
from .functional import identity_magnitude
from .image_classifier import DisAlignImageClassifier
from .rcnn import DisAlignRCNN


@torch.no_grad()
def fold_calibration(layer: nn.Module, calibration: AdaptiveCalibration) -> None:
    """Change a classifier, in place, so that its logits are the calibrated ones.

    Args:
        layer: a linear layer or a 1x1 convolution with a bias, of K outputs, or in detection of
            K + 1 with the background's last, which stays as it is.
        calibration: of K classes.

    Raises:
        ValueError: the calibration has a confidence, or the classifier is of another kind.
    """
    if calibration.confidence_layer is not None:
        raise ValueError(
            "the calibration cannot be folded into the classifier: its confidence depends on the "
            "image (MODEL.DISALIGN.CONFIDENCE True)"
        )
    if not is_linear(layer):
        raise ValueError(
            f"the calibration cannot be folded into a {type(layer).__name__}: only a linear layer "
            "or a 1x1 convolution with a bias takes it"
        )
    K = len(calibration.alpha)
    # Of Eq. 6, 1 + alpha is the factor.
    factor = calibration.alpha + (1 - identity_magnitude(calibration.form))
    layer.weight[:K], layer.bias[:K] = fold_linear(
        layer.weight[:K], layer.bias[:K], factor, calibration.beta
    )


def fold_detector(model: DisAlignRCNN) -> None:
    """:func:`fold_calibration` at every stage of the box head."""
    for predictor in model.roi_heads.predictors:
        fold_calibration(predictor.cls_score, predictor.calibration)


def fold_image_classifier(model: DisAlignImageClassifier) -> None:
    """:func:`fold_calibration` of an image classifier."""
    fold_calibration(model.classifier, model.calibration)


def fold_segmentor(model: SemanticSegmentor) -> None:
    """:func:`fold_calibration` of a :class:`.DisAlignSemSegHead`, into the pixel classifier."""
    head = model.sem_seg_head
    classifier = innermost(head).get_submodule(head.pixel_classifier)
    fold_calibration(classifier, head.calibration)


def fold_queries(model: SemanticSegmentor) -> None:
    """:func:`fold_calibration` of a :class:`.DisAlignQueryHead`, into the queries' classifier."""
    head = model.sem_seg_head
    fold_calibration(innermost(head).mask2former.class_predictor, head.calibration)
