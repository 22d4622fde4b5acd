# SPDX-License-Identifier: Apache-2.0
"""timm's vision transformers with few channels and blocks: the same code, quickly."""

import pytest
from timm.models import beit, eva, vision_transformer

DINOV2, DINOV3 = "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"
CLIP = "vit_base_patch16_clip_224"
CHANNELS = 32
BLOCKS = 4


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm build all of them with 32 channels, 4 blocks and 2 heads."""
    for kind in (vision_transformer.VisionTransformer, eva.Eva, beit.Beit):
        whole = kind.__init__

        def small(self, *args, whole=whole, **options):
            options |= {"embed_dim": CHANNELS, "depth": BLOCKS, "num_heads": 2}
            whole(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", small)
