# SPDX-License-Identifier: Apache-2.0
"""The config keys of label-aware smoothing."""

from detectron2.config import CfgNode


def add_label_aware_smoothing_config(cfg: CfgNode) -> None:
    """Add ``MODEL.LABEL_AWARE_SMOOTHING`` to ``cfg``."""
    cfg.MODEL.LABEL_AWARE_SMOOTHING = CfgNode()
    node = cfg.MODEL.LABEL_AWARE_SMOOTHING
    # Smoothing of the most frequent class, epsilon_1 in the paper, in [0, 1].
    node.HEAD = 0.4
    # Smoothing of the rarest class, epsilon_K, in [0, HEAD].
    node.TAIL = 0.1
