# SPDX-License-Identifier: Apache-2.0
"""Region Rebalance for Long-Tailed Semantic Segmentation: a train-only region branch."""

from .config import add_region_rebalance_config
from .functional import balanced_softmax_loss, pool_regions
from .head import RegionRebalanceHead

__all__ = [
    "RegionRebalanceHead",
    "add_region_rebalance_config",
    "balanced_softmax_loss",
    "pool_regions",
]
