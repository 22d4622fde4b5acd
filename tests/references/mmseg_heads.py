# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's heads as plain functions: maps res2 .. res5 of a backbone to logits.

Shape alphabet: see :mod:`.mmseg_layers`; K: classes. The logits are (N, K, H, W) at the size of
the head's own map, before they are resized to the image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.references.mmseg_layers import State, conv, conv_bn_relu, count, resize, separable

POOL_SCALES = (1, 2, 3, 6)


def classify(state: State, head: str, x: Tensor) -> Tensor:
    return conv(state, f"{head}.conv_seg", x)


def fcn_logits(state: State, x: Tensor, head: str = "decode_head") -> Tensor:
    """FCNHead on one map; also the auxiliary head and the first stage of OCRNet."""
    y = x
    for index in range(count(state, head + ".convs.{}.conv.weight")):
        y = conv_bn_relu(state, f"{head}.convs.{index}", y)
    if f"{head}.conv_cat.conv.weight" in state:
        y = conv_bn_relu(state, f"{head}.conv_cat", torch.cat([x, y], 1))
    return classify(state, head, y)


def pyramid_pooling(state: State, x: Tensor) -> Tensor:
    """The map and its averages over 1, 2 x 2, 3 x 3 and 6 x 6 cells."""
    parts = [x]
    for index, cells in enumerate(POOL_SCALES):
        pooled = F.adaptive_avg_pool2d(x, cells)
        pooled = conv_bn_relu(state, f"decode_head.psp_modules.{index}.1", pooled)
        parts.append(resize(pooled, like=x))
    return conv_bn_relu(state, "decode_head.bottleneck", torch.cat(parts, 1))


def psp_logits(state: State, levels: list[Tensor]) -> Tensor:
    """PSPHead on the last level."""
    return classify(state, "decode_head", pyramid_pooling(state, levels[-1]))


def uper_logits(state: State, levels: list[Tensor]) -> Tensor:
    """UPerHead on all levels."""
    top = pyramid_pooling(state, levels[-1])
    merged = [top]
    for index in reversed(range(len(levels) - 1)):
        lateral = conv_bn_relu(state, f"decode_head.lateral_convs.{index}", levels[index])
        merged.insert(0, lateral + resize(merged[0], like=lateral))
    outputs = [
        conv_bn_relu(state, f"decode_head.fpn_convs.{index}", x)
        for index, x in enumerate(merged[:-1])
    ] + [top]
    joined = torch.cat([resize(x, like=outputs[0]) for x in outputs], 1)
    return classify(state, "decode_head", conv_bn_relu(state, "decode_head.fpn_bottleneck", joined))


def deeplabv3plus_logits(state: State, levels: list[Tensor]) -> Tensor:
    """DepthwiseSeparableASPPHead on the last level, refined with the first."""
    low, x = levels[0], levels[-1]
    pooled = conv_bn_relu(state, "decode_head.image_pool.1", x.mean((2, 3), keepdim=True))
    branches = [pooled.expand(-1, -1, *x.shape[2:])]
    branches.append(conv_bn_relu(state, "decode_head.aspp_modules.0", x))
    for index, dilation in enumerate((12, 24, 36), start=1):
        branches.append(separable(state, f"decode_head.aspp_modules.{index}", x, dilation))
    y = conv_bn_relu(state, "decode_head.bottleneck", torch.cat(branches, 1))
    low = conv_bn_relu(state, "decode_head.c1_bottleneck", low)
    y = torch.cat([resize(y, like=low), low], 1)
    for index in range(2):
        y = separable(state, f"decode_head.sep_bottleneck.{index}", y)
    return classify(state, "decode_head", y)


def ocr_logits(state: State, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """OCRNet's two stages on all levels: the coarse and the final logits."""
    x = torch.cat([resize(level, like=levels[0]) for level in levels], 1)
    coarse = fcn_logits(state, x, "decode_head.0")

    head, block = "decode_head.1", "decode_head.1.object_context_block"
    features = conv_bn_relu(state, f"{head}.bottleneck", x)
    shares = coarse.flatten(2).softmax(2)
    regions = torch.einsum("nkl,ncl->nck", shares, features.flatten(2)).unsqueeze(3)
    queries, keys = features, regions
    for index in range(2):
        queries = conv_bn_relu(state, f"{block}.query_project.{index}", queries)
        keys = conv_bn_relu(state, f"{block}.key_project.{index}", keys)
    values = conv_bn_relu(state, f"{block}.value_project", regions)
    similarity = torch.einsum("nchw,nck->nkhw", queries, keys[..., 0]) * queries.shape[1] ** -0.5
    context = torch.einsum("nkhw,nck->nchw", similarity.softmax(1), values[..., 0])
    context = conv_bn_relu(state, f"{block}.out_project", context)
    y = conv_bn_relu(state, f"{block}.bottleneck", torch.cat([context, features], 1))
    return coarse, classify(state, head, y)
