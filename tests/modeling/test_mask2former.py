# SPDX-License-Identifier: Apache-2.0
"""Mask2Former as a head: transformers' model with the same weights and batch, and the contract."""

import math
import sys

import pytest
import torch
from region_rebalance.head import RegionRebalanceHead
from torch.nn import functional as F

from tests.messages import raises_naming

pytest.importorskip("transformers")

from tests.queries import (
    HEIGHT,
    QUERIES,
    SHAPES,
    WIDTH,
    K,
    bare_model,
    batch,
    build,
    head_config,
    load_bare,
    maps,
)


@pytest.fixture
def bare():
    return bare_model()


@pytest.fixture
def head():
    return load_bare(build(head_config()))


def test_losses_and_gradients_are_those_of_transformers(bare, head):
    """The loss of transformers' own forward pass, with masks written by hand."""
    images, labels = batch()
    bare.train(), head.train()
    # Batch statistics: the backbone runs once for both.
    features = {k: v.detach().requires_grad_() for k, v in maps(bare, images).items()}
    given = type(
        "Given", (), {"feature_maps": [v.detach().requires_grad_() for v in features.values()]}
    )
    encoder = bare.model.pixel_level_module.encoder
    encoder.forward = lambda _: given
    masks = [
        torch.stack([labels[0] == c for c in range(3)]).float(),
        (labels[1] == 2).float()[None],
    ]
    torch.manual_seed(5)
    expected = bare(
        images, mask_labels=masks, class_labels=[torch.arange(3), torch.tensor([2])]
    ).loss
    expected.backward()
    torch.manual_seed(5)
    logits, losses = head(features, labels)
    assert logits is None and [*losses] == ["loss_cross_entropy", "loss_mask", "loss_dice"]
    loss = sum(losses.values())
    loss.backward()
    torch.testing.assert_close(loss, expected.squeeze(), rtol=1e-6, atol=0)
    compared = dict(bare.named_parameters())
    for name, parameter in head.mask2former.named_parameters():
        torch.testing.assert_close(parameter.grad, compared[name].grad, rtol=1e-4, atol=1e-6)
    for one, other in zip(features.values(), given.feature_maps, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_each_loss_is_the_sum_over_layers_of_transformers(bare, head):
    images, labels = batch()
    features = maps(bare.eval(), images)
    queries = head.train().queries(features)
    torch.manual_seed(5)
    losses = head.losses(queries, labels)
    masks, classes = head.ground_truth(labels)
    torch.manual_seed(5)
    found = bare.criterion(
        queries.mask_logits[-1],
        queries.class_logits[-1],
        masks,
        classes,
        bare.get_auxiliary_logits(queries.class_logits, queries.mask_logits),
    )
    for name, weight in (("loss_cross_entropy", 2), ("loss_mask", 5), ("loss_dice", 5)):
        expected = found[name] + found[f"{name}_0"] + found[f"{name}_1"]
        torch.testing.assert_close(losses[name], weight * expected, rtol=1e-6, atol=0)


def test_outputs_are_those_of_transformers_and_scores_the_papers(bare, head):
    images, _ = batch()
    with torch.no_grad():
        expected = bare.eval()(images)
        features = maps(bare, images)
        queries = head.eval().queries(features)
        scores, losses = head(features)
    assert losses == {}
    assert torch.equal(queries.class_logits[-1], expected.class_queries_logits)
    assert torch.equal(queries.mask_logits[-1], expected.masks_queries_logits)
    masks = F.interpolate(expected.masks_queries_logits.double(), (HEIGHT, WIDTH), mode="bilinear")
    p = expected.class_queries_logits.double().softmax(-1)
    s = torch.zeros(2, K, HEIGHT, WIDTH, dtype=torch.float64)
    for n in range(2):
        for q in range(QUERIES):
            for c in range(K):
                s[n, c] += p[n, q, c] * masks[n, q].sigmoid()
    torch.testing.assert_close(scores.double(), s.log(), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.double().softmax(1), s / s.sum(1, True), rtol=0, atol=1e-5)


def test_masks_of_an_image_are_those_of_the_classes_that_it_shows(head):
    labels = torch.tensor([[[2, 0, 255], [2, 2, 0]], [[255, 255, 255], [255, 255, 255]]])
    masks, classes = head.ground_truth(labels)
    assert classes[0].tolist() == [0, 2] and masks[0].dtype == torch.float32
    assert masks[0].tolist() == [[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0]]]
    assert classes[1].tolist() == [] and masks[1].shape == (0, 2, 3)
    with raises_naming(ValueError, "3", "0..2", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"):
        head.ground_truth(torch.full((1, 2, 2), 3))


def test_a_batch_without_labels_only_teaches_that_there_is_no_object(head):
    images, labels = batch()
    losses = head.train()(maps(bare_model().eval(), images), labels.fill_(255))[1]
    assert losses["loss_mask"] == losses["loss_dice"] == 0 < losses["loss_cross_entropy"]
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.mask2former.parameters())


def test_what_the_losses_are_divided_by(head):
    """3 + 1 masks; 4 matched queries of weight 1 and 10 others of weight 0.1."""
    divisors = {k: v.item() for k, v in head.loss_normalizers(batch()[1]).items()}
    assert divisors == {
        "loss_cross_entropy": pytest.approx(5.0),
        "loss_mask": 4.0,
        "loss_dice": 4.0,
    }


@pytest.fixture
def branch():
    cfg = head_config(
        SEM_SEG_HEAD__NAME="RegionRebalanceHead",
        REGION_REBALANCE__BASE_HEAD_NAME="Mask2FormerHead",
        REGION_REBALANCE__BALANCED=False,
    )
    head = load_bare(build(cfg))
    head.balanced = True
    head.class_counts.copy_(torch.tensor([50, 20, 5]))
    torch.nn.init.normal_(head.region_classifier.weight)
    return head


def test_region_rebalance_classifies_the_mean_mask_feature_of_a_class(bare, head, branch):
    """Eq. 7 to 9, written out: the mask features are transformers' ``pixel_decoder_last``."""
    assert isinstance(branch, RegionRebalanceHead)
    images, labels = batch()
    with torch.no_grad():
        out = bare.eval()(images, output_hidden_states=True)
        features = maps(bare, images)
    pixels = out.pixel_decoder_last_hidden_state
    cells = labels[:, ::4, ::4]
    means, classes = [], []
    for n in range(2):
        for c in cells[n].unique().tolist():
            if c != 255:
                means.append(pixels[n][:, cells[n] == c].mean(dim=1))
                classes.append(c)
    assert classes == [0, 1, 2, 2]
    z = branch.region_classifier(torch.stack(means)) + torch.tensor([50.0, 20, 5]).log()
    expected = F.cross_entropy(z, torch.tensor(classes))
    torch.manual_seed(5)
    losses = branch.train()(features, labels)[1]
    torch.testing.assert_close(losses.pop("loss_region"), 0.3 * expected, rtol=1e-5, atol=0)
    torch.manual_seed(5)
    plain = head.train()(features, labels)[1]
    assert losses.keys() == plain.keys() and all(losses[k] == plain[k] for k in plain)
    assert branch.loss_normalizers(labels)["loss_region"] == 4


def test_the_region_branch_is_gone_in_testing_and_from_the_names(bare, head, branch):
    images, _ = batch()
    with torch.no_grad():
        features = maps(bare.eval(), images)
        assert torch.equal(branch.eval()(features)[0], head.eval()(features)[0])
    own = {name for name in branch.state_dict() if not name.startswith("region_classifier.")}
    assert own == head.state_dict().keys()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            {"SEM_SEG_HEAD__CONVS_DIM": 48},
            ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "48", "MODEL.MASK2FORMER.HEADS"),
        ),
        ({"MASK2FORMER__HEADS": 5}, ("MODEL.MASK2FORMER.HEADS", "5")),
        ({"MASK2FORMER__QUERIES": 0}, ("MODEL.MASK2FORMER.QUERIES", "0")),
        ({"SEM_SEG_HEAD__IN_FEATURES": []}, ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "res2")),
        ({"SEM_SEG_HEAD__IN_FEATURES": ["res6"]}, ("'res6'", "OUT_FEATURES")),
        (
            {"SEM_SEG_HEAD__IN_FEATURES": ["res3", "res4", "res5"]},
            ("MODEL.SEM_SEG_HEAD.IN_FEATURES",),
        ),
        ({"SEM_SEG_HEAD__PIXEL_LOSS": "dice"}, ("MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "dice")),
    ],
)
def test_refuses_what_it_cannot_be_built_with(overrides, named):
    with raises_naming(ValueError, *named):
        build(head_config(**overrides))


def test_refuses_dilated_backbones(monkeypatch):
    monkeypatch.setitem(SHAPES, "res5", SHAPES["res4"])
    with raises_naming(ValueError, "[4, 8, 16, 16]", "OUTPUT_STRIDE"):
        build(head_config())


def test_says_in_one_line_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with raises_naming(ImportError, "detectron2-longtail[mask2former]", "Mask2FormerHead") as error:
        build(head_config())
    assert "\n" not in str(error.value)


def test_scores_that_underflow_have_a_finite_log(head):
    scores = head.log_scores(torch.zeros(1, 2, K + 1), torch.full((1, 2, 4, 4), -200.0))
    assert scores.shape == (1, K, 16, 16)
    assert scores.unique().item() == pytest.approx(math.log(1e-12))
