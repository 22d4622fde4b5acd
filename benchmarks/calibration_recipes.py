# SPDX-License-Identifier: Apache-2.0
"""The ways to learn a calibration that calibration_study.py compares."""

from dataclasses import dataclass, replace

import torch
from disalign.calibration import AdaptiveCalibration
from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How a calibration is learned.

    By default as in the config: the paper's recipe, scaled to a batch of 4 images.

    Attributes:
        optimizer: ``"SGD"`` (momentum 0.9) or ``"AdamW"``.
        rate: of alpha and beta.
        iterations: batches of 4 images; the rate falls to a tenth after 89 % of them.
        rho: of Eq. 11.
        confidence: whether sigma is learned; otherwise it is 1.
        prior: start from beta = log w, otherwise from the identity.
        sigma_rate: of the confidence, as a part of ``rate``.
        source: ``"augmented"``, ``"plain"`` or ``"held-out"``.
    """

    optimizer: str = "SGD"
    rate: float = 0.005
    iterations: int = 200
    rho: float = 0.8
    confidence: bool = True
    prior: bool = False
    sigma_rate: float = 1.0
    source: str = "augmented"


# The config's, which is the paper's recipe scaled to its batch; and one that learns more.
CONFIG, LONG = Recipe(), Recipe("AdamW", 0.005, 2000)
WHOLE = {"prior": True, "confidence": False}
RECIPES = {
    "SGD 0.005, 200 (the config)": CONFIG,
    "SGD 0.005, 2,000": replace(CONFIG, iterations=2000),
    "SGD 0.05, 2,000": replace(CONFIG, rate=0.05, iterations=2000),
    "the config, from the prior": replace(CONFIG, prior=True),
    "the config, from the prior, no confidence": replace(CONFIG, **WHOLE),
    "AdamW 0.005, 200": replace(LONG, iterations=200),
    "AdamW 0.05, 2,000": replace(LONG, rate=0.05),
    "AdamW 0.005, 2,000": LONG,
    "... no confidence": replace(LONG, confidence=False),
    "... sigma at a tenth of the rate": replace(LONG, sigma_rate=0.1),
    "... sigma at ten times the rate": replace(LONG, sigma_rate=10.0),
    "... images as they are": replace(LONG, source="plain"),
    "... held-out images": replace(LONG, source="held-out"),
    "... held-out images, from the prior, no confidence": replace(LONG, source="held-out", **WHOLE),
    "... from the prior": replace(LONG, prior=True),
    "... from the prior, no confidence": replace(LONG, **WHOLE),
    **{f"... rho {rho}": replace(LONG, rho=rho) for rho in (0.0, 0.4, 1.2, 1.6)},
    **{
        f"... from the prior, no confidence, rho {rho}": replace(LONG, rho=rho, **WHOLE)
        for rho in (0.4, 1.2, 1.6)
    },
}


def build_optimizer(recipe: Recipe, calibration: AdaptiveCalibration) -> torch.optim.Optimizer:
    """The optimizer of a recipe, whose groups know the rate that they start from."""
    terms = [calibration.alpha, calibration.beta]
    groups = [{"params": terms, "lr": recipe.rate, "weight_decay": 0.0}]
    if recipe.confidence:
        layer: nn.Module = calibration.confidence_layer
        groups.append({"params": layer.parameters(), "lr": recipe.rate * recipe.sigma_rate})
    for group in groups:
        group["initial"] = group["lr"]
    if recipe.optimizer == "AdamW":
        return torch.optim.AdamW(groups, weight_decay=1e-4)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, weight_decay=1e-4)
