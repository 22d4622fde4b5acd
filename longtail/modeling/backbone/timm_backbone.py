# SPDX-License-Identifier: Apache-2.0
"""Any timm model with a feature pyramid as a detectron2 backbone."""

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.layers import Format
from timm.models.hrnet import HighResolutionNetFeatures
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.utils.errors import first_line

from .base import StridedBackbone
from .freezing import NORMS, freeze_batch_norm, freeze_modules, paths_up_to_level
from .hrnet import HRNET_OPTIONS, LAST_MODULES, adapt_hrnet
from .lora import Lora
from .pretrained import check_name, create_model
from .resnest import adapt_resnest
from .swin import SWIN_OPTIONS, adapt_swin

# The last level of a feature pyramid has stride 2^5 = 32 before any dilation.
LAST_LEVEL = 5


@BACKBONE_REGISTRY.register()
class TimmBackbone(StridedBackbone):
    """A timm model that returns detectron2's named feature maps.

    Levels are named as in detectron2: ``res2`` .. ``res5`` are the maps that have strides 4, 8, 16
    and 32 in the classification network, whatever ``output_stride`` makes of them; ``res1``, where
    there is one, is the stem's.

    Where timm differs from what is established in semantic segmentation, the model is adapted:
    :mod:`.hrnet`, :mod:`.resnest`, :mod:`.swin`; a Swin also gets a LayerNorm on each output.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        output_stride: int = 32,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        pretrained: str = "",
        norm: str = "BN",
        freeze_at: int = 0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        lora: Lora | None = None,
    ) -> None:
        """Create a timm model that returns a pyramid of feature maps.

        Args:
            name: timm's name of the model, such as ``resnet50c``.
            output_stride: stride of the last level, 8, 16 or 32; below 32 strides become
                dilations.
            out_features: names of the levels to return.
            pretrained: initial weights, see :func:`.pretrained.create_model`.
            norm: ``"BN"``, or ``"FrozenBN"`` for batch normalization with fixed statistics, scale
                and shift, in training as in testing. Other normalizations stay.
            freeze_at: what has no gradient and fixed batch normalization: 0 nothing, 1 the stem,
                2 also res2, .. 5 everything, which is then in
                evaluation mode as well.
            drop_path: rate of stochastic depth of the last block, in [0, 1).
            checkpointing: of activations, where timm can: less memory for one more forward pass.
            lora: adapters of the model's layers, all that is trained of it; None for none.

        Raises:
            ImportError: a package for adapters is missing.
            ValueError: timm does not have such a model, or the model a pyramid or this option.
        """
        super().__init__()
        look, options = _first_look(name)
        levels = _levels(name, [level["reduction"] for level in look.feature_info.info])
        if not out_features or not set(out_features) <= set(levels):
            raise ValueError(
                f"MODEL.TIMM.OUT_FEATURES: {name} has the levels {levels}, got {list(out_features)}"
            )
        indices = sorted(levels.index(level) for level in out_features)
        self._out_features = [levels[i] for i in indices]
        # Adapted, these two take images of any size.
        rounds_up = True
        if _is_swin(look):
            options |= SWIN_OPTIONS
        elif isinstance(look, HighResolutionNetFeatures):
            options |= HRNET_OPTIONS
        else:
            _check_sizes(name, look)
            rounds_up = _rounds_up(look)
        options |= {"drop_path": drop_path, "pretrained": pretrained}
        self.model = _build(name, options, indices, output_stride)
        info = self.model.feature_info
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))
        self.channels_last = _is_nhwc(self.model)
        self.norms = nn.ModuleDict()
        if _is_swin(self.model):
            for level, channels in self._out_feature_channels.items():
                self.norms[level] = nn.LayerNorm(channels)
        # HRNet's branches exchange maps, also where the last is not returned.
        self._divisibility = max(
            32 if isinstance(self.model, HighResolutionNetFeatures) else 1, *info.reduction()
        )
        self._least = 1 if rounds_up else self._divisibility
        self._freeze(name, norm, freeze_at, levels)
        if checkpointing and not self.frozen:
            _checkpoint(self.model, name)
        self.add_lora(name, lora, 2 * self._divisibility)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read MODEL.TIMM.

        Raises:
            ValueError: a NECK that only plain backbones have.
        """
        if cfg.MODEL.TIMM.NECK != "pyramid":
            raise ValueError(
                f"MODEL.TIMM.NECK {cfg.MODEL.TIMM.NECK} is for TimmPlainBackbone, TimmBackbone has "
                "levels of its own: set it to pyramid"
            )
        return {
            **cls.shared_options(cfg),
            "output_stride": cfg.MODEL.TIMM.OUTPUT_STRIDE,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images to a map (N, C_level, H / stride, W / stride) a level.

        Most models round the sizes of maps up.

        Raises:
            ValueError: the model rounds them down, and H or W is smaller than the largest stride.
        """
        self.check_size(image)
        maps = dict(zip(self._out_features, self.model(image), strict=True))
        for level, norm in self.norms.items():
            maps[level] = norm(maps[level])
        if self.channels_last:
            maps = {level: x.permute(0, 3, 1, 2).contiguous() for level, x in maps.items()}
        return maps

    def _freeze(self, name: str, norm: str, freeze_at: int, levels: list[str]) -> None:
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
            self.norms.requires_grad_(False)
        elif freeze_at:
            ends = {int(level[3:]): path for level, path in _ends(self.model, levels).items()}
            if not {int(level[3:]) for level in self._out_features} <= ends.keys():
                raise ValueError(
                    "MODEL.TIMM.FREEZE_AT: timm does not tell which modules make which level of "
                    f"{name}, got {freeze_at}: set it to 0"
                )
            freeze_modules(self.model, paths_up_to_level(self.model, ends, freeze_at))
            for level, layer in self.norms.items():
                layer.requires_grad_(int(level[3:]) > freeze_at)


def _first_look(name: str) -> tuple[nn.Module, dict]:
    """The model with all levels and without memory, and timm's options that it was built with."""
    check_name(name)
    # Swin and its kin otherwise take images of one size alone.
    options = {"strict_img_size": False}
    with torch.device("meta"):
        try:
            try:
                return timm.create_model(name, features_only=True, **options), options
            except TypeError as error:
                if "strict_img_size" not in str(error):
                    raise
                return timm.create_model(name, features_only=True), {}
        # What timm raises depends on the model.
        except Exception as error:
            raise ValueError(
                f"MODEL.TIMM.NAME: timm cannot return maps of {name}: {first_line(error)}"
            ) from error


def _levels(name: str, strides: list[int]) -> list[str]:
    """Names of levels with these strides."""
    known = [f"res{stride.bit_length() - 1}" for stride in strides]
    powers = all(stride & (stride - 1) == 0 for stride in strides)
    if len(strides) > 1 and powers and len(set(known)) == len(known):
        return known
    remedy = ""
    if len(set(strides)) == 1:
        remedy = ": TimmPlainBackbone makes one of a plain vision transformer"
    shown = sorted(set(strides))
    raise ValueError(
        f"MODEL.TIMM.NAME: {name} has no pyramid of levels whose strides are different powers of "
        f"2, its {len(strides)} levels have the strides {shown}{remedy}"
    )


def _check_sizes(name: str, look: nn.Module) -> None:
    """Look at the sizes of a model's maps for an image that is not square.

    Raises:
        ValueError: the model cannot take an image of another size than that of the classification
            network, or its maps do not have the image's size divided by their strides.
    """
    strides = look.feature_info.reduction()
    height, width = 3 * max(strides), 5 * max(strides)
    try:
        sizes = _map_sizes(look, height, width)
    # What timm raises depends on the model, and may be an assertion without a message.
    except Exception as error:
        raise ValueError(
            f"MODEL.TIMM.NAME: {name} does not take images of any size, {height} x {width} "
            f"for one: {first_line(error)}"
        ) from error
    if sizes != [(height // stride, width // stride) for stride in strides]:
        raise ValueError(
            f"MODEL.TIMM.NAME: the maps of {name} do not have their strides, {strides}: for an "
            f"image of {height} x {width} they are {sizes}"
        )


def _rounds_up(look: nn.Module) -> bool:
    """Tell whether the maps of an image of one pixel have one cell: then no image is too small."""
    try:
        return set(_map_sizes(look, 1, 1)) == {(1, 1)}
    # A kernel that is larger than the image, or what a model asserts of sizes.
    except Exception:
        return False


@torch.no_grad()
def _map_sizes(look: nn.Module, height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths of the maps of an image, seen without memory."""
    rows = slice(1, 3) if _is_nhwc(look) else slice(2, 4)
    maps = look.eval()(torch.empty(1, 3, height, width, device="meta"))
    return [tuple(x.shape[rows]) for x in maps]


def _is_nhwc(model: nn.Module) -> bool:
    """Swin and its kin return (N, H, W, C)."""
    return getattr(model, "output_fmt", None) == Format.NHWC


def _is_swin(model: nn.Module) -> bool:
    return any(isinstance(module, SwinTransformerBlock) for module in model.modules())


def _build(name: str, options: dict, indices: list[int], output_stride: int) -> nn.Module:
    """The model that returns these levels, adapted to semantic segmentation."""
    if output_stride not in (8, 16, 32):
        raise ValueError(f"MODEL.TIMM.OUTPUT_STRIDE must be 8, 16 or 32, got {output_stride}")
    # The default is not passed on: models with a fixed stride reject the argument.
    if output_stride != 32:
        options = {**options, "output_stride": output_stride}
    try:
        model = create_model(name, features_only=True, out_indices=tuple(indices), **options)
        dilated = max(model.feature_info.reduction()) <= output_stride
    except (TypeError, AssertionError, NotImplementedError) as error:
        if output_stride == 32:
            raise ValueError(
                f"MODEL.TIMM.OUT_FEATURES: timm cannot return these of {name}: {first_line(error)}"
            ) from error
        dilated = False
    if output_stride != 32 and not dilated:
        raise ValueError(
            f"MODEL.TIMM.OUTPUT_STRIDE: {name} has output stride 32 alone, got {output_stride}"
        )
    if _is_swin(model):
        adapt_swin(model)
    if isinstance(model, HighResolutionNetFeatures):
        adapt_hrnet(model, indices)
    adapt_resnest(model)
    return model


def _ends(model: nn.Module, levels: list[str]) -> dict[str, str]:
    """The path of the last module of each level that the model still has."""
    if isinstance(model, HighResolutionNetFeatures):
        return LAST_MODULES
    # timm's feature models wrap the model or flatten its containers into their own names.
    paths = {path.replace(".", "_"): path for path, _ in model.named_modules()}
    ends = {}
    for level, info in zip(levels, model.feature_info.info, strict=True):
        name = info["module"].replace(".", "_")
        for prefix in ("", "model_", "body_"):
            if prefix + name in paths:
                ends[level] = paths[prefix + name]
    return ends


def _checkpoint(model: nn.Module, name: str) -> None:
    """Recompute activations in the backward pass, block by block where timm can."""
    reason = None
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        reason = "has batch normalization, whose statistics would count every image twice"
    stages = [m for m in model.modules() if m is not model and hasattr(m, "grad_checkpointing")]
    if not stages:
        reason = reason or "has no blocks that timm can recompute"
    if reason:
        raise ValueError(f"MODEL.TIMM.CHECKPOINTING: {name} {reason}: set it to False")
    for stage in stages:
        stage.grad_checkpointing = True
