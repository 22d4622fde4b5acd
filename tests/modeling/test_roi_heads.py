# SPDX-License-Identifier: Apache-2.0
"""Our ROI heads are detectron2's, with a box classifier that can be chosen."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from longtail.data.statistics.class_stats import ClassStats
from longtail.losses import (
    BOXES,
    BalancedGroupSoftmax,
    Equalization,
    Focal,
    build_loss,
    loss_names,
)
from longtail.modeling import CosineLinear, LongTailFastRCNNOutputLayers
from longtail.modeling.roi_heads import check_box_classifier
from tests.messages import raises_naming
from tests.tiny_detection import CASCADE, detector_config, detector_inputs

KINDS = {
    "mask": ([], "StandardROIHeads", StandardROIHeads),
    "cascade": (CASCADE, "CascadeROIHeads", CascadeROIHeads),
}


def build(tmp_path, kind: str, *overrides, original: bool = False):
    options, name, _ = KINDS[kind]
    own = ["MODEL.ROI_HEADS.NAME", name] if original else []
    cfg = detector_config(tmp_path, [*options, *overrides, *own])
    torch.manual_seed(0)
    return build_model(cfg)


def predictors(model) -> list[torch.nn.Module]:
    own = model.roi_heads.box_predictor
    return list(own) if isinstance(own, torch.nn.ModuleList) else [own]


def training_losses(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    with EventStorage():
        return model.train()(detector_inputs())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "overrides", [(), ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou")], ids=str
)
def test_linear_heads_are_detectron2s(tmp_path, kind, overrides):
    own = build(tmp_path, kind, *overrides)
    original = build(tmp_path, kind, *overrides, original=True)
    assert isinstance(own.roi_heads, KINDS[kind][2]) and type(own.roi_heads) is not KINDS[kind][2]
    state = {
        name: torch.randn_like(tensor) * 0.05 if "box_predictor" in name else tensor
        for name, tensor in original.state_dict().items()
    }
    for model in (own, original):
        model.load_state_dict(state)  # strict: the same names and shapes
    expected, given = training_losses(original), training_losses(own)
    assert len(expected) == (9 if kind == "cascade" else 5)
    for name, value in expected.items():
        assert value > 0 and torch.equal(given.pop(name), value)
    assert not given
    with torch.no_grad():
        outputs = [model.eval()(detector_inputs()) for model in (own, original)]
    for one, other in zip(*outputs, strict=True):
        one, other = one["instances"], other["instances"]
        assert len(one) == len(other) > 0
        for field in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(one.get(field), other.get(field))
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_has_the_classifier_and_its_own_box_transform(tmp_path, kind, classifier):
    model = build(tmp_path, kind, "MODEL.ROI_BOX_HEAD.CLASSIFIER", classifier)
    own, original = predictors(model), predictors(build(tmp_path, kind, original=True))
    assert len(own) == len(original) == (3 if kind == "cascade" else 1)
    for one, other in zip(own, original, strict=True):
        assert type(one) is LongTailFastRCNNOutputLayers
        assert type(one.cls_score) is (CosineLinear if classifier == "cosine" else torch.nn.Linear)
        assert (one.cls_score.in_features, one.cls_score.out_features) == (12, 4)
        assert one.box2box_transform.weights == other.box2box_transform.weights
    if kind == "cascade":
        assert len({one.box2box_transform.weights for one in own}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_cosine_classifier_trains_alone(tmp_path, kind):
    model = build(tmp_path, kind, "MODEL.ROI_BOX_HEAD.CLASSIFIER", "cosine")
    losses = training_losses(model)
    sum(losses.values()).backward()
    for predictor in predictors(model):
        for parameter in (predictor.cls_score.weight, predictor.cls_score.scale):
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
    scores = []
    for predictor in predictors(model):
        predictor.cls_score.register_forward_hook(lambda m, i, output: scores.append(output))
    with torch.no_grad():
        model.eval()(detector_inputs())
    assert scores and all(output.abs().max() <= 20 + 1e-4 for output in scores)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_classifier(tmp_path, kind):
    key = "MODEL.ROI_BOX_HEAD.CLASSIFIER"
    with raises_naming(ValueError, key, "('linear', 'cosine')", "'Cosine'"):
        build(tmp_path, kind, "MODEL.ROI_BOX_HEAD.CLASSIFIER", "Cosine")


def test_options_of_the_config_reach_the_output_layers(tmp_path):
    model = build(
        tmp_path,
        "mask",
        *("TEST.DETECTIONS_PER_IMAGE", "7", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.02"),
        *("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "3.0"),
    )
    (predictor,) = predictors(model)
    assert predictor.test_topk_per_image == 7 and predictor.test_score_thresh == 0.02
    assert predictor.loss_weight == {"loss_box_reg": 3.0}


# --- the class loss

LOSS = "MODEL.ROI_BOX_HEAD.CLASS_LOSS"
# Names of tensors of the losses that have a memory, in a checkpoint.
MEMORY = {
    "seesaw": {"class_counts"},
    "eqlv2": {"positive_gradients", "negative_gradients"},
    "bags": {"bins"},
}


@pytest.fixture
def statistics(monkeypatch):
    counts = np.array([500, 20, 3])
    stats = ClassStats(("red", "green", "blue"), 600, None, counts, counts)
    monkeypatch.setattr("longtail.losses.build.get_class_stats", lambda names: stats)


# Losses of sigmoids have to start from a bias.
SIGMOIDS = {"eql", "eqlv2", "federated", "focal"}
EACH = [
    (name, kind, classifier)
    for name in loss_names(BOXES)
    for kind, classifier in (("mask", "linear"), ("cascade", "linear"), ("cascade", "cosine"))
    if classifier == "linear" or name not in SIGMOIDS
]


@pytest.mark.parametrize(("name", "kind", "classifier"), EACH)
def test_every_class_loss_trains_and_predicts(tmp_path, statistics, name, kind, classifier):
    options = [LOSS, name, "MODEL.ROI_BOX_HEAD.CLASSIFIER", classifier]
    model = build(tmp_path, kind, *options, "DATASETS.TRAIN", "('toy',)")
    losses = training_losses(model)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for predictor in predictors(model):
        outputs = 4 + {"bags": 5, "seesaw": 1}.get(name, 0)
        assert predictor.cls_score.out_features == outputs
        gradient = predictor.cls_score.weight.grad
        assert gradient.isfinite().all() and gradient.abs().max() > 0
    # Without the training set, from the checkpoint alone.
    deployed = build(tmp_path, kind, *options)
    deployed.load_state_dict(model.state_dict())
    outputs = []
    with torch.no_grad():
        for one in (model, deployed):
            outputs.append([item["instances"] for item in one.eval()(detector_inputs())])
    for given, expected in zip(*outputs, strict=True):
        assert len(given) > 0 and torch.equal(given.scores, expected.scores)
        assert given.pred_classes.max() < 3
    own = {key for key in model.state_dict() if "class_loss" in key}
    stages = [""] if kind == "mask" else [".0", ".1", ".2"]
    assert own == {
        f"roi_heads.box_predictor{stage}.class_loss.{key}"
        for stage in stages
        for key in MEMORY.get(name, ())
    }


def test_the_stages_of_a_cascade_count_for_themselves(tmp_path):
    model = build(tmp_path, "cascade", LOSS, "seesaw")
    training_losses(model)
    counts = [predictor.class_loss.class_counts for predictor in predictors(model)]
    assert all(count.sum() == 2 * 16 for count in counts[:1])
    assert len({count.data_ptr() for count in counts}) == 3
    # Later stages have stricter thresholds, hence other labels.
    assert len({tuple(count.tolist()) for count in counts}) > 1


@pytest.mark.parametrize("loss", ["cross_entropy", "bags"])
def test_a_linear_classifier_starts_as_detectron2s(tmp_path, loss):
    """N(0, 0.01), also where the loss needs more outputs: 5 standard errors."""
    dimensions = ("MODEL.ROI_BOX_HEAD.FC_DIM", 256, "MODEL.ROI_HEADS.NUM_CLASSES", 60)
    (predictor,) = predictors(build(tmp_path, "mask", LOSS, loss, *dimensions))
    weight = predictor.cls_score.weight
    assert weight.shape == (61 if loss == "cross_entropy" else 60 + 4 + 1 + 1, 256)
    error = 5 / (2 * weight.numel()) ** 0.5
    assert weight.std().item() == pytest.approx(0.01, rel=error)
    assert not predictor.cls_score.bias.any()


def test_a_linear_classifier_of_sigmoids_starts_from_a_small_probability(tmp_path):
    model = build(tmp_path, "mask", LOSS, "federated")
    (predictor,) = predictors(model)
    with torch.no_grad():
        probabilities = predictor.class_loss.probabilities(predictor.cls_score(torch.zeros(1, 12)))
    assert probabilities[0].tolist() == pytest.approx([0.01] * 3 + [0])


def make_layers(class_loss) -> LongTailFastRCNNOutputLayers:
    return LongTailFastRCNNOutputLayers(
        ShapeSpec(channels=2),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=2,
        class_loss=class_loss,
    )


def make_proposals(classes) -> list[Instances]:
    boxes = Boxes(torch.tensor([[0.0, 0, 9, 9]]).repeat(len(classes), 1))
    labels = torch.tensor(classes, dtype=torch.long)
    return [Instances((9, 9), proposal_boxes=boxes, gt_boxes=boxes, gt_classes=labels)]


def test_the_loss_and_its_weight():
    layers = make_layers(Focal(2, background=True, gamma=2.0))
    layers.loss_weight = {"loss_cls": 3.0}
    logits, proposals = torch.randn(5, 3), make_proposals([0, 1, 2, 2, 1])
    with EventStorage():
        losses = layers.losses((logits, torch.zeros(5, 8)), proposals)
    total = 0.0
    for row, y in zip(logits.tolist(), (0, 1, 2, 2, 1), strict=True):
        p = math.exp(row[y]) / sum(math.exp(z) for z in row)
        total -= (1 - p) ** 2 * math.log(p)
    assert losses["loss_cls"].item() == pytest.approx(3 * total / 5, rel=1e-5)
    assert losses["loss_box_reg"] == 0


@pytest.mark.parametrize(
    "class_loss",
    [
        Equalization(2, background=True, tail=torch.tensor([True, False])),
        BalancedGroupSoftmax(2, background=True, bins=torch.tensor([0, 1]), num_bins=2, beta=8.0),
    ],
    ids=["sigmoids", "bags"],
)
def test_what_detectron2_logs(class_loss):
    """Classes 0 and 1 right, a class taken for background, and background that is none."""
    # Of the classes, and by sigmoids of nothing else.
    logits = torch.tensor([[9.0, -9], [-9, 9], [-9, -9], [9, -9]])
    if isinstance(class_loss, BalancedGroupSoftmax):
        foreground = torch.tensor([[9.0, -9], [9, -9], [-9, 9], [9, -9]])
        logits = torch.cat([logits, torch.zeros(4, 2), foreground], dim=1)
    else:
        logits = torch.cat([logits, torch.full((4, 1), 99.0)], dim=1)
    layers = make_layers(class_loss)
    with EventStorage() as storage:
        layers.losses((logits, torch.zeros(4, 8)), make_proposals([0, 1, 1, 2]))
        logged = {key.rpartition("/")[2]: value for key, (value, _) in storage.latest().items()}
    assert logged["cls_accuracy"] == pytest.approx(2 / 4)
    assert logged["fg_cls_accuracy"] == pytest.approx(2 / 3)
    assert logged["false_negative"] == pytest.approx(1 / 3)


def test_no_rois_backpropagate_through_every_loss(tmp_path, statistics):
    cfg = detector_config(tmp_path, ["DATASETS.TRAIN", "('toy',)"])
    cfg.defrost()
    for name in loss_names(BOXES):
        cfg.MODEL.ROI_BOX_HEAD.CLASS_LOSS = name
        loss = build_loss(cfg, BOXES)
        layers = LongTailFastRCNNOutputLayers(cfg, ShapeSpec(channels=2), class_loss=loss)
        with EventStorage():
            losses = layers.losses(layers(torch.zeros(0, 2)), make_proposals([]))
        assert losses["loss_cls"].item() == 0
        losses["loss_cls"].backward()
        assert (layers.cls_score.weight.grad == 0).all()


def test_an_unknown_class_loss(tmp_path):
    with raises_naming(ValueError, LOSS, "federated", "seesaw", "'dice'"):
        build(tmp_path, "mask", LOSS, "dice")


@pytest.mark.parametrize("key", ["USE_SIGMOID_CE", "USE_FED_LOSS"])
def test_the_options_of_newer_versions_of_detectron2(tmp_path, key):
    cfg = detector_config(tmp_path)
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD[key] = True
    with raises_naming(ValueError, f"MODEL.ROI_BOX_HEAD.{key}", "False", LOSS):
        build_model(cfg)


@pytest.mark.parametrize(("key", "value"), [("CLASS_LOSS", "seesaw"), ("CLASSIFIER", "cosine")])
def test_options_are_not_ignored_by_other_heads(tmp_path, key, value):
    names = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    cfg = detector_config(tmp_path, [*names, f"MODEL.ROI_BOX_HEAD.{key}", value])
    option = f"MODEL.ROI_BOX_HEAD.{key} {value}"
    with raises_naming(ValueError, option, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"):
        check_box_classifier(cfg, build_model(cfg))
    check_box_classifier(detector_config(tmp_path, names), build_model(cfg))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(SIGMOIDS))
def test_a_cosine_classifier_does_not_start_sigmoids(tmp_path, name, kind):
    options = [LOSS, name, "MODEL.ROI_BOX_HEAD.CLASSIFIER", "cosine"]
    with raises_naming(ValueError, "MODEL.ROI_BOX_HEAD.CLASSIFIER cosine", "bias"):
        build(tmp_path, kind, *options)
