# SPDX-License-Identifier: Apache-2.0
"""ResNeXt-152, which timm does not have."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet

# timm looks a registered model's description up under this name in its module. No weights exist.
default_cfgs = generate_default_cfgs(
    {
        "resnext152_32x4d": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def resnext152_32x4d(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNeXt-152 with 32 groups of 4 channels, for ``timm.create_model``.

    Args:
        pretrained: True ends in timm's error, that there are no weights.
        **options: of timm's ResNet.
    """
    architecture = {"block": Bottleneck, "layers": (3, 8, 36, 3), "cardinality": 32}
    return build_model_with_cfg(
        ResNet, "resnext152_32x4d", pretrained, base_width=4, **architecture, **options
    )
