# SPDX-License-Identifier: Apache-2.0
"""ROI heads of the second stage: box classifiers with a calibration, on frozen features."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY

from longtail.data.statistics.counting import frequency_bounds
from longtail.data.statistics.groups import frequency_groups
from longtail.modeling.roi_heads import FrozenCascadeROIHeads, FrozenROIHeads

from .fast_rcnn import DisAlignFastRCNNOutputLayers
from .reference import calibration_arguments


class _SecondStage:
    """The common part of Mask R-CNN's and Cascade R-CNN's second stages."""

    predictor_class = DisAlignFastRCNNOutputLayers

    @classmethod
    def predictor_arguments(cls, cfg: CfgNode) -> dict[str, Any]:
        """Class weights of Eq. 11, frequency groups of the training set, and options."""
        arguments = calibration_arguments(
            cfg,
            "instance_count",
            cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            lambda stats: frequency_groups(stats.image_count, frequency_bounds(cfg.DATASETS.TRAIN)),
        )
        return {**super().predictor_arguments(cfg), **arguments}


@ROI_HEADS_REGISTRY.register()
class DisAlignROIHeads(_SecondStage, FrozenROIHeads):
    """Mask R-CNN's heads with a calibrated box classifier."""


@ROI_HEADS_REGISTRY.register()
class DisAlignCascadeROIHeads(_SecondStage, FrozenCascadeROIHeads):
    """Cascade R-CNN's heads; every stage has its own calibration."""
