# SPDX-License-Identifier: Apache-2.0
"""Every loss of a classifier once, for images, pixels and boxes; importing registers all names."""

import longtail.losses.builders  # noqa: F401  (registers)
from longtail.losses.base import ClassLoss, SampleMeanLoss, check_cosine
from longtail.losses.build import (
    BOXES,
    EVERYWHERE,
    IMAGES,
    LOSS_REGISTRY,
    PIXELS,
    LossTask,
    build_loss,
    loss_names,
    register_loss,
)
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.groups import BalancedGroupSoftmax
from longtail.losses.pixels import DiceLoss, PixelLoss
from longtail.losses.sigmoid import (
    Equalization,
    Federated,
    GradientEqualization,
    SigmoidFocal,
    SigmoidLoss,
)
from longtail.losses.softmax import LDAM, Focal, Seesaw, SoftmaxEqualization

__all__ = [
    "BOXES",
    "EVERYWHERE",
    "IMAGES",
    "LDAM",
    "LOSS_REGISTRY",
    "PIXELS",
    "BalancedGroupSoftmax",
    "ClassLoss",
    "CrossEntropy",
    "DiceLoss",
    "Equalization",
    "Federated",
    "Focal",
    "GradientEqualization",
    "LossTask",
    "PixelLoss",
    "SampleMeanLoss",
    "Seesaw",
    "SigmoidFocal",
    "SigmoidLoss",
    "SoftmaxEqualization",
    "build_loss",
    "check_cosine",
    "loss_names",
    "register_loss",
]
