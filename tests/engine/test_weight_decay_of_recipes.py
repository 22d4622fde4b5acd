# SPDX-License-Identifier: Apache-2.0
"""Weight decay and learning rates of the papers' recipes, tensor by tensor as in mmsegmentation.

The rules are those of mmsegmentation's configs and optimizer constructors, on its own names of the
tensors; benchmarks/peer_optimizer.py runs these constructors themselves.
"""

import re
from pathlib import Path

import pytest
import torch

from longtail.config import load_config
from longtail.engine import Trainer
from longtail.modeling.conversion.names import peer_names

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "ADE20K"


def multipliers(stem: str) -> tuple[dict, dict]:
    """Of weight decay and of learning rate, by mmsegmentation's names; and their shapes."""
    options = ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", ""]
    cfg = load_config(str(CONFIGS / f"{stem}.yaml"), options)
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    named = dict(model.named_parameters())
    names = peer_names(model.state_dict())
    peers = {parameter: names[name] for name, parameter in named.items()}
    found = {
        peers[parameter]: (
            group["weight_decay"] / cfg.SOLVER.WEIGHT_DECAY,
            group["lr"] / cfg.SOLVER.BASE_LR,
        )
        for group in Trainer.build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    return found, {names[name]: parameter.shape for name, parameter in named.items()}


def test_cnns_decay_everything_alike():
    found, shapes = multipliers("fcn_R_50c_160k")
    assert found == dict.fromkeys(shapes, (1.0, 1.0)) and len(found) == 181


@pytest.mark.parametrize(
    ("stem", "blocks"), [("upernet_swin_T_160k", 12), ("upernet_swin_B_22k_160k", 24)]
)
def test_swin(stem, blocks):
    """paramwise_cfg names parts of names; norms of the heads are ``bn`` in mmsegmentation."""
    found, shapes = multipliers(stem)
    rule = re.compile("absolute_pos_embed|relative_position_bias_table|norm")
    assert found == {name: (0.0 if rule.search(name) else 1.0, 1.0) for name in shapes}
    # A table in each block; norms (a scale and a shift): two in each block, one of the patches,
    # three of mergings and four of outputs.
    without = [name for name, (decay, _) in found.items() if decay == 0]
    assert len(without) == blocks + 2 * (2 * blocks + 1 + 3 + 4)
    for name in (
        "backbone.patch_embed.projection.bias",
        "backbone.stages.0.blocks.1.attn.w_msa.qkv.bias",
        "backbone.stages.3.blocks.1.ffn.layers.1.bias",
        "decode_head.lateral_convs.0.bn.weight",
        "decode_head.psp_modules.3.1.bn.bias",
        "decode_head.conv_seg.bias",
        "auxiliary_head.convs.0.bn.weight",
    ):
        assert found[name] == (1.0, 1.0), name


def test_beit():
    """What has one dimension or is a bias does not decay; rates fall by 0.95 a block."""
    found, shapes = multipliers("upernet_beit_L_160k")
    assert found.keys() == shapes.keys() and len(found) == 438
    for name, (decay, rate) in found.items():
        one_dimension = len(shapes[name]) == 1 or name.endswith(".bias")
        assert decay == (0.0 if one_dimension else 1.0), name
        depth = 25
        if name.startswith(("backbone.cls_token", "backbone.patch_embed")):
            depth = 0
        elif block := re.match(r"backbone\.layers\.(\d+)\.", name):
            depth = int(block[1]) + 1
        assert rate == pytest.approx(0.95 ** (25 - depth), rel=1e-12), name
    # Two norms, two scales, biases of q, v, projection and two layers: 11 in each of 24 blocks. One
    # of the patches, 5 of the neck; 12 norms and the classifier's bias in the head, 1 and 1 in the
    # auxiliary one.
    assert sum(decay == 0 for decay, _ in found.values()) == 24 * 11 + 1 + 5 + 25 + 3
    assert found["backbone.layers.7.attn.relative_position_bias_table"][0] == 1.0
    assert found["backbone.cls_token"][0] == 1.0
