# SPDX-License-Identifier: Apache-2.0
"""What of the second stage the config decides, and what it logs."""

import math

import pytest
import torch
from disalign.fast_rcnn import DisAlignFastRCNNOutputLayers
from disalign.rcnn import DisAlignRCNN

from longtail.config import deployed_config
from longtail.engine import Trainer
from longtail.engine.checkpoint import CompleteCheckpointer
from tests.disalign.detectors import (
    CASCADES,
    KINDS,
    disturb,
    predictions,
    start,
)


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-linear"])
def test_what_is_learned_is_logged_by_frequency_group(second_stage, kind):
    trainer = start(second_stage(kind, "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1.0"))
    trainer.test = lambda cfg, model: {}
    trainer.train()
    latest = trainer.storage.latest()
    prefix = "stage2/" if kind in CASCADES else ""
    # All three classes are rare: they are in 6, 3 and 1 images.
    assert latest[f"{prefix}disalign/alpha/rare"][0] == pytest.approx(1, abs=0.5)
    assert latest[f"{prefix}disalign/beta/rare"][0] == pytest.approx(0, abs=0.5)
    levels = [latest[f"{prefix}disalign/sigma_q{q}/background"][0] for q in (10, 50, 90)]
    assert 0 <= levels[0] <= levels[1] <= levels[2] <= 1
    assert not any("frequent" in key or "common" in key for key in latest)


FORMS = {
    "magnitude only": (("MARGIN",), {"alpha", "confidence_layer.weight", "confidence_layer.bias"}),
    "margin only": (("MAGNITUDE",), {"beta", "confidence_layer.weight", "confidence_layer.bias"}),
    "without confidence": (("CONFIDENCE",), {"alpha", "beta"}),
    "without its bias": (("CONFIDENCE_BIAS",), {"alpha", "beta", "confidence_layer.weight"}),
    "margin alone": (("MAGNITUDE", "CONFIDENCE"), {"beta"}),
}


@pytest.mark.parametrize(("off", "learned"), FORMS.values(), ids=FORMS)
def test_partial_forms_by_config(second_stage, off, learned):
    overrides = [x for key in off for x in (f"MODEL.DISALIGN.{key}", "False")]
    model = start(second_stage("mask-linear", *overrides)).model
    prefix = "roi_heads.box_predictor.calibration."
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        prefix + name for name in learned
    }


def test_a_form_that_learns_nothing_is_an_error(second_stage):
    off = ("MODEL.DISALIGN.MAGNITUDE", "False", "MODEL.DISALIGN.MARGIN", "False")
    with pytest.raises(ValueError, match="learns nothing"):
        Trainer(second_stage("mask-linear", *off))


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-linear"])
@pytest.mark.parametrize("rho", [0.0, 0.8, 1.0])
def test_weights_come_from_the_annotated_instances(second_stage, kind, rho):
    """6 red, 3 green and 1 blue instance: Eq. 11 by hand, and 1 for the background."""
    heads = Trainer.build_model(second_stage(kind, "MODEL.DISALIGN.RHO", str(rho))).roi_heads
    inverse = [(1 / count) ** rho for count in (6, 3, 1)]
    expected = [3 * value / sum(inverse) for value in inverse] + [1.0]
    predictors = heads.box_predictor if kind in CASCADES else [heads.box_predictor]
    for predictor in predictors:
        assert predictor.class_weights.tolist() == pytest.approx(expected, abs=1e-6)
        assert predictor.class_groups == {"rare": [0, 1, 2], "common": [], "frequent": []}


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-linear"])
def test_a_start_at_the_prior(second_stage, kind):
    """beta_j = log w_j, by hand from 6, 3 and 1 instances; alpha starts at 1."""
    cfg = second_stage(kind, "MODEL.DISALIGN.RHO", "0.5", "MODEL.DISALIGN.INIT", "prior")
    heads = Trainer.build_model(cfg).roi_heads
    inverse = [(1 / count) ** 0.5 for count in (6, 3, 1)]
    expected = [math.log(3 * value / sum(inverse)) for value in inverse]
    for predictor in heads.predictors:
        assert predictor.calibration.beta.tolist() == pytest.approx(expected, abs=1e-6)
        assert predictor.calibration.beta.requires_grad
        assert (predictor.calibration.alpha == 1).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("INIT", "zero"), "INIT must be one of identity, prior, got 'zero'"),
        (("INIT", "prior", "MARGIN", "False"), "INIT prior starts beta .* MARGIN False"),
    ],
)
def test_starts_that_are_none(second_stage, overrides, message):
    options = [f"MODEL.DISALIGN.{x}" if x.isupper() else x for x in overrides]
    with pytest.raises(ValueError, match=message):
        Trainer.build_model(second_stage("mask-linear", *options))


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-cosine"])
def test_evaluation_needs_no_training_set(second_stage, checkpoints, kind):
    model = disturb(start(second_stage(kind)).model)
    path = checkpoints / "second.pth"
    torch.save({"model": model.state_dict()}, path)
    cfg = second_stage(kind, "DATASETS.TRAIN", ("nowhere",))
    deployed = Trainer.build_model(deployed_config(cfg))
    assert isinstance(deployed, DisAlignRCNN)
    CompleteCheckpointer(deployed).load(str(path))
    for one, other in zip(predictions(model), predictions(deployed), strict=True):
        assert torch.equal(one.scores, other.scores) and len(one) > 20
        assert torch.equal(one.pred_masks, other.pred_masks)


def test_other_roi_heads_are_refused(configure):
    cfg = configure(
        "mask-linear",
        *("MODEL.META_ARCHITECTURE", "DisAlignRCNN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    )
    with pytest.raises(ValueError, match="NAME StandardROIHeads: take the config of the first"):
        Trainer.build_model(cfg)


@pytest.mark.parametrize("kind", KINDS)
def test_its_config_is_the_first_stages(second_stage, kind):
    """META_ARCHITECTURE is the one key: the config itself is not changed by building."""
    cfg = second_stage(kind)
    before = cfg.dump()
    model = Trainer.build_model(cfg)
    assert cfg.dump() == before and isinstance(model, DisAlignRCNN)
    predictors = model.roi_heads.box_predictor
    predictors = list(predictors) if kind in CASCADES else [predictors]
    assert all(type(predictor) is DisAlignFastRCNNOutputLayers for predictor in predictors)
