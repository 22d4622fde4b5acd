"""Fast R-CNN's output layers with a linear or a cosine classifier."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

from longtail.modeling.cosine import CosineLinear

CLASSIFIERS = ("linear", "cosine")


class LongTailFastRCNNOutputLayers(FastRCNNOutputLayers):
    """detectron2's output layers; ``cls_score`` is linear or a :class:`CosineLinear`."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, classifier: str = "linear", **kwargs) -> None:
        """
        Args:
            input_shape: shape of the box features, (C,) or (C, H, W).
            classifier: ``"linear"`` or ``"cosine"``.
            kwargs: as for detectron2's FastRCNNOutputLayers.

        Raises:
            ValueError: another classifier.
        """
        super().__init__(input_shape, **kwargs)
        if classifier not in CLASSIFIERS:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.CLASSIFIER must be one of {CLASSIFIERS}, got {classifier!r}"
            )
        if classifier == "cosine":
            linear = self.cls_score
            self.cls_score = CosineLinear(linear.in_features, linear.out_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "classifier": cfg.MODEL.ROI_BOX_HEAD.CLASSIFIER}
