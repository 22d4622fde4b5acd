# SPDX-License-Identifier: Apache-2.0
"""Any timm model as a backbone that returns one vector an image.

Shape alphabet:
    N: images
    C: channels of the vector
"""

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from longtail.utils.errors import first_line

from . import resnext  # noqa: F401  (registers with timm)
from .base import TunedBackbone
from .freezing import NORMS, freeze_batch_norm, freeze_modules, paths_up_to_level
from .lora import Lora
from .pretrained import check_name, create_model
from .timm_backbone import LAST_LEVEL


@BACKBONE_REGISTRY.register()
class TimmClassificationBackbone(TunedBackbone):
    """A timm model up to what enters its classifier: pooled, or made of a class token."""

    @configurable
    def __init__(
        self,
        *,
        name: str,
        image_size: int = 224,
        pretrained: str = "",
        norm: str = "BN",
        freeze_at: int = 0,
        drop_path: float = 0.0,
        lora: Lora | None = None,
    ) -> None:
        """Create a timm model without its classifier.

        Args:
            name: timm's name of the model, such as ``resnext50_32x4d``.
            image_size: side of the square images, in pixels; many models take any, and position
                tables of vision transformers are resized.
            pretrained: initial weights, see :func:`.pretrained.create_model`.
            norm: ``"BN"``, or ``"FrozenBN"`` for batch normalization with fixed statistics, scale
                and shift, in training as in testing. Other normalizations stay.
            freeze_at: what has no gradient and fixed batch normalization: 0 nothing, 1 the stem,
                2 also the level of stride 4 (a ResNet's first block), .. 4 all but the level of
                stride 32 and what follows it, 5 everything, which is then in evaluation mode as
                well.
            drop_path: rate of stochastic depth of the last block, in [0, 1).
            lora: adapters of the model's layers, all that is trained of it; None for none.

        Raises:
            ImportError: a package for adapters is missing.
            ValueError: timm does not have such a model, or the model does not take images of this
                size, make a vector of them, or have this option.
        """
        super().__init__()
        check_name(name)
        self._out_features = ["pooled"]
        channels, options = _look(name, image_size)
        self._out_feature_channels = {"pooled": channels}
        self._out_feature_strides = {"pooled": None}
        self.model = create_model(
            name, num_classes=0, drop_path=drop_path, pretrained=pretrained, **options
        )
        self._freeze(name, norm, freeze_at)
        self.add_lora(name, lora, image_size)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read MODEL.TIMM and INPUT.CLASSIFICATION.SIZE.

        Raises:
            ValueError: an option of MODEL.TIMM that is for dense prediction is set.
        """
        options = cfg.MODEL.TIMM
        for key, value in (
            ("OUTPUT_STRIDE", 32),
            ("CHECKPOINTING", False),
            ("NECK", "pyramid"),
        ):
            if options[key] != value:
                raise ValueError(
                    f"MODEL.TIMM.{key} must be {value} for TimmClassificationBackbone, "
                    f"got {options[key]}"
                )
        return {
            "name": options.NAME,
            "image_size": cfg.INPUT.CLASSIFICATION.SIZE,
            "pretrained": options.PRETRAINED,
            "norm": options.NORM,
            "freeze_at": options.FREEZE_AT,
            "drop_path": options.DROP_PATH,
            "lora": Lora.from_config(cfg),
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images to ``{"pooled": (N, C)}``."""
        return {"pooled": self.model(image)}

    def _freeze(self, name: str, norm: str, freeze_at: int) -> None:
        if norm not in NORMS:
            raise ValueError(f"MODEL.TIMM.NORM must be one of {list(NORMS)}, got {norm!r}")
        if freeze_at not in range(LAST_LEVEL + 1):
            raise ValueError(
                f"MODEL.TIMM.FREEZE_AT must be one of 0 .. {LAST_LEVEL}, got {freeze_at}"
            )
        if norm == "FrozenBN":
            freeze_batch_norm(self.model)
        if freeze_at == LAST_LEVEL:
            self.freeze_model()
        elif freeze_at:
            ends = _level_ends(self.model)
            if not ends:
                raise ValueError(
                    f"MODEL.TIMM.FREEZE_AT: timm does not tell which modules of {name} make which "
                    f"level of strides 4 to {2**LAST_LEVEL}, got {freeze_at}: set it to 0"
                )
            freeze_modules(self.model, paths_up_to_level(self.model, ends, freeze_at))


def _look(name: str, image_size: int) -> tuple[int, dict]:
    """C, and timm's options for images of this size, seen without memory."""
    try:
        output, options = _output(name, image_size), {}
    # What timm raises depends on the model, and may be an assertion without a message.
    except Exception as error:
        options = {"img_size": image_size}
        try:
            output = _output(name, image_size, **options)
        except Exception:
            raise ValueError(
                f"MODEL.TIMM.NAME: {name} does not take images of {image_size} x {image_size} "
                f"pixels (INPUT.CLASSIFICATION.SIZE): {first_line(error)}"
            ) from None
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise ValueError(f"MODEL.TIMM.NAME: {name} does not make one vector of an image")
    return output.shape[1], options


def _output(name: str, image_size: int, **options: int) -> Tensor:
    with torch.device("meta"), torch.no_grad():
        look = timm.create_model(name, num_classes=0, **options).eval()
        return look(torch.empty(1, 3, image_size, image_size))


def _level_ends(model: nn.Module) -> dict[int, str]:
    """The path of the last module by log2 of a level's stride; {} if the levels are unknown."""
    info = list(getattr(model, "feature_info", ()))
    ends = {level["reduction"].bit_length() - 1: level["module"] for level in info}
    paths = {path for path, _ in model.named_modules()}
    # A vision transformer has one stride; some models have levels that are not modules.
    known = len(ends) == len(info) and max(ends, default=0) == LAST_LEVEL
    return ends if known and paths.issuperset(ends.values()) else {}
