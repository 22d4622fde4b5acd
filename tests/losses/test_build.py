# SPDX-License-Identifier: Apache-2.0
"""Losses by name: for which tasks, from which statistics, and what is refused."""

import math

import numpy as np
import pytest
import torch

from longtail.data.statistics.class_stats import ClassStats, get_class_stats
from longtail.losses import (
    BOXES,
    IMAGES,
    LOSS_REGISTRY,
    PIXELS,
    ClassLoss,
    CrossEntropy,
    Equalization,
    PixelLoss,
    SoftmaxEqualization,
    build_loss,
    loss_names,
    register_loss,
)
from longtail.losses.class_weights import effective_number_weights, inverse_frequency_weights
from tests.tiny_detection import detector_config, register_rectangles

K = 4
COUNTS = {
    "image_count": np.array([100, 30, 4, 0]),
    "instance_count": np.array([1000, 99, 8, 0]),
    "pixel_count": np.array([90_000, 400, 1, 0]),
}
SOFTMAX = {
    "balanced_softmax",
    "class_balanced",
    "cross_entropy",
    "focal",
    "ldam_drw",
    "reweighted_cross_entropy",
    "seesaw",
}
PRIORS = {"balanced_softmax_pixel_prior", "balanced_softmax_region_prior"}
# Of maps, no class losses.
DICE = {"dice", "dice_cross_entropy"}
NAMES = {
    IMAGES: SOFTMAX | {"eql", "eqlv2", "bags"},
    PIXELS: SOFTMAX - {"balanced_softmax"} | PRIORS | DICE,
    BOXES: SOFTMAX | {"eql", "eqlv2", "bags", "federated"},
}
# A semantic head is not built with them for inference, see deployed_config.
COUNTED_PIXELS = PRIORS | {"reweighted_cross_entropy", "class_balanced", "ldam_drw"}
EACH = [(task, name) for task, names in NAMES.items() for name in sorted(names)]


def each(cases):
    ids = [f"{name}-{task.samples}" for task, name in cases]
    return pytest.mark.parametrize(("task", "name"), cases, ids=ids)


each_loss = each([(task, name) for task, name in EACH if name not in DICE])
each_task = pytest.mark.parametrize("task", NAMES, ids=lambda task: task.samples)


def set_classes(cfg, task, number):
    cfg.merge_from_list([task.classes_key, number])


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    cfg = detector_config(tmp_path, ["DATASETS.TRAIN", ("toy",)])
    cfg.defrost()
    for task in NAMES:
        set_classes(cfg, task, K)
    stats = ClassStats(("a", "b", "c", "d"), 100, **COUNTS)
    monkeypatch.setattr("longtail.losses.build.get_class_stats", lambda names: stats)
    return cfg


def build(cfg, name, task) -> ClassLoss:
    """The loss that the task's key names; on pixels the one that is applied to the valid ones."""
    cfg.merge_from_list([task.loss_key, name])
    loss = build_loss(cfg, task)
    if task is PIXELS:
        assert type(loss) is PixelLoss and loss.ignore_label == 255
        loss = loss.class_loss
    assert isinstance(loss, ClassLoss) and loss.num_classes == K
    return loss


def with_background(values, task, value):
    values = torch.as_tensor(values, dtype=torch.float32)
    return torch.cat([values, torch.tensor([value])]) if task.background else values


@each_task
def test_names(task):
    assert set(loss_names(task)) == NAMES[task]


@each_loss
def test_each_can_be_built(cfg, task, name):
    loss = build(cfg, name, task)
    more = {"bags": 4 + task.background, "seesaw": task.background}.get(name, 0)
    assert loss.num_logits == K + task.background + more
    logits = torch.randn(8, loss.num_logits, requires_grad=True)
    loss(logits, torch.arange(8) % 3).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().max() > 0
    assert loss.probabilities(logits).shape == (8, K + task.background)


@each([(t, n) for t, n in EACH if n not in DICE and not (t is PIXELS and n in COUNTED_PIXELS)])
def test_without_a_training_set_no_statistics_are_read(cfg, monkeypatch, task, name):
    trained = build(cfg, name, task)
    cfg.DATASETS.TRAIN = ()
    monkeypatch.setattr("longtail.losses.build.get_class_stats", None)
    deployed = build(cfg, name, task)
    deployed.load_state_dict(trained.state_dict())
    assert deployed.num_logits == trained.num_logits
    logits = torch.randn(5, trained.num_logits)
    assert torch.equal(deployed.probabilities(logits), trained.probabilities(logits))


def sample_counts(task):
    """What the effective number is of: pixels are no samples, their images are."""
    return torch.tensor(COUNTS["image_count" if task is PIXELS else task.statistic])


@each_task
def test_weights(cfg, task):
    counts = torch.tensor(COUNTS[task.statistic])
    cfg.MODEL.CLASS_LOSS.REWEIGHT_EXPONENT = 0.8
    cfg.MODEL.CLASS_LOSS.EFFECTIVE_NUMBER_BETA = 0.99
    expected = {
        "reweighted_cross_entropy": inverse_frequency_weights(counts, 0.8),
        "class_balanced": effective_number_weights(sample_counts(task), 0.99),
    }
    for name, weights in expected.items():
        assert weights[3] == 0 and weights[:3].mean().item() == pytest.approx(1)
        given = build(cfg, name, task).class_weight
        assert torch.equal(given, with_background(weights, task, 1.0))


@pytest.mark.parametrize("task", [IMAGES, BOXES], ids=lambda task: task.samples)
def test_the_prior_of_balanced_softmax_does_not_shift_the_background(cfg, task):
    counts = COUNTS[task.statistic]
    expected = with_background(counts / counts[:3].mean(), task, 1.0)
    given = build(cfg, "balanced_softmax", task).class_prior
    torch.testing.assert_close(given, expected)


@each_task
def test_margins_and_schedule_of_ldam(cfg, task):
    cfg.MODEL.CLASS_LOSS.LDAM_MARGIN, cfg.SOLVER.MAX_ITER = 0.6, 11
    cfg.MODEL.CLASS_LOSS.LDAM_SCALE = 10.0
    loss = build(cfg, "ldam_drw", task)
    assert loss.cosine_scale == 10
    expected = 6 * np.maximum(COUNTS[task.statistic], 1) ** -0.25
    torch.testing.assert_close(loss.margins, with_background(expected, task, 0.0))
    assert loss.reweight_from == 9  # the first of those >= 8.8
    weights = effective_number_weights(sample_counts(task), 0.9999)
    assert torch.equal(loss.deferred_weights, with_background(weights, task, 1.0))


@pytest.mark.parametrize(
    ("task", "kind"),
    [(IMAGES, SoftmaxEqualization), (BOXES, Equalization)],
    ids=["images", "boxes"],
)
def test_tail_classes_are_in_few_images(cfg, task, kind):
    cfg.MODEL.CLASS_LOSS.EQL_FREQUENCY = 0.3
    loss = build(cfg, "eql", task)
    assert type(loss) is kind and loss.tail.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("task", "bins"), [(IMAGES, [2, 1, 0, 0]), (BOXES, [3, 1, 0, 0])], ids=["images", "boxes"]
)
def test_bins(cfg, task, bins):
    loss = build(cfg, "bags", task)
    assert loss.bins.tolist() == bins and loss.num_bins == 4


def test_federated_weights_are_of_images(cfg):
    loss = build(cfg, "federated", BOXES)
    assert loss.sampling_weights.tolist() == pytest.approx([10, 30**0.5, 2, 0])


def test_statistics_of_real_annotations(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    name = register_rectangles("toy_rectangles_of_losses", tmp_path / "data")
    cfg = detector_config(tmp_path, ["DATASETS.TRAIN", (name,)])
    cfg.merge_from_list([BOXES.loss_key, "reweighted_cross_entropy"])
    loss = build_loss(cfg, BOXES)
    # Four images: red in each, green in two, blue in one.
    assert loss.class_weight.tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7, 1])


@pytest.fixture
def own_loss():
    """A loss of somebody else, for pixels and boxes."""

    @register_loss(PIXELS, BOXES)
    def twice_cross_entropy(cfg, task):
        class Twice(CrossEntropy):
            def of_pixels(self, *args):
                return 2 * super().of_pixels(*args)

        return Twice(task.num_classes(cfg), background=task.background)

    yield twice_cross_entropy.__name__
    LOSS_REGISTRY._obj_map.pop(twice_cross_entropy.__name__)


def test_a_loss_of_somebody_else(cfg, own_loss):
    assert own_loss in loss_names(PIXELS) and own_loss not in loss_names(IMAGES)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 9
    cfg.merge_from_list([PIXELS.loss_key, own_loss])
    labels = torch.tensor([[[0, 9], [2, 3]]])
    # Of logits of zero log K, and twice that.
    assert build_loss(cfg, PIXELS)(torch.zeros(1, K, 2, 2), labels).item() == pytest.approx(
        2 * math.log(K)
    )
    assert build(cfg, own_loss, BOXES)(torch.zeros(2, K + 1), torch.tensor([0, K])).item() == (
        pytest.approx(2 * math.log(K + 1))
    )
    assert_refused(
        "'twice_cross_entropy', which is defined for pixels and boxes alone", cfg, own_loss, IMAGES
    )


# --- what is refused, in one line


def assert_refused(message, cfg, name, task):
    cfg.merge_from_list([task.loss_key, name])
    with pytest.raises(ValueError, match=message) as info:
        build_loss(cfg, task)
    assert "\n" not in str(info.value)


def test_an_unknown_name(cfg):
    message = r"MODEL.CLASSIFIER.LOSS must be one of bags, .*seesaw, got 'Focal'$"
    assert_refused(message, cfg, "Focal", IMAGES)


def test_a_loss_of_another_task(cfg):
    message = "CLASSIFIER.LOSS must be one of .*, got 'federated', which is defined for boxes alone"
    assert_refused(message, cfg, "federated", IMAGES)
    message = "PIXEL_LOSS must be one of .*, got 'eql', which is defined for images and boxes alone"
    assert_refused(message, cfg, "eql", PIXELS)
    message = "CLASS_LOSS must be one of .*, got 'dice', which is defined for pixels alone"
    assert_refused(message, cfg, "dice", BOXES)


@pytest.mark.parametrize("name", sorted(COUNTED_PIXELS))
def test_pixels_are_not_counted_without_a_training_set(cfg, name):
    cfg.DATASETS.TRAIN = ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longtail.losses.build.get_class_stats", get_class_stats)
        assert_refused("need a data set", cfg, name, PIXELS)


@pytest.mark.parametrize(
    ("key", "value", "loss"),
    [
        ("FOCAL_GAMMA", -1.0, "focal"),
        ("REWEIGHT_EXPONENT", float("nan"), "reweighted_cross_entropy"),
        ("EFFECTIVE_NUMBER_BETA", 1.0, "class_balanced"),
        ("LDAM_REWEIGHT_FROM", 1.1, "ldam_drw"),
        ("SEESAW_Q", -0.1, "seesaw"),
        ("SEESAW_EPS", 1.01, "seesaw"),
        ("FOCAL_ALPHA", 1.5, "focal"),
        ("EQL_GAMMA", 1.5, "eql"),
        ("EQLV2_ALPHA", -4.0, "eqlv2"),
        ("BAGS_BETA", -8.0, "bags"),
        ("FEDERATED_NUM_CLASSES", -1, "federated"),
    ],
)
def test_an_option_out_of_range(cfg, key, value, loss):
    cfg.MODEL.CLASS_LOSS[key] = value
    assert_refused(rf"MODEL.CLASS_LOSS.{key} must be in \[0, .*\], got {value}", cfg, loss, BOXES)


@pytest.mark.parametrize("scale", [0.0, -30.0, math.inf, math.nan])
def test_a_scale_that_is_none(cfg, scale):
    cfg.MODEL.CLASS_LOSS.LDAM_SCALE = scale
    message = rf"MODEL.CLASS_LOSS.LDAM_SCALE must be finite and > 0, got {scale}"
    assert_refused(message, cfg, "ldam_drw", IMAGES)


@pytest.mark.parametrize("bins", [[], [10, 10], [100, 10], [0, 10]])
def test_bins_that_are_none(cfg, bins):
    cfg.MODEL.CLASS_LOSS.BAGS_BINS = bins
    assert_refused("BAGS_BINS must be counts > 0 in ascending order, got", cfg, "bags", BOXES)


@each_task
def test_statistics_of_another_number_of_classes(cfg, task):
    set_classes(cfg, task, 7)
    statistic = "image_count" if task is PIXELS else task.statistic
    message = f"{task.loss_key} .* needs the {statistic} of NUM_CLASSES 7 .*toy has 4 classes"
    assert_refused(message, cfg, "class_balanced", task)


def test_a_training_set_without_the_count(cfg, monkeypatch):
    stats = ClassStats(("a", "b", "c", "d"), 100, None, COUNTS["image_count"], None)
    monkeypatch.setattr("longtail.losses.build.get_class_stats", lambda names: stats)
    message = "CLASS_LOSS .* needs the instance_count .*, but toy has no such count"
    assert_refused(message, cfg, "bags", BOXES)
