# SPDX-License-Identifier: Apache-2.0
"""One pass over a detector's training set: the logits of its RoIs.

Shape alphabet:
    R: RoIs sampled of one image
    K: foreground classes
"""

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from longtail.engine.deployment.features import one_pass
from longtail.engine.training.data_sets import build_mapper
from longtail.modeling.linear_classifiers import LinearClassifiers


@torch.no_grad()
def training_logit_moments(
    cfg: CfgNode, model: nn.Module, found: LinearClassifiers
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each class's logit over the RoIs of the training images.

    RoIs are sampled as in training (MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, POSITIVE_FRACTION) from
    the images as in testing, without augmentation, with a seed of its own. Several processes share
    the images.

    Args:
        cfg: read for DATASETS.TRAIN, INPUT and DATALOADER.NUM_WORKERS.
        model: a detector of one box head; its mode is as before afterwards.
        found: its classifier.

    Returns:
        (K,) float64 mean and (K,) float64 deviation, of all RoIs (not Bessel's).

    Raises:
        ValueError: a cascade, whose stages have RoIs of their own; no training set.
        OSError: an image cannot be read.
    """
    if len(found.layers) > 1:
        raise ValueError(
            "MODEL.POST_HOC.METHOD logn is for detectors of one box head, not for a cascade: take "
            "norcal or logit_adjustment"
        )
    loader = one_pass(cfg, _mapper(cfg))
    was_training = model.training
    model.eval()
    K = found.num_classes
    sums = torch.zeros(3, K, dtype=torch.float64)
    with torch.random.fork_rng(), EventStorage():
        torch.manual_seed(0)
        for batch in loader:
            logits = _logits(model, batch)[:, :K].double().cpu()
            sums += torch.stack([torch.ones_like(logits), logits, logits**2]).sum(dim=1)
    model.train(was_training)
    count, first, second = torch.stack(comm.all_gather(sums)).sum(dim=0)
    mean = first / count
    return mean, (second / count - mean**2).clamp(min=0).sqrt()


def _mapper(cfg: CfgNode) -> nn.Module:
    """Reads training images with their ground truth, of the size of testing."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = (cfg.INPUT.MIN_SIZE_TEST,)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CROP.ENABLED = False
    return build_mapper(cfg, cfg.DATASETS.TRAIN[0], True)


def _logits(model: nn.Module, batch: list[dict]) -> Tensor:
    """(R, K + 1) logits of the RoIs of a batch."""
    heads = model.roi_heads
    images = model.preprocess_image(batch)
    maps = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, maps, None)
    targets = [item["instances"].to(images.tensor.device) for item in batch]
    rois = heads.label_and_sample_proposals(proposals, targets)
    boxes = [item.proposal_boxes for item in rois]
    x = heads.box_head(heads.box_pooler([maps[name] for name in heads.box_in_features], boxes))
    return heads.box_predictor.cls_score(x.flatten(1))
