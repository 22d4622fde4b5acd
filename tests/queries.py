# SPDX-License-Identifier: Apache-2.0
"""A small Mask2Former, bare as transformers has it and as a head, and batches for both."""

import functools

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.config import load_config

K, QUERIES, HEIGHT, WIDTH = 3, 7, 64, 96
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}
SHAPES = {key: ShapeSpec(channels=c, stride=STRIDES[key]) for key, c in CHANNELS.items()}
OPTIONS = {
    "SEM_SEG_HEAD.NAME": "Mask2FormerHead",
    "SEM_SEG_HEAD.NUM_CLASSES": K,
    "SEM_SEG_HEAD.CONVS_DIM": 32,
    "SEM_SEG_HEAD.IN_FEATURES": [*STRIDES],
    "MASK2FORMER.QUERIES": QUERIES,
    "MASK2FORMER.PIXEL_DECODER_LAYERS": 1,
    "MASK2FORMER.DECODER_LAYERS": 2,
    "MASK2FORMER.HEADS": 4,
    "MASK2FORMER.POINTS": 64,
}


def pairs(options: dict) -> list:
    """Keys of MODEL with their values, as a command line has them."""
    return [x for key, value in options.items() for x in (f"MODEL.{key}", value)]


def head_config(**overrides: object) -> CfgNode:
    """A config of the small head; keys of MODEL by name, with __ for the dot."""
    own = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config("", [*pairs({**OPTIONS, **own}), "DATASETS.TRAIN", ()])


def build(cfg: CfgNode) -> nn.Module:
    """The head that a config names."""
    torch.manual_seed(0)
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, SHAPES)


@functools.cache
def bare_state() -> dict[str, Tensor]:
    """Weights of :func:`bare_model`, none of them at a value that layers start from."""
    torch.manual_seed(3)
    return {
        k: v + 0.1 * torch.randn_like(v)
        for k, v in _bare().state_dict().items()
        if v.is_floating_point() and not k.endswith(("running_var", "empty_weight"))
    }


def bare_model() -> nn.Module:
    """transformers' own model, written out beside its documentation, with a small ResNet."""
    model = _bare()
    model.load_state_dict(bare_state(), strict=False)
    return model


def _bare() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[*CHANNELS.values()],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=K,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_queries=QUERIES,
        num_attention_heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=128,
        decoder_layers=3,
        dim_feedforward=256,
        train_num_points=64,
    )
    return Mask2FormerForUniversalSegmentation(config)


def load_bare(head: nn.Module) -> nn.Module:
    """Give a head, or what wraps one, the weights of :func:`bare_model`."""
    names = {f"mask2former.{name}" for name in head.state_dict() if "mask2former." in name}
    state = {f"mask2former.{k}": v for k, v in bare_state().items() if ".encoder.embedder" not in k}
    found = head.load_state_dict(
        {k: v for k, v in state.items() if ".pixel_level_module.encoder." not in k}, strict=False
    )
    assert not found.unexpected_keys and names
    return head


def batch() -> tuple[Tensor, Tensor]:
    """Two images, and labels: the first shows all classes, the second one; some are ignored."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, HEIGHT, WIDTH, generator=generator)
    labels = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.long)
    labels[0, :, 30:] = 1
    labels[0, 40:, 50:] = 2
    labels[1] = 2
    labels[:, :6] = 255
    return images, labels


def maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The levels of the bare model's backbone."""
    found = model.model.pixel_level_module.encoder(images).feature_maps
    return dict(zip(STRIDES, found, strict=True))
