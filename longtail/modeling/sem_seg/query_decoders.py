# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's decoders, matching and losses from transformers, for any backbone.

Shape alphabet: see :mod:`.sem_seg.mask2former`.
"""

from collections.abc import Sequence
from types import ModuleType

from torch import nn

KEY = "MODEL.SEM_SEG_HEAD.NAME Mask2FormerHead"


class MaskFeatures(nn.Identity):
    """Where the mask features (N, C, H, W) enter the products with the queries' embeddings.

    Those products are the head's pixel classifier; they run inside of the decoder. Methods that
    want its input find it here under the name of all heads' classifiers.
    """

    def __init__(self, in_channels: int) -> None:
        """Note the number of channels, C."""
        super().__init__()
        self.in_channels = in_channels


def build_query_decoders(channels: Sequence[int], **options: object) -> nn.Module:
    """Build transformers' ``Mask2FormerForUniversalSegmentation`` without its backbone.

    Args:
        channels: of the levels that the pixel decoder is to read, from fine to coarse.
        options: further arguments of ``Mask2FormerConfig``.

    Returns:
        The model with random weights, which has all parts but ``encoder`` of its
        ``pixel_level_module``.

    Raises:
        ImportError: transformers is not installed.
    """
    transformers = _import_transformers()
    verbosity = transformers.logging.get_verbosity()
    # It warns of backbones other than Swin, here of the one that goes again.
    transformers.logging.set_verbosity_error()
    try:
        stand_in = transformers.ResNetConfig(
            embedding_size=1,
            hidden_sizes=[*channels],
            depths=[1] * len(channels),
            out_features=[f"stage{number}" for number in range(1, len(channels) + 1)],
        )
        config = transformers.Mask2FormerConfig(backbone_config=stand_in, **options)
        model = transformers.Mask2FormerForUniversalSegmentation(config)
    finally:
        transformers.logging.set_verbosity(verbosity)
    del model.model.pixel_level_module.encoder
    return model


def _import_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise ImportError(
            f'{KEY} needs transformers: run pip install "detectron2-longtail[mask2former]", or '
            "choose another head"
        ) from None
    return transformers
