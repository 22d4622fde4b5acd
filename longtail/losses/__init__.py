"""Losses of a classifier, the same for images, pixels and boxes."""

from longtail.losses.build import (
    BOXES,
    CLASS_LOSS_REGISTRY,
    EVERYWHERE,
    IMAGES,
    PIXELS,
    ClassLoss,
    LossTask,
    SampleMeanLoss,
    build_class_loss,
    check_cosine,
    class_loss_names,
    loss_option,
    register_class_loss,
)
from longtail.losses.groups import BalancedGroupSoftmax
from longtail.losses.sigmoid import Equalization, Federated, GradientEqualization, SigmoidLoss
from longtail.losses.softmax import LDAM, CrossEntropy, Focal, Seesaw, SoftmaxEqualization

__all__ = [
    "BOXES",
    "CLASS_LOSS_REGISTRY",
    "EVERYWHERE",
    "IMAGES",
    "LDAM",
    "PIXELS",
    "BalancedGroupSoftmax",
    "ClassLoss",
    "CrossEntropy",
    "Equalization",
    "Federated",
    "Focal",
    "GradientEqualization",
    "LossTask",
    "SampleMeanLoss",
    "Seesaw",
    "SigmoidLoss",
    "SoftmaxEqualization",
    "build_class_loss",
    "check_cosine",
    "class_loss_names",
    "loss_option",
    "register_class_loss",
]
