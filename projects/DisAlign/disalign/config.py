# SPDX-License-Identifier: Apache-2.0
"""The config keys of DisAlign."""

from detectron2.config import CfgNode


def add_disalign_config(cfg: CfgNode) -> None:
    """Add ``MODEL.DISALIGN`` to ``cfg``.

    The second stage is on when ``MODEL.META_ARCHITECTURE`` is ``DisAlignRCNN`` or
    ``DisAlignImageClassifier``, or ``MODEL.SEM_SEG_HEAD.NAME`` is ``DisAlignSemSegHead``;
    ``MODEL.WEIGHTS`` then names the first stage's checkpoint.
    """
    cfg.MODEL.DISALIGN = CfgNode()
    node = cfg.MODEL.DISALIGN
    # rho in Eq. 11, >= 0: 0 weighs all samples alike (no re-weighting), 1 all classes.
    # The paper: 0.8 on LVIS, 0.3 on ADE20K, 1.2 (linear) and 1.5 (cosine) in classification.
    node.RHO = 0.8
    # What is learned, for the ablation of Tables 5 and 12: alpha, beta, sigma(x) (otherwise 1).
    node.MAGNITUDE = True
    node.MARGIN = True
    node.CONFIDENCE = True
    # Where alpha and beta start: "identity", alpha = 1 (Eq. 6: 0) and beta = 0, as in the paper; or
    # "prior", beta_j = log w_j of Eq. 11, which turns the posterior of a classifier that fits its
    # training set into that of the reference distribution.
    node.INIT = "identity"
    # The equation of the calibrated scores, which the paper prints in two ways that differ: "eq5",
    # (1 - sigma + sigma alpha) z + sigma beta; or "eq6", (1 + sigma alpha) z + sigma beta.
    node.FORM = "eq5"
    # sigma(x) is the sigmoid of a linear layer, "linear"; or "released", of ReLU of batch
    # normalisation of one without bias, as in the release's segmentation head: at least 1/2.
    node.CONFIDENCE_BRANCH = "linear"
    # A bias in the confidence's linear layer, as released; the paper prints none.
    node.CONFIDENCE_BIAS = True
    # True: the loss is sum(w l) / sum(w); False: sum(w l) / N, as printed in Eq. 9, with N the
    # samples that have a label.
    node.WEIGHTED_MEAN = True
    # Count a class without training samples as one sample; otherwise it is an error.
    node.CLAMP_ZERO_COUNTS = False
    # Semantic segmentation: the head to calibrate, as MODEL.SEM_SEG_HEAD.NAME of the first stage
    # (RegionRebalanceHead is one), and its submodule that maps pixel features to classes.
    node.BASE_HEAD_NAME = "SeparableDeepLabV3PlusHead"
    node.PIXEL_CLASSIFIER = "predictor"
    # Folder written by longtail cache-roi-features: train on its features instead of images.
    node.ROI_FEATURE_CACHE = ""
    # How such a cache holds features: "float32", or "float16", half the size. Trainings read both
    # as float32; a cache of one is refused where the other is set.
    node.ROI_FEATURE_DTYPE = "float32"
