"""What both backbones of timm's models share."""

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import Tensor


class StridedBackbone(Backbone):
    """Levels of known strides, and images that are at least as large as the largest."""

    _divisibility: int

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the largest stride: then all levels align."""
        return self._divisibility

    def check_size(self, image: Tensor) -> None:
        """
        Args:
            image: (N, 3, H, W).

        Raises:
            ValueError: H or W is smaller than the largest stride.
        """
        height, width = image.shape[2:]
        if min(height, width) < self._divisibility:
            raise ValueError(
                f"an image must have at least {self._divisibility} x {self._divisibility} pixels, "
                f"the largest stride of the backbone's levels; got {height} x {width}"
            )

    @staticmethod
    def shared_options(cfg: CfgNode) -> dict:
        """The arguments that both take from the config in the same way."""
        return {
            "name": cfg.MODEL.TIMM.NAME,
            "out_features": tuple(cfg.MODEL.TIMM.OUT_FEATURES),
            "pretrained": cfg.MODEL.TIMM.PRETRAINED,
            "norm": cfg.MODEL.TIMM.NORM,
            "freeze_at": cfg.MODEL.TIMM.FREEZE_AT,
            "drop_path": cfg.MODEL.TIMM.DROP_PATH,
            "checkpointing": cfg.MODEL.TIMM.CHECKPOINTING,
        }
