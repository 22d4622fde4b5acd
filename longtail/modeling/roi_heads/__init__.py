"""ROI heads whose box classifier and its loss can be chosen."""

from .fast_rcnn import LongTailFastRCNNOutputLayers
from .roi_heads import LongTailCascadeROIHeads, LongTailROIHeads

__all__ = ["LongTailCascadeROIHeads", "LongTailFastRCNNOutputLayers", "LongTailROIHeads"]
