# SPDX-License-Identifier: Apache-2.0
"""Loaded configs and their differences."""

import functools
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from detectron2.config import CfgNode

from longtail.config import load_config
from longtail.engine import Trainer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
# Of the tree, not of the tables: names below configs/ without ending.
LEAVES = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.glob("*/**/*.yaml")
    if not path.name.startswith("Base-") and path.relative_to(CONFIGS).parts[0] != "models"
)


def leaves_in(*folders: str) -> list[str]:
    """Return the leaves whose first folder is one of these."""
    return [name for name in LEAVES if name.split("/")[0] in folders]


def each(names: list[str]) -> pytest.MarkDecorator:
    """Run a test for each of these leaves."""
    return pytest.mark.parametrize("name", names)


@functools.cache
def loaded(name: str) -> CfgNode:
    """Return a config that nobody changes."""
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    cfg.freeze()
    return cfg


def stem_of(name: str) -> str:
    return name.rpartition("/")[2]


def base_of(name: str) -> str:
    """Return the first of the configs that one derives from."""
    bases = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["_BASE_"]
    path = (CONFIGS / name).parent / (bases if isinstance(bases, str) else bases[0])
    return path.resolve().relative_to(CONFIGS).with_suffix("").as_posix()


def flat(cfg: CfgNode, prefix: str = "") -> dict:
    """Return values by their dotted keys."""
    values = {}
    for key, value in cfg.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else None
        values.update({f"{prefix}{key}": value} if nested is None else nested)
    return values


def differences(name: str, other: CfgNode) -> set[str]:
    """Return the keys whose values differ."""
    own, others = flat(loaded(name)), flat(other)
    return {key for key in own.keys() | others.keys() if own.get(key) != others.get(key)}


def assert_values(name: str, expected: dict) -> None:
    """Compare these keys of a config."""
    values = flat(loaded(name))
    assert {key: values[key] for key in expected} == expected


# What fills a new parameter: slow on the device "meta", where there are no values.
FILLING = ("normal_", "uniform_", "erfinv_", "clamp_", "fill_", "zero_")


def built(cfg: CfgNode) -> torch.nn.Module:
    """Build the model on the config's device, with parameters of no certain values."""
    unchanged = dict.fromkeys(FILLING, lambda tensor, *args, **options: tensor)
    with mock.patch.multiple(torch.Tensor, **unchanged), torch.device(cfg.MODEL.DEVICE):
        return Trainer.build_model(cfg)
