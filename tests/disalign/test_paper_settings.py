# SPDX-License-Identifier: Apache-2.0
"""What DisAlign does without being told: the paper's settings, and a start at the identity."""

import pytest

from longtail.config import load_config
from tests.disalign.detectors import start


def test_defaults():
    """Section 4 of the paper for LVIS; a bias as released, the weighted mean as in its code."""
    assert dict(load_config("").MODEL.DISALIGN) == {
        "RHO": 0.8,
        "MAGNITUDE": True,
        "MARGIN": True,
        "CONFIDENCE": True,
        "INIT": "identity",
        "CONFIDENCE_BIAS": True,
        "CONFIDENCE_BRANCH": "linear",
        "FORM": "eq5",
        "WEIGHTED_MEAN": True,
        "CLAMP_ZERO_COUNTS": False,
        "BASE_HEAD_NAME": "SeparableDeepLabV3PlusHead",
        "PIXEL_CLASSIFIER": "predictor",
        "ROI_FEATURE_CACHE": "",
        "ROI_FEATURE_DTYPE": "float32",
    }


@pytest.mark.parametrize(("kind", "prefix"), [("mask-linear", ""), ("cascade-linear", "stage1/")])
def test_the_first_iteration_logs_the_identity(second_stage, kind, prefix):
    """Before the first step alpha is 1 and beta 0, exactly; after it they are not."""
    trainer = start(second_stage(kind, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1.0))
    trainer.test = lambda cfg, model: {}
    trainer.train()
    latest = {key: value for key, (value, _) in trainer.storage.latest().items()}
    assert latest[f"{prefix}disalign/alpha/rare"] == 1
    assert latest[f"{prefix}disalign/beta/rare"] == 0
    last = trainer.model.roi_heads.predictors[-1].calibration
    assert (last.alpha != 1).all() and (last.beta != 0).all()
