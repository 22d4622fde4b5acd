"""Any timm model with a feature pyramid as a detectron2 backbone."""

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import Format, freeze_batch_norm_2d
from timm.models import FeatureInfo
from torch import Tensor

from .pretrained import load_pretrained

# The last level of a feature pyramid has stride 2^5 = 32 before any dilation.
LAST_LEVEL = 5


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """A timm model that returns detectron2's named feature maps.

    Levels are named as in detectron2: ``res2`` .. ``res5`` are the maps that have strides 4, 8, 16
    and 32 in the classification network, whatever ``output_stride`` makes of them.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        output_stride: int = 32,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        pretrained: str = "",
        freeze_bn: bool = False,
    ) -> None:
        """
        Args:
            name: timm's name of the model, such as ``resnet50c``.
            output_stride: stride of the last level, 8, 16 or 32; below 32 strides become
                dilations.
            out_features: names of the levels to return.
            pretrained: initial weights, see :func:`.pretrained.load_pretrained`.
            freeze_bn: batch normalisation with fixed statistics, scale and shift, in training as
                in testing. Tensors keep their names, so that checkpoints fit either way; what
                frozen layers lack is ``num_batches_tracked``. Other normalisations stay.

        Raises:
            ValueError: timm has no such model, or the model no such level or output stride.
        """
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(
                f"MODEL.TIMM.NAME: timm {timm.__version__} has no model {name!r}: "
                "timm.list_models() lists them"
            )
        # The default is not passed on: models with a fixed stride reject the argument.
        options = {} if output_stride == 32 else {"output_stride": output_stride}
        levels = _feature_info(name, options)
        first = LAST_LEVEL - len(levels) + 1
        known = [f"res{first + i}" for i in range(len(levels))]
        if not out_features or not set(out_features) <= set(known):
            raise ValueError(
                f"MODEL.TIMM.OUT_FEATURES: {name} has the levels {known}, got {list(out_features)}"
            )
        indices = sorted(known.index(level) for level in out_features)
        self.model = timm.create_model(
            name, features_only=True, out_indices=tuple(indices), **options
        )
        load_pretrained(self.model, name, pretrained)
        if freeze_bn:
            # detectron2's FrozenBatchNorm2d would drop the activation of timm's BatchNormAct2d.
            self.model = freeze_batch_norm_2d(self.model)
        # Swin and its kin return (N, H, W, C).
        self.channels_last = getattr(self.model, "output_fmt", None) == Format.NHWC
        self._out_features = [known[i] for i in indices]
        self._out_feature_channels = {known[i]: levels.channels(i) for i in indices}
        self._out_feature_strides = {known[i]: levels.reduction(i) for i in indices}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {
            "name": cfg.MODEL.TIMM.NAME,
            "output_stride": cfg.MODEL.TIMM.OUTPUT_STRIDE,
            "out_features": tuple(cfg.MODEL.TIMM.OUT_FEATURES),
            "pretrained": cfg.MODEL.TIMM.PRETRAINED,
            "freeze_bn": cfg.MODEL.TIMM.NORM == "FrozenBN",
        }

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the largest stride: then all levels align."""
        return max(self._out_feature_strides.values())

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised images to a map (N, C_level, H / stride, W / stride) a level."""
        maps = self.model(image)
        if self.channels_last:
            maps = [level.permute(0, 3, 1, 2).contiguous() for level in maps]
        return dict(zip(self._out_features, maps, strict=True))


def _feature_info(name: str, options: dict[str, int]) -> FeatureInfo:
    """Channels and strides of all levels of a model."""
    if options and options["output_stride"] not in (8, 16):
        raise ValueError(
            f"MODEL.TIMM.OUTPUT_STRIDE must be 8, 16 or 32, got {options['output_stride']}"
        )
    try:
        return timm.create_model(name, features_only=True, **options).feature_info
    except TypeError:
        if not options:
            raise
        raise ValueError(
            f"MODEL.TIMM.OUTPUT_STRIDE: {name} has output stride 32 alone, "
            f"got {options['output_stride']}"
        ) from None
