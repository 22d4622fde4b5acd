"""The pixel losses that read class statistics of the training set (Table 1).

They are registered here and not in :mod:`longtail.modeling`, which knows nothing of data sets.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.losses import PIXELS
from longtail.losses.from_statistics import effective_weights, inverse_weights, training_stats
from longtail.losses.pixels import PIXEL_LOSS_REGISTRY, PixelCrossEntropy


@PIXEL_LOSS_REGISTRY.register()
def reweighted_cross_entropy(cfg: CfgNode) -> PixelCrossEntropy:
    """Cross-entropy weighted by a power of the inverse of the training pixels of each class."""
    weights = inverse_weights(cfg, _training_counts(cfg, "pixel_count"))
    return PixelCrossEntropy(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, class_weight=weights)


@PIXEL_LOSS_REGISTRY.register()
def class_balanced(cfg: CfgNode) -> PixelCrossEntropy:
    """Cross-entropy weighted by the effective number of the training images that have a class."""
    weights = effective_weights(cfg, PIXELS)
    return PixelCrossEntropy(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, class_weight=weights)


@PIXEL_LOSS_REGISTRY.register()
def balanced_softmax_pixel_prior(cfg: CfgNode) -> PixelCrossEntropy:
    """Balanced softmax over pixels, with the pixels of each class as prior."""
    prior = _training_counts(cfg, "pixel_count")
    return PixelCrossEntropy(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, class_prior=prior)


@PIXEL_LOSS_REGISTRY.register()
def balanced_softmax_region_prior(cfg: CfgNode) -> PixelCrossEntropy:
    """Balanced softmax over pixels, with the region frequency of Eq. 7 as prior."""
    prior = _training_counts(cfg, "image_count")
    return PixelCrossEntropy(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, class_prior=prior)


def _training_counts(cfg: CfgNode, name: str) -> Tensor:
    """(K,) int64 counts of the training set."""
    return torch.as_tensor(getattr(training_stats(cfg, PIXELS, name), name))
