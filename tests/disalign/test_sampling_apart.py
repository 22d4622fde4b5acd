# SPDX-License-Identifier: Apache-2.0
"""Sampling RoIs apart from a step, as a feature cache does: no graph, and modes stay."""

import pytest
from detectron2.utils.events import EventStorage

from longtail.engine import Trainer
from tests.tiny_detection import detector_inputs


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-linear"])
def test_no_graph_even_where_nothing_is_frozen(second_stage, kind):
    model = Trainer.build_model(second_stage(kind)).train()
    assert all(p.requires_grad for p in model.backbone.parameters())
    with EventStorage():
        rois = model.sample_rois(detector_inputs())
    assert len(rois) == (3 if kind == "cascade-linear" else 1)
    assert not any(stage.features.requires_grad for stage in rois)


@pytest.mark.parametrize("training", [True, False])
def test_the_proposal_network_has_the_mode_that_it_had(second_stage, training):
    model = Trainer.build_model(second_stage("mask-linear")).train()
    rpn = model.proposal_generator.train(training)
    modes = []
    rpn.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    with EventStorage():
        model.sample_rois(detector_inputs())
    assert modes == [False]
    assert all(module.training == training for module in rpn.modules())
