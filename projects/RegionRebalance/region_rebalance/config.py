# SPDX-License-Identifier: Apache-2.0
"""The config keys of Region Rebalance."""

from detectron2.config import CfgNode


def add_region_rebalance_config(cfg: CfgNode) -> None:
    """Add ``MODEL.REGION_REBALANCE`` to ``cfg``.

    The branch is on when ``MODEL.SEM_SEG_HEAD.NAME`` is ``RegionRebalanceHead``.
    """
    cfg.MODEL.REGION_REBALANCE = CfgNode()
    node = cfg.MODEL.REGION_REBALANCE
    # The registered name of the semantic head that the branch is added to.
    node.BASE_HEAD_NAME = "SeparableDeepLabV3PlusHead"
    # The base head's pixel classifier, as a path of submodules ("predictor" in detectron2's heads).
    # What enters it is pooled; it may hold the dropout before its convolution.
    node.PIXEL_CLASSIFIER = "predictor"
    # lambda in Eq. 9, >= 0. The paper's best, Table 5; 0.1 to 0.3 differ little.
    node.LOSS_WEIGHT = 0.3
    # True: balanced softmax over regions, Eq. 8. False: plain cross-entropy over regions, which is
    # component I alone in the ablation of Figure 7.
    node.BALANCED = True
    # "image": a region is a class in one image, as in Eq. 7; "batch": in the whole batch (of one
    # process).
    node.SCOPE = "image"
    # How labels are brought to the resolution of the features: "nearest", or "area", which keeps
    # regions that are smaller than a feature cell.
    node.LABEL_DOWNSAMPLING = "nearest"
    # Channels of a hidden layer (1x1 + ReLU) before the region classifier; 0: one linear layer.
    node.HIDDEN_CHANNELS = 0
