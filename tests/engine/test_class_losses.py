"""Class losses by name: for which tasks, from which statistics, and what is refused."""

import numpy as np
import pytest
import torch

import longtail.losses.from_statistics as class_losses
from longtail.data.statistics.class_stats import ClassStats
from longtail.losses import (
    BOXES,
    IMAGES,
    PIXELS,
    Equalization,
    SoftmaxEqualization,
    build_class_loss,
    class_loss_names,
)
from longtail.losses.cross_entropy import effective_number_weights, inverse_frequency_weights
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
NAMES = {
    IMAGES: SOFTMAX | {"eql", "eqlv2", "bags"},
    PIXELS: SOFTMAX - {"balanced_softmax"},
    BOXES: SOFTMAX | {"eql", "eqlv2", "bags", "federated"},
}
EACH = [(task, name) for task, names in NAMES.items() for name in sorted(names)]
each_loss = pytest.mark.parametrize(
    ("task", "name"), EACH, ids=[f"{name}-{task.samples}" for task, name in EACH]
)
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
    monkeypatch.setattr(class_losses, "get_class_stats", lambda names: stats)
    return cfg


def with_background(values, task, value):
    values = torch.as_tensor(values, dtype=torch.float32)
    return torch.cat([values, torch.tensor([value])]) if task.background else values


@each_task
def test_names(task):
    assert set(class_loss_names(task)) == NAMES[task]


@each_loss
def test_each_can_be_built(cfg, task, name):
    loss = build_class_loss(cfg, name, task)
    bags = 4 + task.background if name == "bags" else 0
    assert loss.num_logits == K + task.background + bags
    logits = torch.randn(8, loss.num_logits, requires_grad=True)
    loss(logits, torch.arange(8) % 3).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().max() > 0
    assert loss.probabilities(logits).shape == (8, K + task.background)


@each_loss
def test_without_a_training_set_no_statistics_are_read(cfg, monkeypatch, task, name):
    trained = build_class_loss(cfg, name, task)
    cfg.DATASETS.TRAIN = ()
    monkeypatch.setattr(class_losses, "get_class_stats", None)
    deployed = build_class_loss(cfg, name, task)
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
        given = build_class_loss(cfg, name, task).class_weight
        assert torch.equal(given, with_background(weights, task, 1.0))


@pytest.mark.parametrize("task", [IMAGES, BOXES], ids=lambda task: task.samples)
def test_the_prior_of_balanced_softmax_does_not_shift_the_background(cfg, task):
    counts = COUNTS[task.statistic]
    expected = with_background(counts / counts[:3].mean(), task, 1.0)
    given = build_class_loss(cfg, "balanced_softmax", task).class_prior
    torch.testing.assert_close(given, expected)


@each_task
def test_margins_and_schedule_of_ldam(cfg, task):
    cfg.MODEL.CLASS_LOSS.LDAM_MARGIN, cfg.SOLVER.MAX_ITER = 6.0, 11
    loss = build_class_loss(cfg, "ldam_drw", task)
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
    loss = build_class_loss(cfg, "eql", task)
    assert type(loss) is kind and loss.tail.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("task", "bins"), [(IMAGES, [2, 1, 0, 0]), (BOXES, [3, 1, 0, 0])], ids=["images", "boxes"]
)
def test_bins(cfg, task, bins):
    loss = build_class_loss(cfg, "bags", task)
    assert loss.bins.tolist() == bins and loss.num_bins == 4


def test_federated_weights_are_of_images(cfg):
    loss = build_class_loss(cfg, "federated", BOXES)
    assert loss.sampling_weights.tolist() == pytest.approx([10, 30**0.5, 2, 0])


def test_statistics_of_real_annotations(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    name = register_rectangles("toy_rectangles_of_losses", tmp_path / "data")
    cfg = detector_config(tmp_path, ["DATASETS.TRAIN", (name,)])
    loss = build_class_loss(cfg, "reweighted_cross_entropy", BOXES)
    # Four images: red in each, green in two, blue in one.
    assert loss.class_weight.tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7, 1])


# --- what is refused, in one line


def assert_refused(message, cfg, name, task):
    with pytest.raises(ValueError, match=message) as info:
        build_class_loss(cfg, name, task)
    assert "\n" not in str(info.value)


def test_an_unknown_name(cfg):
    message = r"MODEL.CLASSIFIER.LOSS must be one of bags, .*seesaw, got 'Focal'$"
    assert_refused(message, cfg, "Focal", IMAGES)


def test_a_loss_of_another_task(cfg):
    message = "CLASSIFIER.LOSS must be one of .*, got 'federated', which is defined for boxes alone"
    assert_refused(message, cfg, "federated", IMAGES)
    message = "PIXEL_LOSS must be one of .*, got 'eql', which is defined for images and boxes alone"
    assert_refused(message, cfg, "eql", PIXELS)


@pytest.mark.parametrize(
    ("key", "value", "loss"),
    [
        ("FOCAL_GAMMA", -1.0, "focal"),
        ("REWEIGHT_EXPONENT", float("nan"), "reweighted_cross_entropy"),
        ("EFFECTIVE_NUMBER_BETA", 1.0, "class_balanced"),
        ("LDAM_REWEIGHT_FROM", 1.1, "ldam_drw"),
        ("SEESAW_Q", -0.1, "seesaw"),
        ("EQL_GAMMA", 1.5, "eql"),
        ("EQLV2_ALPHA", -4.0, "eqlv2"),
        ("BAGS_BETA", -8.0, "bags"),
        ("FEDERATED_NUM_CLASSES", -1, "federated"),
    ],
)
def test_an_option_out_of_range(cfg, key, value, loss):
    cfg.MODEL.CLASS_LOSS[key] = value
    assert_refused(rf"MODEL.CLASS_LOSS.{key} must be in \[0, .*\], got {value}", cfg, loss, BOXES)


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
    monkeypatch.setattr(class_losses, "get_class_stats", lambda names: stats)
    message = "CLASS_LOSS .* needs the instance_count .*, but toy has no such count"
    assert_refused(message, cfg, "bags", BOXES)
