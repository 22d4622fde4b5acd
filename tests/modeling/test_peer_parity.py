# SPDX-License-Identifier: Apache-2.0
"""Our models compute what mmsegmentation's do with the same weights.

The weights are random, under mmsegmentation's names; the references read them by these names and
compute from definitions. benchmarks/peer_parity.py compares with mmsegmentation itself, at full
size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.engine import Trainer
from longtail.engine.inference.sliding_window import SlidingWindowInference
from longtail.modeling.conversion import from_peer, to_peer
from tests.references.mmseg_backbones import hrnet_maps, resnet_maps
from tests.references.mmseg_heads import (
    deeplabv3plus_logits,
    fcn_logits,
    ocr_logits,
    psp_logits,
    uper_logits,
)
from tests.references.mmseg_layers import State
from tests.references.mmseg_transformers import beit_maps, swin_maps
from tests.tiny import tiny_config

TOLERANCE = 1e-12
LEVELS = ["res2", "res3", "res4", "res5"]
BEIT_BLOCKS = [0, 1, 2, 3]


class Peer(NamedTuple):
    """A model, the references of its two parts, and image sizes: aligned first."""

    options: dict
    maps: Callable[[State, Tensor], list[Tensor]]
    logits: Callable[[State, list[Tensor]], Tensor | tuple[Tensor, Tensor]]
    sizes: tuple[tuple[int, int], ...] = ((64, 64), (45, 70))


PEERS = {
    "FCN, ResNet v1c, stride 8": Peer(
        {"TIMM.NAME": "resnet50c", "TIMM.OUTPUT_STRIDE": 8, "SEM_SEG_HEAD.NAME": "FCNHead"},
        lambda state, x: resnet_maps(state, x, output_stride=8),
        lambda state, maps: fcn_logits(state, maps[-1]),
    ),
    "UPer, ResNet v1c, stride 32": Peer(
        {"TIMM.NAME": "resnet50c", "SEM_SEG_HEAD.NAME": "UPerHead"},
        lambda state, x: resnet_maps(state, x, output_stride=32),
        uper_logits,
    ),
    "DeepLabV3+, ResNeSt, stride 8": Peer(
        {
            "TIMM.NAME": "resnest14d",
            "TIMM.OUTPUT_STRIDE": 8,
            "SEM_SEG_HEAD.NAME": "SeparableDeepLabV3PlusHead",
            "SEM_SEG_HEAD.IN_FEATURES": ["res2", "res5"],
            "SEM_SEG_HEAD.PROJECT_CHANNELS": [5],
        },
        lambda state, x: resnet_maps(state, x, output_stride=8),
        deeplabv3plus_logits,
    ),
    "PSP, ResNeSt, stride 32": Peer(
        {"TIMM.NAME": "resnest14d", "SEM_SEG_HEAD.NAME": "PSPHead"},
        lambda state, x: resnet_maps(state, x, output_stride=32),
        psp_logits,
    ),
    "OCR, HRNet": Peer(
        {
            "TIMM.NAME": "hrnet_w18_small",
            "SEM_SEG_HEAD.NAME": "OCRHead",
            "SEM_SEG_HEAD.OCR_CHANNELS": 5,
            "SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT": 0.0,
        },
        hrnet_maps,
        ocr_logits,
    ),
    "UPer, Swin": Peer(
        {"TIMM.NAME": "swin_tiny_patch4_window7_224", "SEM_SEG_HEAD.NAME": "UPerHead"},
        swin_maps,
        uper_logits,
        # 224: whole windows everywhere, the last map being a single one.
        sizes=((224, 224), (45, 70)),
    ),
    "UPer, BEiT": Peer(
        {
            "BACKBONE.NAME": "TimmPlainBackbone",
            "TIMM.NAME": "beit_base_patch16_224",
            "TIMM.IMAGE_SIZE": 64,
            "TIMM.OUT_BLOCKS": BEIT_BLOCKS,
            "SEM_SEG_HEAD.NAME": "UPerHead",
        },
        lambda state, x: beit_maps(state, x, BEIT_BLOCKS),
        uper_logits,
        # The peer has one grid of patches, that of its tables, 4 x 4; a rest fills no patch.
        sizes=((64, 64), (70, 79)),
    ),
}


class Reading(dict):
    """A state dict that remembers which of its tensors were read."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Tensor | None = None) -> Tensor | None:
        if key in self:
            self.read.add(key)
        return super().get(key, default)


def randomized(state: State) -> dict[str, Tensor]:
    """Random weights, statistics and tables, in float64, that keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for key, tensor in state.items():
        last = key.rpartition(".")[2]
        shape, dtype = tensor.shape, torch.float64
        if not tensor.is_floating_point():
            result[key] = tensor
        elif last == "running_var" or (
            tensor.ndim == 1 and last in ("weight", "gamma_1", "gamma_2")
        ):
            result[key] = 0.2 + torch.rand(shape, generator=generator, dtype=dtype)
        else:
            scale = tensor[0].numel() ** -0.5 if last == "weight" else 0.3
            result[key] = scale * torch.randn(shape, generator=generator, dtype=dtype)
    return result


def assert_same(own: Tensor, reference: Tensor) -> None:
    assert own.shape == reference.shape
    difference = (own - reference).abs().max() / reference.abs().max()
    assert difference < TOLERANCE


def own_logits(head: torch.nn.Module, maps: dict[str, Tensor]) -> list[Tensor]:
    """The coarse logits where there are any, the logits, the auxiliary head's logits."""
    features, coarse = head.stages(maps)
    logits = [*coarse.values(), head.predictor(features)]
    if head.auxiliary is not None:
        logits.append(head.auxiliary.predictor(head.auxiliary.pixel_features(maps)))
    return logits


def reference_logits(peer: Peer, state: State, maps: list[Tensor]) -> list[Tensor]:
    """The first stage's where there is one, and the head's, at the size of their maps."""
    logits = peer.logits(state, maps)
    return list(logits) if isinstance(logits, tuple) else [logits]


def build(folder: Path, peer: Peer) -> tuple[torch.nn.Module, Reading]:
    """Our model in float64, and its tensors under the peer's names."""
    defaults = {
        "TIMM.OUTPUT_STRIDE": 32,
        "TIMM.OUT_FEATURES": LEVELS,
        "SEM_SEG_HEAD.IN_FEATURES": LEVELS,
        "SEM_SEG_HEAD.PAD_TO_STRIDE": False,
        "SEM_SEG_HEAD.DROPOUT": 0.0,
    }
    cfg = tiny_config(folder)
    cfg.MODEL.merge_from_list([x for item in (defaults | peer.options).items() for x in item])
    model = Trainer.build_model(cfg).double().eval()
    own_state = model.state_dict()
    state = Reading(randomized(to_peer(own_state)))
    model.load_state_dict(from_peer(state, own_state))
    return model, state


each_peer = pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS.keys())


@each_peer
@torch.no_grad()
def test_maps_and_logits(tmp_path, peer):
    model, state = build(tmp_path, peer)
    state.read.clear()

    for index, size in enumerate(peer.sizes):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        maps = model.backbone(image)
        expected = peer.maps(state, image)
        for level, other in zip(maps.values(), expected, strict=True):
            assert_same(level, other)
        logits = reference_logits(peer, state, expected)
        if model.sem_seg_head.auxiliary is not None:
            logits.append(fcn_logits(state, expected[2], "auxiliary_head"))
        for own, other in zip(own_logits(model.sem_seg_head, maps), logits, strict=True):
            assert_same(own, other)
    assert state.read == {key for key in state if not key.endswith("num_batches_tracked")}


def images_of(size: tuple[int, int], count: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    shape = (3, *size)
    return [torch.randint(0, 256, shape, generator=generator).byte() for _ in range(count)]


def normalized(images: list[Tensor]) -> Tensor:
    """By the statistics of ImageNet, which are kept in float32."""
    mean, std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]).double()
    return (torch.stack(images) - mean[:, None, None]) / std[:, None, None]


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


@each_peer
@torch.no_grad()
def test_whole_models(tmp_path, peer):
    """From images in [0, 255] to logits at the size of the original, at once and in windows.

    Images are not padded, and the logits of a window or an image are resized from the size of the
    maps to its own; then those of the image to the original's.
    """
    model, state = build(tmp_path, peer)

    def expected_of(image: Tensor) -> Tensor:
        maps = peer.maps(state, normalized([image]))
        return resized(reference_logits(peer, state, maps)[-1], image.shape[1:])

    for size in peer.sizes:
        (image,), original = images_of(size), (size[0] + 7, 2 * size[1])
        record = {"image": image, "height": original[0], "width": original[1]}
        expected = expected_of(image)
        assert_same(model([record])[0]["sem_seg"], resized(expected, original)[0])
        assert_same(model([{"image": image}])[0]["sem_seg"], expected[0])

    # Two windows side by side, the second moved back inside.
    height, width = peer.sizes[-1]
    (image,) = images_of((height, width + 9))
    left, right = expected_of(image[..., :width]), expected_of(image[..., 9:])
    total = F.pad(left, (0, 9)) + F.pad(right, (9, 0))
    count = torch.tensor([1.0] * 9 + [2.0] * (width - 9) + [1.0] * 9, dtype=torch.float64)
    slide = SlidingWindowInference(model, (height, width), (height, width))
    assert_same(slide([{"image": image}])[0]["sem_seg"], (total / count)[0])


@each_peer
def test_the_losses_of_crops_of_any_size(tmp_path, peer):
    """Cross-entropy of logits that are resized to the labels; nothing is padded."""
    model, state = build(tmp_path, peer)
    # Statistics of the batch are none of the references'.
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    images = images_of(peer.sizes[-1], count=2)
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (2, *peer.sizes[-1]), generator=generator)
    labels[0, :9] = 255
    batch = [{"image": x, "sem_seg": y} for x, y in zip(images, labels, strict=True)]
    losses = model(batch)

    maps = peer.maps(state, normalized(images))
    *coarse, logits = reference_logits(peer, state, maps)
    expected = {"loss_sem_seg": (logits, 1.0)}
    if coarse:
        expected["loss_coarse"] = (coarse[0], 0.4)
    else:
        expected["loss_auxiliary"] = (fcn_logits(state, maps[2], "auxiliary_head"), 0.4)
    assert losses.keys() == expected.keys()
    for name, (z, weight) in expected.items():
        loss = F.cross_entropy(resized(z, labels.shape[1:]), labels, ignore_index=255)
        # Losses are computed in float32.
        torch.testing.assert_close(losses[name].double(), weight * loss, rtol=1e-5, atol=0)
