# SPDX-License-Identifier: Apache-2.0
"""What weight decay reaches in the second stage of a detector, tensor by tensor."""

import pytest

from longtail.engine import Trainer

# Decay would pull alpha to 0, away from the identity; the confidence is a layer like any other.
DECAYS = {
    "alpha": 0.0,
    "beta": 0.0,
    "confidence_layer.weight": 0.1,
    "confidence_layer.bias": 0.1,
}


@pytest.mark.parametrize(
    ("kind", "stages"), [("mask-linear", [""]), ("cascade-cosine", [".0", ".1", ".2"])]
)
def test_alpha_and_beta_of_a_detector_do_not_decay(second_stage, kind, stages):
    trainer = Trainer(second_stage(kind, "SOLVER.WEIGHT_DECAY", 0.1))
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    given = {
        names[parameter]: group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    assert given == {
        f"roi_heads.box_predictor{stage}.calibration.{name}": decay
        for stage in stages
        for name, decay in DECAYS.items()
    }
