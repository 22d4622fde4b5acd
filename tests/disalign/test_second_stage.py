# SPDX-License-Identifier: Apache-2.0
"""The second stage of Mask R-CNN and Cascade R-CNN: one step that cannot go wrong."""

import pytest
import torch
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.engine import Trainer
from longtail.modeling.roi_heads import RoIs
from tests.disalign.detectors import (
    CASCADES,
    KINDS,
    disturb,
    is_learned,
    predictions,
    start,
    tensors,
)
from tests.tiny_detection import SIZE, detector_inputs

# Keeps every proposal: sampling then has no part in what is compared.
KEEP_ALL = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "2000")


@pytest.mark.parametrize("kind", KINDS)
def test_at_iteration_0_the_predictions_are_the_first_stages(configure, second_stage, kind):
    cfg = second_stage(kind)
    first = start(configure(kind, "MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)).model
    second = start(cfg).model
    expected, given = predictions(first), predictions(second)
    for one, other in zip(expected, given, strict=True):
        assert len(one.scores.unique()) > 10 and len(one.pred_classes.unique()) > 1
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert one.pred_masks.any() and torch.equal(one.pred_masks, other.pred_masks)
    # Which is no accident: a calibration that has moved shows.
    disturb(second)
    moved = predictions(second)
    assert not torch.equal(moved[0].scores[:20], given[0].scores[:20])


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_the_calibration_and_nothing_else(second_stage, kind):
    trainer = start(second_stage(kind, "SOLVER.BASE_LR", "1.0", "SOLVER.WARMUP_ITERS", "0"))
    assert any(isinstance(m, _BatchNorm) for m in trainer.model.backbone.modules())
    # An evaluation in between, and whatever else may call train(), change nothing.
    predictions(trainer.model)
    trainer.model.train()
    before = tensors(trainer.model)
    calls = []

    def evaluate():
        predictions(trainer.model)
        trainer.model.train()
        calls.append(trainer.iter)

    trainer.after_step = lambda: (Trainer.after_step(trainer), evaluate())
    trainer.test = lambda cfg, model: {}
    trainer.train()
    assert calls == [0, 1, 2]
    after = tensors(trainer.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    heads = 3 if kind in CASCADES else 1
    assert changed == {name for name in before if is_learned(name)} and len(changed) == 4 * heads
    # Not even a gradient was computed for the others.
    assert {n for n, p in trainer.model.named_parameters() if p.grad is not None} == changed


def reference_model(cfg, state) -> torch.nn.Module:
    """The usual training step with calibrated scores, frozen by requires_grad and eval() alone."""
    usual = cfg.clone()
    usual.defrost()
    usual.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    usual.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_HEADS.NAME.replace("LongTail", "DisAlign")
    model = Trainer.build_model(usual)
    model.load_state_dict(state)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_learned(name))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


@pytest.mark.parametrize("options", [(), ("MODEL.DISALIGN.WEIGHTED_MEAN", "False")], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_a_usual_step(second_stage, kind, options):
    cfg = second_stage(kind, *KEEP_ALL, *options)
    skipping = disturb(start(cfg).model.train())
    usual = reference_model(cfg, skipping.state_dict())
    losses = []
    for model in (skipping, usual):
        torch.manual_seed(0)
        with EventStorage():
            given = model(detector_inputs())
        losses.append({name: value for name, value in given.items() if "loss_cls" in name})
        sum(losses[-1].values()).backward()
        assert len(given) == len(losses[-1]) or model is usual
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[1].items():
        assert value.item() > 0.1
        torch.testing.assert_close(losses[0][name], value, rtol=0, atol=1e-6)
    expected = {n: p.grad for n, p in usual.named_parameters() if p.requires_grad}
    given = {n: p.grad for n, p in skipping.named_parameters() if p.requires_grad}
    assert expected.keys() == given.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(given[name], gradient, rtol=0, atol=1e-6)


def proposals_of_a_usual_step(model, inputs) -> list:
    """What GeneralizedRCNN's RPN gives in training."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    images = model.preprocess_image(inputs)
    targets = [item["instances"] for item in inputs]
    with EventStorage(), torch.no_grad():
        features = model.backbone(images.tensor)
        return model.proposal_generator(images, features, targets)[0]


def test_proposals_are_those_of_training(second_stage):
    cfg = second_stage("mask-linear", "MODEL.RPN.NMS_THRESH", "0.99")
    model = start(cfg).model
    inputs = detector_inputs()
    expected = proposals_of_a_usual_step(reference_model(cfg, model.state_dict()), inputs)
    seen = []
    model.proposal_generator.register_forward_hook(lambda m, i, output: seen.extend(output[0]))
    model.train()
    with EventStorage():
        model(inputs)
    for one, other in zip(expected, seen, strict=True):
        assert len(one) == cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN == 40
        assert torch.equal(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(one.objectness_logits, other.objectness_logits)
    # Afterwards the limits are the usual ones, and testing has its own.
    rpn = model.proposal_generator
    assert rpn.pre_nms_topk == {True: 60, False: 30}
    assert rpn.post_nms_topk == {True: 40, False: 20}
    seen.clear()
    predictions(model, inputs)
    assert [len(proposals) for proposals in seen] == [20, 20]


def test_limits_come_back_after_an_error(second_stage):
    model = start(second_stage("mask-linear")).model.train()
    rpn = model.proposal_generator
    limits = rpn.pre_nms_topk, rpn.post_nms_topk

    def fail(*_):
        raise KeyboardInterrupt

    handle = rpn.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt), EventStorage():
        model(detector_inputs())
    handle.remove()
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == limits


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_useless_is_not_computed(second_stage, monkeypatch, kind):
    model = start(second_stage(kind)).model.train()

    def fail(*_, **__):
        raise AssertionError("computed, and of no use to the calibration")

    model.roi_heads.mask_head.register_forward_pre_hook(fail)
    model.roi_heads.mask_pooler.register_forward_pre_hook(fail)
    monkeypatch.setattr(model.proposal_generator, "losses", fail)
    monkeypatch.setattr(model.proposal_generator, "label_and_sample_anchors", fail)
    predictors = model.roi_heads.box_predictor
    predictors = list(predictors) if kind in CASCADES else [predictors]
    for predictor in predictors:
        monkeypatch.setattr(predictor, "box_reg_loss", fail)
    # A stage's boxes are the next one's proposals; the last ones serve nothing.
    predictors[-1].bbox_pred.register_forward_pre_hook(fail)
    graphs = []
    for module in model.modules():
        if not list(module.children()) and list(module.parameters()):
            module.register_forward_hook(lambda m, i, output: graphs.append((m, output)))
    with EventStorage():
        losses = model(detector_inputs())
    expected = {f"loss_cls_stage{i}" for i in range(3)} if kind in CASCADES else {"loss_cls"}
    assert losses.keys() == expected
    assert len(graphs) > 20
    learned = {m for n, m in model.named_modules() if n.endswith("confidence_layer")}
    assert {module for module, output in graphs if output.requires_grad} == learned


def test_every_stage_of_a_cascade_has_its_own_calibration(second_stage):
    model = start(second_stage("cascade-linear")).model.train()
    calibrations = [predictor.calibration for predictor in model.roi_heads.box_predictor]
    assert len({id(p) for c in calibrations for p in c.parameters()}) == 12
    disturb(model)
    with EventStorage():
        losses = model(detector_inputs())
    for own, calibration in enumerate(calibrations):
        for stage in range(3):
            loss = losses[f"loss_cls_stage{stage}"]
            gradients = torch.autograd.grad(
                loss, list(calibration.parameters()), retain_graph=True, allow_unused=True
            )
            assert all((gradient is not None) == (stage == own) for gradient in gradients)


def test_images_without_annotations_train_too(second_stage):
    inputs = detector_inputs()
    for item in inputs:
        empty = Instances((SIZE, SIZE), gt_boxes=Boxes(torch.zeros(0, 4)))
        empty.gt_classes, empty.gt_masks = torch.zeros(0, dtype=torch.long), PolygonMasks([])
        item["instances"] = empty
    for kind in ("mask-linear", "cascade-linear"):
        model = start(second_stage(kind)).model.train()
        with EventStorage():
            losses = model(inputs)
        sum(losses.values()).backward()
        assert all(value.isfinite() and value > 0 for value in losses.values())


@pytest.mark.parametrize("kind", ["mask-cosine", "cascade-linear"])
def test_a_step_in_bfloat16(second_stage, kind):
    amp = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16", "SOLVER.MAX_ITER", "1")
    trainer = start(second_stage(kind, *amp))
    before = tensors(trainer.model)
    trainer.test = lambda cfg, model: {}
    trainer.train()
    after = tensors(trainer.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(is_learned(name) for name in changed)
    assert all(after[name].isfinite().all() for name in changed)
    losses = [v[0] for k, v in trainer.storage.latest().items() if "loss" in k]
    assert losses and all(0 < value < 10 for value in losses)


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-linear"])
def test_sampling_apart_from_a_step_gives_its_losses(second_stage, kind):
    """What a feature cache does: sample once, and train on the RoIs without the images."""
    model = disturb(start(second_stage(kind, *KEEP_ALL)).model.train())
    inputs = detector_inputs()
    with EventStorage():
        torch.manual_seed(0)
        expected = model(inputs)
        before = tensors(model)
        torch.manual_seed(0)
        rois = model.sample_rois(inputs)
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(model).items())
        assert not any(stage.features.requires_grad for stage in rois)
        # Two images in one item, and each in an item of its own: the batch is the same.
        together = model([{"rois": rois}])
        half = [len(stage.classes) // 2 for stage in rois]
        apart = model(
            [
                {
                    "rois": [
                        RoIs(*(part[:n] for part in s)) for s, n in zip(rois, half, strict=True)
                    ]
                },
                {
                    "rois": [
                        RoIs(*(part[n:] for part in s)) for s, n in zip(rois, half, strict=True)
                    ]
                },
            ]
        )
    for losses in (together, apart):
        assert losses.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=0, atol=1e-6)
