# SPDX-License-Identifier: Apache-2.0
"""The second stage of semantic heads: ours, detectron2's, and with a region branch."""

import math

import pytest
import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.events import EventStorage
from disalign.functional import alignment_loss
from disalign.sem_seg import DisAlignSemSegHead
from torch.nn import functional as F

from longtail.data.statistics.class_stats import ClassStats
from tests.disalign.detectors import disturb, tensors
from tests.disalign.segmentors import (
    HEIGHT,
    KINDS,
    WEIGHTS,
    WIDTH,
    first_head,
    head_config,
    inner_head,
    make_inputs,
    second_head,
)
from tests.modeling.head_contract import NARROW, level_shapes

each_kind = pytest.mark.parametrize("kind", KINDS)
each_mean = pytest.mark.parametrize("weighted_mean", [True, False])


def training_loss(head, features, labels):
    with EventStorage():
        logits, losses = head.train()(features, labels)
    assert logits is None and losses.keys() == {"loss_sem_seg"}
    return losses["loss_sem_seg"]


@each_kind
def test_at_its_start_it_is_the_first_stage_bit_for_bit(kind):
    first, second = first_head(kind), second_head(kind).eval()
    features, _ = make_inputs()
    with torch.no_grad():
        expected, _ = first(features)
        given, losses = second(features)
        assert losses == {} and len(expected.unique()) > 100
        assert torch.equal(given, expected)
        # Which is no accident: a calibration that has moved shows.
        assert (disturb(second)(features)[0] - expected).abs().max() > 0.1


@pytest.mark.parametrize("switch", [None, "CONFIDENCE", "CONFIDENCE_BIAS"])
@each_kind
def test_every_pixel_is_calibrated_by_equation_5(kind, switch):
    first = first_head(kind).double()
    off = [f"MODEL.DISALIGN.{switch}", False] if switch else []
    second = disturb(second_head(kind, *off)).double().eval()
    features = {key: x.double() for key, x in make_inputs()[0].items()}
    seen = []
    handle = inner_head(first).predictor.register_forward_hook(
        lambda module, inputs, output: seen.extend((inputs[0], output))
    )
    first(features)
    handle.remove()
    x, z = (t.permute(0, 2, 3, 1).tolist() for t in seen)
    values = {n: p.flatten().tolist() for n, p in second.calibration.named_parameters()}
    expected = torch.empty_like(seen[1])
    for n, image in enumerate(z):
        for i, row in enumerate(image):
            for j, scores in enumerate(row):
                sigma = 1.0
                if "confidence_layer.weight" in values:
                    pairs = zip(values["confidence_layer.weight"], x[n][i][j], strict=True)
                    activation = sum(w * v for w, v in pairs)
                    activation += values.get("confidence_layer.bias", [0.0])[0]
                    sigma = 1 / (1 + math.exp(-activation))
                for k, score in enumerate(scores):
                    scaled = values["alpha"][k] * score + values["beta"][k]
                    expected[n, k, i, j] = sigma * scaled + (1 - sigma) * score
    with torch.no_grad():
        given = second(features)[0]
    stride = inner_head(first).common_stride
    expected = F.interpolate(expected, scale_factor=stride, mode="bilinear", align_corners=False)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-12)


@each_mean
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (29, 43)], ids=str)
@each_kind
def test_the_loss_is_the_alignment_loss_of_the_pixels(kind, size, weighted_mean):
    second = disturb(second_head(kind, "MODEL.DISALIGN.WEIGHTED_MEAN", weighted_mean))
    features, labels = make_inputs(size)
    # What it gives in testing, of which the part that is the image counts.
    logits = second.eval()(features)[0][..., : size[0], : size[1]]
    valid = labels != 255
    expected = alignment_loss(
        logits.permute(0, 2, 3, 1)[valid], labels[valid], WEIGHTS, weighted_mean=weighted_mean
    )
    learned = dict(second.calibration.named_parameters())
    gradients = torch.autograd.grad(expected, list(learned.values()))
    loss = training_loss(second, features, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    for (name, parameter), gradient in zip(learned.items(), gradients, strict=True):
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert {n for n, p in second.named_parameters() if p.grad is not None} == {
        f"calibration.{name}" for name in learned
    }


def test_without_reweighting_it_is_the_first_stages_cross_entropy():
    second = second_head("fcn")
    second.class_weights.fill_(1)
    features, labels = make_inputs()
    expected = F.cross_entropy(first_head("fcn")(features)[0], labels, ignore_index=255)
    torch.testing.assert_close(training_loss(second, features, labels), expected)


@each_mean
def test_a_batch_without_valid_pixels_costs_nothing_and_backpropagates(weighted_mean):
    second = disturb(second_head("fcn", "MODEL.DISALIGN.WEIGHTED_MEAN", weighted_mean))
    features, labels = make_inputs()
    loss = training_loss(second, features, torch.full_like(labels, 255))
    assert loss.item() == 0
    loss.backward()
    assert all((p.grad == 0).all() for p in second.calibration.parameters())


def test_the_loss_has_the_factor_of_the_config():
    features, labels = make_inputs()
    once = training_loss(second_head("fcn"), features, labels)
    twice = training_loss(
        second_head("fcn", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 2.0), features, labels
    )
    torch.testing.assert_close(twice, 2 * once)


@each_kind
def test_what_is_useless_is_not_computed(kind):
    second = disturb(second_head(kind))
    features, labels = make_inputs()
    ran, graphs = set(), {}
    for name, module in second.named_modules():
        if not list(module.children()) and list(module.parameters()):

            def record(module, inputs, output, name=name):
                ran.add(name)
                graphs[name] = output.requires_grad

            module.register_forward_hook(record)
    before = tensors(second)
    training_loss(second, features, labels).backward()
    assert len(ran) >= 4 and any(name.endswith("predictor") for name in ran)
    # Neither auxiliary head nor region branch, although the model has them.
    assert not any("auxiliary" in name or "region_classifier" in name for name in ran)
    if kind != "detectron2's":
        assert any("auxiliary" in name for name, _ in second.named_modules())
    # No graph up to the classifier's own output, which is calibrated after it.
    assert not any(graphs.values())
    # Batch statistics, too.
    after = tensors(second)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@each_kind
def test_dropout_rests(kind):
    """It is a half: two training steps on the same batch would differ."""
    second = disturb(second_head(kind))
    features, labels = make_inputs()
    losses = [training_loss(second, features, labels).item() for _ in range(2)]
    assert losses[0] == losses[1]
    first = first_head(kind).train()
    assert len({first(features, labels)[1]["loss_sem_seg"].item() for _ in range(2)}) == 2


@each_kind
def test_checkpoints_name_what_the_first_stage_names(kind):
    first, second = first_head(kind), disturb(second_head(kind))
    own = {f"calibration.{name}" for name in second.calibration.state_dict()}
    assert set(second.state_dict()) == {*first.state_dict(), *own} and len(own) == 4
    other = second_head(kind)
    other.load_state_dict(second.state_dict())
    features, _ = make_inputs()
    with torch.no_grad():
        assert torch.equal(other.eval()(features)[0], second.eval()(features)[0])


def test_what_is_logged():
    second = second_head("fcn")
    features, labels = make_inputs()
    labels[labels == 2] = 1
    with torch.no_grad():
        second.calibration.alpha.copy_(torch.tensor([1.5, 0.5, 2.0]))
        second.calibration.beta.copy_(torch.tensor([0.1, -0.2, 0.3]))
    with EventStorage() as storage:
        second.train()(features, labels)
        latest = {key: value for key, (value, _) in storage.latest().items()}
    assert latest["disalign/alpha/tail"] == 2 and latest["disalign/alpha/body"] == 0.5
    assert latest["disalign/beta/head"] == pytest.approx(0.1)
    # sigma at the cells that show the group, by nearest neighbour; no cell shows the tail.
    inner, entered = inner_head(second), []
    inner.predictor.register_forward_hook(lambda m, inputs, o: entered.append(inputs[0]))
    second.eval()(features)
    layer = second.calibration.confidence_layer
    sigma = (entered[0].permute(0, 2, 3, 1) @ layer.weight[0] + layer.bias).sigmoid()
    shown = labels[:, ::8, ::8]
    for name, index in (("head", 0), ("body", 1)):
        for level in (10, 50, 90):
            expected = sigma[shown == index].quantile(level / 100).item()
            assert latest[f"disalign/sigma_q{level}/{name}"] == pytest.approx(expected, abs=1e-6)
    assert not any("sigma" in key and "tail" in key for key in latest)


def test_memory_format_and_mixed_precision_compute_the_same():
    second = disturb(second_head("deeplab"))
    features, labels = make_inputs()
    expected = training_loss(second, features, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = training_loss(second, features, labels)
    assert half.dtype == torch.float32
    # bfloat16 has 8 bits.
    torch.testing.assert_close(half, expected, rtol=0.02, atol=0)
    second.to(memory_format=torch.channels_last)
    features = {k: x.to(memory_format=torch.channels_last) for k, x in features.items()}
    torch.testing.assert_close(training_loss(second, features, labels), expected)


class Counted:
    """Pixels, here (K,) of them."""

    def __init__(self, pixels, classes=("sky", "pole", "sign")):
        self.stats = ClassStats(classes, 5, pixels, [1] * len(classes), None)

    def __call__(self, names):
        return self.stats


def build(*overrides, kind="fcn"):
    options = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead", "DATASETS.TRAIN", ("somewhere",)]
    cfg = head_config(kind, *options, "MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead", *overrides)
    return SEM_SEG_HEADS_REGISTRY.get("DisAlignSemSegHead")(cfg, level_shapes(NARROW))


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_weights_are_equation_11_of_the_training_pixels(monkeypatch, rho):
    pixels = [7000, 40, 300]
    monkeypatch.setattr("disalign.reference.get_class_stats", Counted(pixels))
    head = build("MODEL.DISALIGN.RHO", rho)
    raw = [(1 / r) ** rho for r in pixels]
    expected = torch.tensor([3 * w / sum(raw) for w in raw])
    torch.testing.assert_close(head.class_weights, expected, rtol=1e-6, atol=0)
    # Thirds by pixels.
    assert head.class_groups == {"head": [0], "body": [2], "tail": [1]}


def test_groups_are_the_data_sets_if_it_has_some(monkeypatch):

    monkeypatch.setattr("disalign.reference.get_class_stats", Counted([7, 4, 3]))
    groups = {"head": [1], "body": [], "tail": [0, 2]}
    monkeypatch.setattr(
        "disalign.sem_seg.MetadataCatalog.get", lambda name: {"class_groups": groups}
    )
    assert build().class_groups == groups


@pytest.mark.parametrize(
    ("pixels", "overrides", "message"),
    [
        (None, (), "somewhere has no label maps: DisAlign weighs"),
        ([5, 0, 1], (), r"class 1 \(pole\) does not occur in the training set"),
        ([5, 3, 1], ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4), r"class_weights must have shape \(4,\)"),
        ([5, 3, 1], ("MODEL.DISALIGN.RHO", -1.0), "rho must be finite and >= 0, got -1"),
        (
            [5, 3, 1],
            ("MODEL.DISALIGN.PIXEL_CLASSIFIER", "clasifier"),
            "FCNHead has no pixel classifier 'clasifier': set MODEL.DISALIGN.PIXEL_CLASSIFIER .*",
        ),
        (
            [5, 3, 1],
            ("MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHed"),
            "MODEL.DISALIGN.BASE_HEAD_NAME: nothing is registered as 'FCNHed'; near names: FCNHead",
        ),
        (
            [5, 3, 1],
            ("MODEL.DISALIGN.BASE_HEAD_NAME", "DisAlignSemSegHead"),
            "must name the head to wrap, got DisAlignSemSegHead itself",
        ),
        (
            [5, 3, 1],
            (
                *("MODEL.DISALIGN.BASE_HEAD_NAME", "RegionRebalanceHead"),
                *("MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "DisAlignSemSegHead"),
            ),
            "MODEL.REGION_REBALANCE.BASE_HEAD_NAME must name a head of a first stage",
        ),
        (
            [5, 3, 1],
            ("MODEL.DISALIGN.MAGNITUDE", False, "MODEL.DISALIGN.MARGIN", False),
            "learns nothing: set MAGNITUDE",
        ),
    ],
)
def test_bad_options_are_named(monkeypatch, pixels, overrides, message):
    monkeypatch.setattr("disalign.reference.get_class_stats", Counted(pixels))
    with pytest.raises(ValueError, match=message) as info:
        build(*overrides)
    assert "\n" not in str(info.value)


def test_a_class_without_pixels_can_count_as_one(monkeypatch):
    monkeypatch.setattr("disalign.reference.get_class_stats", Counted([4, 0, 1]))
    head = build("MODEL.DISALIGN.CLAMP_ZERO_COUNTS", True, "MODEL.DISALIGN.RHO", 1.0)
    # 1/4, 1, 1, times 3 / (9/4).
    torch.testing.assert_close(head.class_weights, torch.tensor([1 / 3, 4 / 3, 4 / 3]))


def test_the_switches_of_the_config_arrive():
    head = second_head("fcn", "MODEL.DISALIGN.MARGIN", False, "MODEL.DISALIGN.CONFIDENCE", False)
    assert isinstance(head, DisAlignSemSegHead)
    assert [name for name, _ in head.calibration.named_parameters()] == ["alpha"]
