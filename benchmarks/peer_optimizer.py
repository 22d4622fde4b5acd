# SPDX-License-Identifier: Apache-2.0
"""Whether every parameter has the learning rate and the weight decay that it has in mmsegmentation.

    peers/bin/python benchmarks/peer_optimizer.py

How to make the environment ``peers`` is said in mmseg_peers.py.

For every architecture of the papers, mmsegmentation's own constructor builds the optimizer of its
config, and ours that of our config. Parameters are paired by the names that
``longtail.modeling.conversion`` gives them; what is compared is the learning rate and the weight
decay of each, divided by those of the recipe. The recipes themselves stand beside each other.
"""

import argparse
import gc
import sys
from typing import NamedTuple

import torch
from common import ROOT, save_result
from detectron2.config import CfgNode
from mmseg_peers import build_peer, build_peer_optimizer, peer_config
from torch import nn

from longtail.config import load_config
from longtail.engine import Trainer
from longtail.modeling.conversion.names import peer_names

CONFIGS = ROOT / "configs" / "ADE20K"
# A quotient of two rates that were multiplied out differs from the other by rounding.
TOLERANCE = 1e-12
SETTINGS = ("lr", "weight_decay", "momentum", "betas", "nesterov")


class Multipliers(NamedTuple):
    """Of the recipe's learning rate, and of its weight decay."""

    rate: float
    decay: float


def multipliers(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: dict
) -> dict[str, Multipliers]:
    """Of every parameter that is optimised, by its name in the model.

    Args:
        model: what is optimised.
        optimizer: its optimizer.
        recipe: ``lr`` and ``weight_decay`` that count as one.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: Multipliers(
            group["lr"] / recipe["lr"], group["weight_decay"] / recipe["weight_decay"]
        )
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def settings(optimizer: torch.optim.Optimizer, recipe: dict) -> dict:
    """What the whole optimizer has in common."""
    known = {**optimizer.defaults, **recipe}
    found = {key: known[key] for key in SETTINGS if known.get(key)}
    return {"optimizer": type(optimizer).__name__, **found}


def measure(cfg: CfgNode) -> dict:
    """The two recipes, and the parameters that they treat differently."""
    peer = build_peer(cfg)
    optimizer = build_peer_optimizer(cfg, peer)
    # A group's own values may be missing in the defaults of an optimizer of mmengine.
    recipe = {"lr": optimizer.defaults["lr"], "weight_decay": optimizer.defaults["weight_decay"]}
    expected = multipliers(peer, optimizer, recipe)
    their_settings = settings(optimizer, recipe)
    del peer, optimizer
    gc.collect()

    own = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, own)
    recipe = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    names = peer_names(own.state_dict())
    found = {names[k]: v for k, v in multipliers(own, optimizer, recipe).items()}
    if found.keys() != expected.keys():
        raise ValueError(f"one optimizer alone has {sorted(found.keys() ^ expected.keys())[:3]}")
    differs = {
        name: {"ours": found[name], "theirs": expected[name]}
        for name in expected
        if any(abs(a - b) > TOLERANCE for a, b in zip(found[name], expected[name], strict=True))
    }
    without = [name for name, multiplier in expected.items() if multiplier.decay == 0]
    return {
        "peer": peer_config(cfg),
        "parameters": len(expected),
        "of them without weight decay": len(without),
        "different": differs,
        "recipe": {"ours": settings(optimizer, recipe), "theirs": their_settings},
    }


def main() -> None:
    """Compare, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the name of a config; nothing is saved")
    arguments = parser.parse_args()
    paths = [path for path in sorted(CONFIGS.glob("*_160k.yaml")) if arguments.only in path.stem]
    rows = {}
    for path in paths:
        cfg = load_config(
            str(path), ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "MODEL.DEVICE", "cpu"]
        )
        rows[path.stem] = row = measure(cfg)
        print(
            f"{path.stem:28} {row['parameters']:4} parameters, "
            f"{row['of them without weight decay']:3} without weight decay, "
            f"{len(row['different'])} differ; {row['recipe']}",
            flush=True,
        )
        gc.collect()
    if not rows:
        raise ValueError(f"no config in {CONFIGS} has {arguments.only!r} in its name")
    if not arguments.only:
        save_result(
            "peer_optimizer",
            {
                "peer": "mmsegmentation 1.2.2, the optimizer of its config by its own constructor",
                "figure": "parameters whose multipliers of learning rate or weight decay differ",
                "different": sum(len(row["different"]) for row in rows.values()),
                "target": 0,
                "models": rows,
            },
        )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
