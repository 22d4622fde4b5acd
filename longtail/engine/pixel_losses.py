"""The pixel losses that read class statistics of the training set (Table 1).

They are registered here and not in :mod:`longtail.modeling`, which knows nothing of data sets.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.data.class_stats import get_class_stats
from longtail.modeling.losses import inverse_frequency_weights
from longtail.modeling.pixel_losses import PIXEL_LOSS_REGISTRY, PixelCrossEntropy


@PIXEL_LOSS_REGISTRY.register()
def reweighted_cross_entropy(cfg: CfgNode) -> PixelCrossEntropy:
    """Cross-entropy weighted by the inverse of the training pixels of each class."""
    counts = _training_counts(cfg, "pixel_count")
    return PixelCrossEntropy(
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, class_weight=inverse_frequency_weights(counts)
    )


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
    counts = getattr(get_class_stats(cfg.DATASETS.TRAIN), name)
    found = "no label maps" if counts is None else f"{len(counts)} classes"
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if counts is None or len(counts) != expected:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.PIXEL_LOSS {cfg.MODEL.SEM_SEG_HEAD.PIXEL_LOSS} needs the {name} "
            f"of NUM_CLASSES {expected} classes, but {', '.join(cfg.DATASETS.TRAIN)} has {found}"
        )
    return torch.as_tensor(counts)
