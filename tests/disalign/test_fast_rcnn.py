# SPDX-License-Identifier: Apache-2.0
"""The box predictor with calibrated foreground scores."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from disalign.fast_rcnn import DisAlignFastRCNNOutputLayers

from longtail.modeling import LongTailFastRCNNOutputLayers
from tests.disalign.detectors import disturb

C, K, R = 6, 4, 40
WEIGHTS = torch.tensor([0.1, 0.4, 1.2, 2.3])
GROUPS = {"rare": [2, 3], "common": [1], "frequent": [0]}
COMMON = {
    "input_shape": ShapeSpec(channels=C),
    "box2box_transform": Box2BoxTransform(weights=(10, 10, 5, 5)),
    "num_classes": K,
}
CLASSIFIERS = ["linear", "cosine"]


def make_layers(moved: bool = True, **options) -> DisAlignFastRCNNOutputLayers:
    torch.manual_seed(0)
    layers = DisAlignFastRCNNOutputLayers(
        **{"class_weights": WEIGHTS, "class_groups": GROUPS, **COMMON, **options}
    )
    torch.nn.init.normal_(layers.cls_score.weight)
    return disturb(layers) if moved else layers


def make_rois(count: int = R, seed: int = 1) -> tuple[torch.Tensor, list[Instances]]:
    """Features and labelled proposals of two images, about a third of them background."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, C, generator=generator)
    proposals = []
    for size in (count // 2, count - count // 2):
        corners = 20 * torch.rand(size, 4, generator=generator)
        corners[:, 2:] += corners[:, :2] + 5
        item = Instances((64, 64), proposal_boxes=Boxes(corners), gt_boxes=Boxes(corners + 1))
        item.gt_classes = torch.randint(0, K + 2, (size,), generator=generator).clamp(max=K)
        proposals.append(item)
    return features, proposals


def labels(proposals: list[Instances]) -> torch.Tensor:
    return torch.cat([p.gt_classes for p in proposals])


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_foreground_scores_are_calibrated_and_the_backgrounds_is_not(classifier):
    layers, (features, _) = make_layers(classifier=classifier), make_rois()
    scores, deltas = layers(features)
    plain = layers.cls_score(features)
    part = layers.calibration
    sigma = torch.sigmoid(features @ part.confidence_layer.weight[0] + part.confidence_layer.bias)
    for j in range(K):
        z = plain[:, j]
        expected = sigma * (part.alpha[j] * z + part.beta[j]) + (1 - sigma) * z
        torch.testing.assert_close(scores[:, j], expected, rtol=0, atol=1e-5)
        assert (scores[:, j] - z).abs().max() > 0.05
    assert torch.equal(scores[:, K], plain[:, K])
    assert torch.equal(deltas, layers.bbox_pred(features))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_at_the_start_scores_boxes_and_probabilities_are_the_plain_ones(classifier):
    layers = make_layers(moved=False, classifier=classifier)
    plain = LongTailFastRCNNOutputLayers(**COMMON, classifier=classifier)
    missing, unexpected = plain.load_state_dict(layers.state_dict(), strict=False)
    assert not missing and all(name.startswith("calibration.") for name in unexpected)
    features, proposals = make_rois()
    for given, expected in zip(layers(features), plain(features), strict=True):
        assert torch.equal(given, expected)
    probabilities = layers.predict_probs(layers(features), proposals)
    for given, expected in zip(
        probabilities, plain.predict_probs(plain(features), proposals), strict=True
    ):
        assert torch.equal(given, expected)


def test_features_with_extent_are_flattened():
    shape = ShapeSpec(channels=2, height=3, width=1)
    layers = make_layers(input_shape=shape)
    features, _ = make_rois()
    for given, expected in zip(layers(features.view(R, 2, 3, 1)), layers(features), strict=True):
        assert torch.equal(given, expected)


@pytest.mark.parametrize("weighted_mean", [True, False])
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_the_loss_is_the_weighted_cross_entropy_with_weight_1_for_background(weighted_mean, factor):
    layers = make_layers(weighted_mean=weighted_mean, loss_weight={"loss_cls": factor})
    features, proposals = make_rois()
    classes = labels(proposals)
    assert (classes == K).sum() > 5 and classes.unique().numel() == K + 1
    log_p = layers(features)[0].log_softmax(dim=1)
    total = norm = 0.0
    for i, y in enumerate(classes.tolist()):
        weight = [0.1, 0.4, 1.2, 2.3, 1.0][y]
        total -= weight * log_p[i, y].item()
        norm += weight if weighted_mean else 1
    with EventStorage():
        loss = layers.roi_loss(features, classes)
        both = layers.losses(layers(features), proposals)
    assert loss.item() == pytest.approx(factor * total / norm, rel=1e-5)
    assert torch.equal(both["loss_cls"], loss)


def test_without_reweighting_it_is_detectron2s_loss():
    layers = make_layers(moved=False, class_weights=torch.ones(K))
    plain = LongTailFastRCNNOutputLayers(**COMMON)
    plain.load_state_dict(layers.state_dict(), strict=False)
    features, proposals = make_rois()
    with EventStorage():
        given = layers.losses(layers(features), proposals)
        expected = plain.losses(plain(features), proposals)
    assert given.keys() == expected.keys() == {"loss_cls", "loss_box_reg"}
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, rtol=0, atol=1e-6)


def test_the_training_pulls_rare_classes_up():
    """One step from the identity on RoIs that say nothing: beta rises with the class's weight."""
    layers = make_layers(moved=False, class_weights=WEIGHTS)
    torch.nn.init.zeros_(layers.cls_score.weight)
    classes = torch.arange(K).repeat_interleave(3)
    with EventStorage():
        layers.roi_loss(torch.zeros(len(classes), C), classes).backward()
    # d loss / d beta_k = sigma (p_k - w_k / sum w), p_k = 1 / (K + 1), sigma = 1 / 2.
    expected = 0.5 * (1 / (K + 1) - WEIGHTS / WEIGHTS.sum())
    torch.testing.assert_close(layers.calibration.beta.grad, expected, rtol=0, atol=1e-6)


def test_no_rois_give_zero_and_backpropagate():
    layers = make_layers()
    features, proposals = make_rois(0)
    with EventStorage():
        losses = layers.losses(layers(features), proposals)
        alone = layers.roi_loss(features, labels(proposals))
    assert alone.item() == losses["loss_cls"].item() == losses["loss_box_reg"].item() == 0
    alone.backward()
    for parameter in layers.calibration.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_weights_are_no_part_of_a_checkpoint_and_follow_the_device():
    layers = make_layers()
    assert not any("class_weights" in name for name in layers.state_dict())
    assert "class_weights" in dict(layers.named_buffers())
    torch.testing.assert_close(layers.class_weights, torch.cat([WEIGHTS, torch.ones(1)]))


def test_weights_of_another_data_set():
    with pytest.raises(
        ValueError, match=r"must have shape \(4,\), got \(3,\).*NUM_CLASSES"
    ) as info:
        make_layers(class_weights=torch.ones(3))
    assert "\n" not in str(info.value)


def test_what_is_logged():
    """Means over the classes of a group; quantiles of sigma over the RoIs of a group."""
    layers, (features, proposals) = make_layers(), make_rois()
    classes = labels(proposals)
    with EventStorage() as storage:
        layers.roi_loss(features, classes)
        logged = {
            name.removeprefix("disalign/"): value[0]
            for name, value in storage.latest().items()
            if name.startswith("disalign/")
        }
    sigma = layers.calibration.confidence(features)[:, 0]
    expected = {}
    for name, members in {**GROUPS, "background": [K]}.items():
        of_group = torch.stack([s for s, y in zip(sigma, classes, strict=True) if y in members])
        for level in (10, 50, 90):
            expected[f"sigma_q{level}/{name}"] = of_group.quantile(level / 100).item()
        if name != "background":
            for key in ("alpha", "beta"):
                values = getattr(layers.calibration, key).tolist()
                expected[f"{key}/{name}"] = sum(values[m] for m in members) / len(members)
    assert logged == pytest.approx(expected, abs=1e-6)


def test_a_step_moves_the_statistics_of_a_released_confidence_once():
    """What is logged is that of the step, of the batch's own statistics."""
    layers = make_layers(calibration={"confidence_branch": "released"}).train()
    features, proposals = make_rois()
    with EventStorage() as storage:
        layers.roi_loss(features, labels(proposals))
        logged = storage.latest()["disalign/sigma_q50/background"][0]
    norm = layers.calibration.confidence_norm
    assert norm.num_batches_tracked == 1
    score = features @ layers.calibration.confidence_layer.weight[0]
    score = (score - score.mean()) / (score.var(correction=0) + 1e-5).sqrt()
    sigma = (score * norm.weight + norm.bias).relu().sigmoid()
    expected = sigma[labels(proposals) == K].quantile(0.5).item()
    assert logged == pytest.approx(expected, abs=1e-6) and expected > 0.5


def test_groups_without_classes_or_rois_are_not_logged():
    layers = make_layers(class_groups={"rare": [], "common": [0, 1], "frequent": [2, 3]})
    features, _ = make_rois()
    with EventStorage() as storage:
        layers.roi_loss(features, torch.full((R,), 2))
        names = {n for n in storage.latest() if n.startswith("disalign/")}
    assert names == {
        *(
            f"disalign/{key}/{group}"
            for key in ("alpha", "beta")
            for group in ("common", "frequent")
        ),
        *(f"disalign/sigma_q{level}/frequent" for level in (10, 50, 90)),
    }


def test_logging_costs_no_gradient():
    """The loss's gradients are those of the cross-entropy, with or without a log."""
    layers, (features, proposals) = make_layers(), make_rois()
    classes = labels(proposals)
    with EventStorage():
        loss = layers.roi_loss(features, classes)
    given = torch.autograd.grad(loss, list(layers.calibration.parameters()))
    weights = torch.cat([WEIGHTS, torch.ones(1)])
    plain = F.cross_entropy(layers(features)[0], classes, weights)
    expected = torch.autograd.grad(plain, list(layers.calibration.parameters()))
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_under_autocast(classifier):
    layers, (features, proposals) = make_layers(classifier=classifier), make_rois()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        scores, _ = layers(features)
        loss = layers.roi_loss(features, labels(proposals))
    assert scores.dtype == torch.float32 and loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in layers.calibration.parameters())
