# SPDX-License-Identifier: Apache-2.0
"""The project Region Rebalance, as longtail finds it."""

from longtail.config import Method, Project

from .config import add_region_rebalance_config
from .head import RegionRebalanceHead

PROJECT = Project(
    name="Region Rebalance",
    add_config=add_region_rebalance_config,
    deployed_heads={RegionRebalanceHead.__name__: "MODEL.REGION_REBALANCE.BASE_HEAD_NAME"},
    training_tensors=(f"sem_seg_head.{RegionRebalanceHead.own_module}.",),
    methods=(
        Method(
            "Region Rebalance",
            "training branch",
            "pixels",
            "MODEL.SEM_SEG_HEAD.NAME RegionRebalanceHead",
            "Classify the mean feature of every class in an image by a balanced softmax",
        ),
    ),
)
