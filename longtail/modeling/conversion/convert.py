# SPDX-License-Identifier: Apache-2.0
"""Whole state dicts from one naming to another; every tensor has to find its place."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor

from .names import PEER, backbone_styles, describe, listed, peer_names

# Tensors that models compute from their sizes; some libraries store them nevertheless.
DERIVED = (".relative_position_index", ".attn_mask")
# Steps of batch normalization, which files of PyTorch before 0.4.1 and frozen layers lack: with a
# fixed momentum nothing reads them.
STEPS = ".num_batches_tracked"
TABLE = ".relative_position_bias_table"
CLASSIFIERS = re.compile(r"sem_seg_head\.(auxiliary\.)?(coarse_)?predictor\.(weight|bias)")
# What ImageNet models have after their feature pyramid.
AFTER_BACKBONE = re.compile(
    r"(fc|head|classifier|norm|fc_norm|neck|conv_head|bn2|incre_modules|downsamp_modules"
    r"|final_layer)\..+"
)
# Swin's patch merging sees 2x2 neighbours as channels.
MERGING = re.compile(r"backbone\.model\.layers_\d+\.downsample\.(norm\.\w+|reduction\.weight)")


class Backbone(NamedTuple):
    """Weights of a backbone alone."""

    # By our names.
    tensors: dict[str, Tensor]
    # Whose names they had.
    style: str
    # Names of what is part of no backbone, such as a classifier.
    left_out: list[str]


def is_segmentor(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict is a whole model of the peer, not a backbone alone."""
    return any(name.startswith("decode_head.") for name in state)


def from_peer(
    peer_state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    without_classifier: bool = False,
) -> dict[str, Tensor]:
    """A whole model of the peer under our names.

    Args:
        peer_state: the peer's state dict.
        own: the state dict of our model, on any device: its names and shapes count.
        without_classifier: leave out classifiers of another number of classes.

    Returns:
        All tensors of our model but for such classifiers. No value is changed; only the channels
        of Swin's patch merging get another order.

    Raises:
        ValueError: the peer does not have such a model, or the two do not have the same tensors.
    """
    names = peer_names(own)
    classifiers = {
        name: other
        for name, other in names.items()
        if CLASSIFIERS.fullmatch(name)
        and other in peer_state
        and peer_state[other].shape[:1] != own[name].shape[:1]
    }
    # Another architecture is the worse news: it comes first.
    tensors, _ = _placed(
        {name: tensor for name, tensor in peer_state.items() if name not in classifiers.values()},
        {name: other for name, other in names.items() if name not in classifiers},
        own,
    )
    if classifiers and not without_classifier:
        name, other = next(iter(classifiers.items()))
        raise ValueError(
            f"the weights tell {peer_state[other].shape[0]} classes apart, the model "
            f"{own[name].shape[0]}: without_classifier (--without-classifier) leaves such "
            "classifiers out"
        )
    return _merging_reordered(tensors, (-1, 2, 2))


def to_peer(own_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole model of ours under the peer's names; the way back from :func:`.from_peer`.

    Left out: ``relative_position_index``, which the peer computes from its sizes and loads without.

    Args:
        own_state: the state dict of our model, without tensors that only training has (see
            :func:`longtail.config.deployed_state`).

    Raises:
        ValueError: the peer does not have such a model.
    """
    names = peer_names(own_state)
    tensors = _merging_reordered({name: own_state[name] for name in names}, (2, 2, -1))
    return {names[name]: tensor for name, tensor in tensors.items()}


def from_backbone(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Backbone:
    """ImageNet weights for the backbone of a model of ours; the rest of it stays as it is.

    The style of the names is the one that has most of them. Tables of relative positions for
    another window or image size are resized as timm does.

    Args:
        state: weights by the names of the peer or its relatives, timm, torchvision or Swin's
            authors, with or without the prefix ``backbone.``.
        own: the state dict of our model, on any device: its names and shapes count.

    Raises:
        ValueError: our model does not have a backbone of timm, or its tensors are not all
            there, or others that are not a part of a classifier.
    """
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    styles = backbone_styles(own)
    style = max(styles, key=lambda key: sum(name in state for name in styles[key].values()))
    # The peer's norms on outputs start new where there are none, as they do in the peer.
    names = {k: v for k, v in styles[style].items() if v in state or ".norms." not in k}
    for name, other in names.items():
        if name.endswith(TABLE) and other in state:
            state[other] = _resized_table(state[other], own[name].shape)
    tensors, left_out = _placed(state, names, own, AFTER_BACKBONE)
    if style == PEER:
        tensors = _merging_reordered(tensors, (-1, 2, 2))
    return Backbone(tensors, style, left_out)


def _placed(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    own: Mapping[str, Tensor],
    may_remain: re.Pattern | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of ``state`` under our names, and the names of those that remain.

    Args:
        state: a foreign state dict.
        names: the foreign names by ours, of all tensors that there have to be.
        own: our tensors, for their shapes.
        may_remain: pattern of names that need no place.
    """
    tensors, missing, wrong = {}, [], []
    for name, other in names.items():
        expected = own[name]
        if other not in state and name.endswith(STEPS):
            tensors[name] = torch.zeros(expected.shape, dtype=expected.dtype)
        elif other not in state:
            missing.append(other)
        elif state[other].shape != expected.shape:
            shapes = tuple(state[other].shape), tuple(expected.shape)
            wrong.append(f"{other} is {shapes[0]}, expected {shapes[1]}")
        else:
            tensors[name] = state[other]
    known = set(names.values())
    remain = [k for k in state if k not in known and not k.endswith((*DERIVED, STEPS))]
    too_much = [k for k in remain if not (may_remain and may_remain.fullmatch(k))]
    if missing or wrong or too_much:
        theirs, ours = describe(state), describe(names.values())
        depth = ", of another depth or width" if theirs == ours else ""
        raise ValueError(
            f"the weights look like {theirs}{depth}, the model is {ours}: "
            f"{listed('missing', missing)}, {listed('of another shape', wrong)}, "
            f"{listed('left over', too_much)}"
        )
    return tensors, remain


def _merging_reordered(
    tensors: dict[str, Tensor], sizes: tuple[int, int, int]
) -> dict[str, Tensor]:
    """Swin's patch merging with the channels that ``sizes`` divides the other way round.

    The peer orders a merged patch's channels by (channel, row, column), timm by (column, row,
    channel): sizes (-1, 2, 2) for the first, (2, 2, -1) for the second.
    """
    return {
        name: tensor.unflatten(-1, sizes).transpose(-1, -3).flatten(-3)
        if MERGING.fullmatch(name)
        else tensor
        for name, tensor in tensors.items()
    }


def _resized_table(table: Tensor, shape: torch.Size) -> Tensor:
    """A table of relative positions, (2 W - 1)^2 rows and a few for the class token."""
    if table.shape == shape or table.shape[1:] != shape[1:]:
        return table
    window = (math.isqrt(shape[0]) + 1) // 2
    return resize_rel_pos_bias_table(table, (window, window), tuple(shape))
