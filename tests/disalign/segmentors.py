# SPDX-License-Identifier: Apache-2.0
"""Small semantic heads of every kind that can be a first and a second stage."""

import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from disalign.sem_seg import DisAlignSemSegHead
from torch import Tensor, nn

from longtail.config import load_config
from longtail.modeling.sem_seg.wrapping import SemSegHeadWrapper
from tests.modeling.head_contract import NARROW, STRIDES, level_shapes

K, IMAGES, HEIGHT, WIDTH = 3, 2, 32, 48
WEIGHTS = torch.tensor([0.2, 0.9, 1.9])
GROUPS = {"head": [0], "body": [1], "tail": [2]}
LEVELS = ["res2", "res3", "res4", "res5"]
# In MODEL.SEM_SEG_HEAD, by kind of head; "regions" is a region branch around DeepLabV3+.
DEEPLAB = {"NAME": "SeparableDeepLabV3PlusHead", "PROJECT_CHANNELS": [4]}
DETECTRON2 = {
    **{
        "NAME": "DeepLabV3PlusHead",
        "PROJECT_CHANNELS": [4],
        "ASPP_CHANNELS": 8,
        "COMMON_STRIDE": 4,
    },
    **{"ASPP_DILATIONS": [1, 2, 3], "ASPP_DROPOUT": 0.5, "LOSS_TYPE": "cross_entropy"},
}
KINDS = {
    "fcn": {"NAME": "FCNHead"},
    "deeplab": DEEPLAB,
    "psp": {"NAME": "PSPHead"},
    "uper": {"NAME": "UPerHead", "IN_FEATURES": LEVELS},
    "ocr": {"NAME": "OCRHead", "IN_FEATURES": LEVELS, "OCR_CHANNELS": 4},
    "detectron2's": DETECTRON2,
    "regions": DEEPLAB,
}


def head_config(kind: str, *overrides: object):
    """A first stage's config."""
    options = {
        "NUM_CLASSES": K,
        "CONVS_DIM": 8,
        "DROPOUT": 0.5,
        "AUXILIARY.CONVS_DIM": 8,
        "NORM": "BN",
    }
    options |= {"IN_FEATURES": ["res2", "res5"], **KINDS[kind]}
    base = options["NAME"]
    if kind == "regions":
        options["NAME"] = "RegionRebalanceHead"
    pairs = [x for key, value in options.items() for x in (f"MODEL.SEM_SEG_HEAD.{key}", value)]
    # Without training set the branch's loss has no prior, and the calibration's no weights.
    branch = [
        "MODEL.REGION_REBALANCE.BASE_HEAD_NAME",
        base,
        "MODEL.REGION_REBALANCE.BALANCED",
        False,
    ]
    data = ["DATASETS.TRAIN", (), "INPUT.CROP.ENABLED", False]
    return load_config("", [*pairs, *branch, *data, *overrides])


def first_head(kind: str) -> nn.Module:
    """A first stage's head with random weights and batch statistics, and scores of some spread."""
    torch.manual_seed(0)
    cfg = head_config(kind)
    head = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, level_shapes(NARROW))
    with torch.no_grad():
        for _ in range(5):
            head.train()(*make_inputs())
        inner = head.base_head if kind == "regions" else head
        inner.predictor.weight.normal_()
        inner.predictor.bias.normal_()
    return head.eval()


def second_head(kind: str, *overrides: object) -> DisAlignSemSegHead:
    """The second stage of :func:`first_head`, with class weights and groups."""
    cfg = head_config(kind)
    options = ["MODEL.DISALIGN.BASE_HEAD_NAME", cfg.MODEL.SEM_SEG_HEAD.NAME, *overrides]
    cfg = head_config(kind, "MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead", *options)
    head = SEM_SEG_HEADS_REGISTRY.get("DisAlignSemSegHead")(cfg, level_shapes(NARROW))
    result = head.load_state_dict(first_head(kind).state_dict(), strict=False)
    assert not result.unexpected_keys and all(".calib" in f".{n}" for n in result.missing_keys)
    head.class_weights.copy_(WEIGHTS)
    head.class_groups = GROUPS
    head.base_head.requires_grad_(False)
    return head


def make_inputs(size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[dict[str, Tensor], Tensor]:
    """Feature maps as of images of this size, and labels, of which some are ignored."""
    generator = torch.Generator().manual_seed(1)
    features = {}
    for key, channels in NARROW.items():
        cells = [-(-side // STRIDES[key]) for side in size]
        features[key] = torch.randn(IMAGES, channels, *cells, generator=generator)
    labels = torch.randint(0, K, (IMAGES, *size), generator=generator)
    labels[:, :5] = 255
    return features, labels


def inner_head(head: nn.Module) -> nn.Module:
    """The head inside all wrappers."""
    return inner_head(head.base_head) if isinstance(head, SemSegHeadWrapper) else head
