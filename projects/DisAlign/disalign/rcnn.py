# SPDX-License-Identifier: Apache-2.0
"""The second stage of a detector: everything frozen but the calibration."""

from detectron2.modeling import META_ARCH_REGISTRY

from longtail.modeling import SecondStageRCNN

from .calibrated import NO_DECAY, TRAINED


@META_ARCH_REGISTRY.register()
class DisAlignRCNN(SecondStageRCNN):
    """Mask or Cascade R-CNN with calibrated class scores.

    It takes the config of the first stage, and by itself exchanges the ROI heads for those with a
    calibration.
    """

    trained_module_names = TRAINED
    no_decay_params = NO_DECAY
    second_stage_heads = {  # noqa: RUF012  (a Mapping, which nothing changes)
        "LongTailROIHeads": "DisAlignROIHeads",
        "LongTailCascadeROIHeads": "DisAlignCascadeROIHeads",
    }
