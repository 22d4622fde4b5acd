"""Our ROI heads are detectron2's, with a box classifier that can be chosen."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.utils.events import EventStorage

from longtail.modeling import CosineLinear, LongTailFastRCNNOutputLayers
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
    message = r"ROI_BOX_HEAD.CLASSIFIER must be one of \('linear', 'cosine'\), got 'Cosine'"
    with pytest.raises(ValueError, match=message):
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
