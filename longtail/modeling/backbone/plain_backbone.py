# SPDX-License-Identifier: Apache-2.0
"""Plain vision transformers of timm as detectron2 backbones with a pyramid."""

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.models.beit import Beit
from torch import Tensor, nn

from longtail.utils.errors import first_line

from .base import StridedBackbone
from .beit import adapt_beit, beit_maps
from .freezing import NORMS, freeze_batch_norm
from .lora import Lora
from .pretrained import check_name, create_model

LEVELS = ("res2", "res3", "res4", "res5")
NECKS = ("pyramid", "none")
# Of MODEL.TIMM.FREEZE_AT: the embedding, and everything but the neck.
EMBEDDING = 1
EVERYTHING = 5


@BACKBONE_REGISTRY.register()
class TimmPlainBackbone(StridedBackbone):
    """A vision transformer whose blocks, at four depths, become four levels.

    A neck brings the outputs of the blocks, all of the patch's stride, to a quarter of it (two
    transposed convolutions), half of it (one), the stride itself, and twice it (max-pool): strides
    4, 8, 16, 32 of patches of 16; 3.5, 7, 14, 28 of patches of 14. Without a neck all levels have
    the patch's stride, and timm's final normalization, as frozen features are read. BEiT's
    tables of relative positions and other models' absolute ones are resized for images of other
    sizes than ``image_size``. What only classification needs is left out.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        out_blocks: tuple[int, ...],
        out_features: tuple[str, ...] = LEVELS,
        pretrained: str = "",
        norm: str = "BN",
        freeze_at: int = 0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        neck: str = "pyramid",
        lora: Lora | None = None,
    ) -> None:
        """Create a plain vision transformer of timm and the neck that makes levels of it.

        Args:
            name: timm's name of the model, such as ``beit_large_patch16_512`` or
                ``vit_small_patch14_dinov2``.
            image_size: height and width that the position tables are for.
            out_blocks: the four blocks, counted from 0, whose outputs become res2 .. res5.
            out_features: names of the levels to return; later blocks than theirs are left out.
            pretrained: initial weights, see :func:`.pretrained.create_model`.
            norm: of the neck, ``"BN"`` or ``"FrozenBN"`` (fixed statistics, scale and shift).
            freeze_at: 0; 1 for the embedding without gradient: patches, positions and tokens
                besides the patches; or 5 for all but the neck, which is in evaluation mode, too.
            drop_path: rate of stochastic depth of the last block of the whole model, in [0, 1).
            checkpointing: of activations, block by block: less memory for one more forward pass.
            neck: ``"pyramid"``, or ``"none"`` for maps of the patch's stride.
            lora: adapters of the model's layers, all that is trained of it besides the neck; None
                for none.

        Raises:
            ImportError: a package for adapters is missing.
            ValueError: timm does not have such a model, or an option does not fit it.
        """
        super().__init__()
        check_name(name)
        if not out_features or not set(out_features) <= set(LEVELS):
            raise ValueError(
                f"MODEL.TIMM.OUT_FEATURES must be some of {list(LEVELS)}, got {list(out_features)}"
            )
        if norm not in NORMS:
            raise ValueError(f"MODEL.TIMM.NORM must be one of {list(NORMS)}, got {norm!r}")
        if freeze_at not in (0, EMBEDDING, EVERYTHING):
            raise ValueError(
                "MODEL.TIMM.FREEZE_AT must be 0, 1 (the embedding) or 5 (all but the neck) for "
                f"TimmPlainBackbone, got {freeze_at}"
            )
        if neck not in NECKS:
            raise ValueError(f"MODEL.TIMM.NECK must be one of {list(NECKS)}, got {neck!r}")
        patch, options = _look(name, image_size, out_blocks)
        model = create_model(name, drop_path=drop_path, pretrained=pretrained, **options)
        self._out_features = [level for level in LEVELS if level in out_features]
        self._out_blocks = [out_blocks[LEVELS.index(level)] for level in self._out_features]
        self._normalized = neck == "none"
        if self._normalized and isinstance(model.norm, nn.Identity):
            raise ValueError(
                f"MODEL.TIMM.NECK none: {name} normalizes what it has pooled, not its maps: set it "
                "to pyramid"
            )
        # Later blocks, what is not read and the classifier: nothing without a gradient.
        model.prune_intermediate_layers(
            self._out_blocks, prune_norm=not self._normalized, prune_head=True
        )
        model.patch_embed.dynamic_img_pad = True
        if isinstance(model, Beit):
            adapt_beit(model)
        model.set_grad_checkpointing(checkpointing and freeze_at != EVERYTHING)
        self.model = model
        channels = model.embed_dim
        strides = dict.fromkeys(LEVELS, patch)
        if neck == "pyramid":
            strides = {level: _number(patch * f) for level, f in FACTORS.items()}
        self._divisibility = max(strides.values())
        # Incomplete patches are padded, and one is enough where nothing is pooled.
        self._least = self._divisibility if neck == "pyramid" else 1
        self._out_feature_strides = {level: strides[level] for level in self._out_features}
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)
        scaled = self._out_features if neck == "pyramid" else ()
        self.neck = nn.ModuleDict({level: _rescale(level, channels) for level in scaled})
        if norm == "FrozenBN":
            freeze_batch_norm(self)
        if freeze_at == EVERYTHING:
            self.freeze_model()
        elif freeze_at == EMBEDDING:
            for key, parameter in self.named_parameters():
                if self.layer_of(key) == 0:
                    parameter.requires_grad_(False)
        self.add_lora(name, lora, 2 * patch)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read MODEL.TIMM.

        Raises:
            ValueError: MODEL.TIMM.OUTPUT_STRIDE is not 32.
        """
        if cfg.MODEL.TIMM.OUTPUT_STRIDE != 32:
            raise ValueError(
                "MODEL.TIMM.OUTPUT_STRIDE must be 32 for TimmPlainBackbone, whose patch and neck "
                f"make its strides, got {cfg.MODEL.TIMM.OUTPUT_STRIDE}"
            )
        return {
            **cls.shared_options(cfg),
            "image_size": cfg.MODEL.TIMM.IMAGE_SIZE,
            "out_blocks": tuple(cfg.MODEL.TIMM.OUT_BLOCKS),
            "neck": cfg.MODEL.TIMM.NECK,
        }

    @property
    def num_layers(self) -> int:
        """Number of blocks, for layer-wise learning rates."""
        return len(self.model.blocks)

    def layer_of(self, name: str) -> int:
        """Depth of a parameter, for layer-wise learning rates.

        Args:
            name: relative to the backbone, such as ``model.blocks.3.norm1.weight``.

        Returns:
            0 for the embedding, i + 1 for block i, ``num_layers + 1`` for the final normalization
            and the neck.
        """
        part, *rest = name.split(".")
        if part != "model" or rest[0] == "norm":
            return self.num_layers + 1
        return int(rest[1]) + 1 if rest[0] == "blocks" else 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images to a map (N, C, H / stride, W / stride) a level.

        Raises:
            ValueError: H or W is smaller than twice the patch, with a neck.
        """
        self.check_size(image)
        if isinstance(self.model, Beit):
            maps = beit_maps(self.model, image, self._out_blocks)
            if self._normalized:
                maps = [self.model.norm(x.movedim(1, -1)).movedim(-1, 1) for x in maps]
        else:
            maps = self.model.forward_intermediates(
                image,
                indices=self._out_blocks,
                norm=self._normalized,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        levels = dict(zip(self._out_features, maps, strict=True))
        return {
            level: self.neck[level](x) if level in self.neck else x for level, x in levels.items()
        }


# Of the patch's stride, with a neck.
FACTORS = {"res2": 0.25, "res3": 0.5, "res4": 1, "res5": 2}


def _number(stride: float) -> int | float:
    """An integer where it is one: 3.5 is a quarter of a patch of 14."""
    return int(stride) if stride == int(stride) else stride


def _rescale(level: str, channels: int) -> nn.Module:
    """Build the layers from the patch's stride to the level's."""

    def double() -> nn.Module:
        return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)

    if level == "res2":
        return nn.Sequential(double(), nn.BatchNorm2d(channels), nn.GELU(), double())
    if level == "res3":
        return double()
    return nn.Identity() if level == "res4" else nn.MaxPool2d(kernel_size=2, stride=2)


def _look(name: str, image_size: int, out_blocks: tuple[int, ...]) -> tuple[int, dict]:
    """Patch size of a model and timm's options for it, seen without memory.

    Raises:
        ValueError: it is not a plain vision transformer, or the other arguments do not fit it.
    """
    options = {"img_size": image_size, "num_classes": 0, "dynamic_img_size": True}
    if name.startswith("beit_large"):
        # LayerScale starts as in BEiT's own training, where timm has 1e-5.
        options["init_values"] = 1e-6
    with torch.device("meta"):
        try:
            try:
                look = timm.create_model(name, **options)
            except TypeError as error:
                # BEiT has only tables of relative positions, which are resized by beit.py.
                if "dynamic_img_size" not in str(error):
                    raise
                del options["dynamic_img_size"]
                look = timm.create_model(name, **options)
                if not isinstance(look, Beit):
                    raise
        # What timm raises depends on the model.
        except Exception as error:
            # An argument that it does not know is one for this.
            reason = "" if isinstance(error, TypeError) else f": {first_line(error)}"
            raise ValueError(
                f"MODEL.TIMM.NAME: {name} is not a plain vision transformer that timm lets take "
                f"images of any size{reason}"
            ) from None
    strides = {level["reduction"] for level in look.feature_info}
    if not hasattr(look, "blocks") or len(strides) > 1:
        raise ValueError(
            f"MODEL.TIMM.NAME: {name} is not a plain vision transformer, its levels have the "
            f"strides {sorted(strides)}: MODEL.BACKBONE.NAME TimmBackbone is for pyramids"
        )
    patch = strides.pop()
    if image_size < 2 * patch or image_size % patch:
        raise ValueError(
            f"MODEL.TIMM.IMAGE_SIZE must be a multiple of {name}'s patch, {patch}, and at least "
            f"{2 * patch}, got {image_size}"
        )
    blocks, depth = list(out_blocks), len(look.blocks)
    if len(blocks) != len(LEVELS) or blocks != sorted(set(blocks) & set(range(depth))):
        raise ValueError(
            f"MODEL.TIMM.OUT_BLOCKS must be {len(LEVELS)} ascending numbers of {name}'s blocks "
            f"0 .. {depth - 1}, got {blocks}"
        )
    return patch, options
