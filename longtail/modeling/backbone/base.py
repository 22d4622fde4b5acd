# SPDX-License-Identifier: Apache-2.0
"""The common part of the backbones of timm's models."""

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import Tensor, nn

from .freezing import freeze_all
from .lora import Lora, add_lora, check_used


class TunedBackbone(Backbone):
    """A timm model, ``model``, of which all is trained, a part, nothing, or low-rank adapters."""

    # Whether nothing of the model is trained.
    frozen = False

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; a frozen model stays in evaluation mode, without stochastic depth."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def freeze_model(self) -> None:
        """Train nothing of the model."""
        freeze_all(self.model)
        self.frozen = True
        self.model.eval()

    def add_lora(self, name: str, lora: Lora | None, side: int) -> None:
        """Train adapters of the model's layers, and nothing else of it.

        Args:
            name: timm's name of the model.
            lora: None for no adapters.
            side: of the smallest image, in pixels.

        Raises:
            ImportError: peft is missing.
            ValueError: the model does not have these layers, or does not call them.
        """
        if lora is None:
            return
        freeze_all(self.model)
        self.frozen = False
        add_lora(name, self.model, lora)
        self.train(self.training)
        check_used(name, self, side)


class StridedBackbone(TunedBackbone):
    """Levels of known strides, and images of a least size."""

    # The largest stride, and the least height and width of an image.
    _divisibility: int
    _least: int

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the largest stride: then all levels align."""
        return self._divisibility

    def check_size(self, image: Tensor) -> None:
        """Refuse images that are smaller than the largest stride.

        Args:
            image: (N, 3, H, W).

        Raises:
            ValueError: H or W is too small.
        """
        height, width = image.shape[2:]
        if min(height, width) < self._least:
            raise ValueError(
                f"an image must have at least {self._least} x {self._least} pixels, the largest "
                f"stride of the backbone's levels, which rounds down; got {height} x {width}"
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
            "lora": Lora.from_config(cfg),
        }
