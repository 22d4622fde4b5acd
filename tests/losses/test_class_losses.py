# SPDX-License-Identifier: Apache-2.0
"""What every class loss must do, and what those with a memory remember."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from longtail.losses import (
    LDAM,
    BalancedGroupSoftmax,
    ClassLoss,
    CrossEntropy,
    Equalization,
    Federated,
    Focal,
    GradientEqualization,
    Seesaw,
    SigmoidFocal,
    SigmoidLoss,
    SoftmaxEqualization,
    check_cosine,
)
from longtail.losses.build import training_iteration
from longtail.losses.functional import ldam_loss, sample_others

S, K = 12, 5
TAIL = torch.tensor([False, False, True, True, False])


def make_loss(name: str, background: bool = False) -> ClassLoss:
    D = K + background
    options = {"background": background}
    return {
        "cross_entropy": lambda: CrossEntropy(K, **options),
        "weighted": lambda: CrossEntropy(K, class_weight=torch.arange(1.0, D + 1), **options),
        "balanced": lambda: CrossEntropy(K, class_prior=torch.arange(1.0, D + 1), **options),
        "focal": lambda: Focal(K, gamma=2.0, **options),
        "sigmoid_focal": lambda: SigmoidFocal(K, gamma=2.0, alpha=0.25, **options),
        "ldam": lambda: LDAM(
            K,
            margins=torch.arange(D) / 2,
            deferred_weights=torch.arange(1.0, D + 1),
            reweight_from=5,
            iteration=training_iteration,
            **options,
        ),
        "seesaw": lambda: Seesaw(K, p=0.8, q=2.0, **options),
        "objectness": lambda: Seesaw(K, p=0.8, q=2.0, objectness=True, **options),
        "eql": lambda: (
            Equalization(K, tail=TAIL, **options)
            if background
            else SoftmaxEqualization(K, tail=TAIL, gamma=0.5)
        ),
        "eqlv2": lambda: GradientEqualization(K, gamma=12.0, mu=0.8, alpha=4.0, **options),
        "bags": lambda: BalancedGroupSoftmax(
            K, bins=torch.tensor([0, 2, 0, 1, 2]), num_bins=3, beta=1.0, **options
        ),
        "federated": lambda: Federated(K, sampling_weights=torch.ones(K), number=4, **options),
    }[name]()


SOFTMAX = ("cross_entropy", "weighted", "balanced", "focal", "ldam", "seesaw", "eql")
IMAGES = [(name, False) for name in (*SOFTMAX, "eqlv2", "bags")]
BOXES = (*SOFTMAX, "eqlv2", "bags", "federated", "sigmoid_focal", "objectness")
ALL = [*IMAGES, *((name, True) for name in BOXES)]
each_loss = pytest.mark.parametrize(
    ("name", "background"), ALL, ids=[f"{n}-{'boxes' if b else 'images'}" for n, b in ALL]
)


def make_batch(loss: ClassLoss, count: int = S, *, dtype=torch.float32, seed: int = 0):
    """(count, D) logits with gradient and (count,) labels, some background if there is any."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, loss.num_logits, generator=generator)
    classes = torch.randint(0, K + loss.background, (count,), generator=generator)
    return logits.to(dtype).requires_grad_(), classes


def value_and_gradient(loss: ClassLoss, logits, classes):
    torch.manual_seed(3)  # of losses that draw
    value = loss(logits, classes)
    return value, torch.autograd.grad(value, logits)[0]


@each_loss
def test_a_scalar_that_backpropagates(name, background):
    loss = make_loss(name, background)
    value, gradient = value_and_gradient(loss, *make_batch(loss))
    assert value.shape == () and value.dtype == torch.float32 and value > 0
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@each_loss
def test_no_samples_give_zero_and_backpropagate(name, background):
    loss = make_loss(name, background)
    logits, classes = make_batch(loss, 0)
    value, gradient = value_and_gradient(loss, logits, classes)
    assert value.item() == 0 and gradient.shape == logits.shape


@each_loss
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_computed_in_float32(name, background, autocast):
    loss = make_loss(name, background).eval()
    logits, classes = make_batch(loss, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value, gradient = value_and_gradient(loss, logits, classes)
    expected, _ = value_and_gradient(loss, logits.float(), classes)
    assert value.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


@each_loss
def test_float64_logits_are_computed_in_float64(name, background):
    loss = make_loss(name, background).eval()
    logits, classes = make_batch(loss, dtype=torch.float64)
    value, gradient = value_and_gradient(loss, logits, classes)
    expected, _ = value_and_gradient(loss, logits.float(), classes)
    assert value.dtype == gradient.dtype == torch.float64
    torch.testing.assert_close(value.float(), expected, atol=1e-5, rtol=0)


@each_loss
def test_probabilities(name, background):
    loss = make_loss(name, background)
    logits, _ = make_batch(loss)
    given = loss.probabilities(logits)
    assert given.shape == (S, K + background)
    assert (given >= 0).all() and (given <= 1).all()
    if loss.is_softmax:
        assert loss.num_logits == K + background
        assert torch.equal(given, F.softmax(logits, dim=-1))
    elif (name, background) == ("eqlv2", True):
        foreground = (-logits[:, K:]).sigmoid()
        torch.testing.assert_close(given[:, :K], logits[:, :K].sigmoid() * foreground)
        torch.testing.assert_close(given[:, K:], 1 - foreground)
    elif name not in ("bags", "objectness"):
        assert torch.equal(given[:, :K], logits[:, :K].sigmoid())
        assert loss.num_logits == K + background and (given[:, K:] == 0).all()


@each_loss
def test_checkpoints_hold_what_training_made_or_testing_needs(name, background):
    expected = {
        "seesaw": {"class_counts"},
        "objectness": {"class_counts"},
        "eqlv2": {"positive_gradients", "negative_gradients"},
        "bags": {"bins"},
    }
    assert set(make_loss(name, background).state_dict()) == expected.get(name, set())


@each_loss
def test_evaluation_leaves_the_memory_alone(name, background):
    loss = make_loss(name, background).eval()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss(*make_batch(loss))
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


@pytest.mark.parametrize("name", ["cross_entropy", "weighted", "focal", "seesaw", "eqlv2"])
def test_the_mean_over_a_doubled_batch_is_the_same(name):
    loss = make_loss(name).eval()
    logits, classes = make_batch(loss)
    twice = loss(logits.repeat(2, 1), classes.repeat(2))
    torch.testing.assert_close(twice, loss(logits, classes), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["eql", "federated", "eqlv2", "sigmoid_focal"])
def test_what_sigmoid_losses_learn_of_the_background(name):
    """Nothing; in the equalization loss v2 a binary cross-entropy of weight 1."""
    loss = make_loss(name, background=True).eval()
    assert isinstance(loss, SigmoidLoss)
    logits, classes = make_batch(loss)
    _, gradient = value_and_gradient(loss, logits, classes)
    assert (gradient[:, :K] != 0).any()
    expected = (logits[:, K].sigmoid() - (classes == K).float()) / S
    assert loss.trains_background == (name == "eqlv2")
    expected = expected if loss.trains_background else torch.zeros(S)
    torch.testing.assert_close(gradient[:, K], expected, atol=1e-7, rtol=0)


def test_sigmoid_losses_start_from_a_small_probability():
    bias = torch.tensor(make_loss("eqlv2").initial_bias)
    assert bias.sigmoid().item() == pytest.approx(0.01)
    bias = torch.tensor(make_loss("eql", background=True).initial_bias)
    assert bias.sigmoid().item() == pytest.approx(0.001)
    assert make_loss("cross_entropy").initial_bias == 0


def test_a_cosine_classifier_has_no_bias_to_start_from():
    for name in ("eqlv2", "eql", "federated", "sigmoid_focal"):
        message = r"^A\.KEY cosine has no bias, and .*: set it to linear"
        with pytest.raises(ValueError, match=message):
            check_cosine("A.KEY", make_loss(name, background=True))
    for name in (*SOFTMAX[:-1], "bags", "objectness"):
        check_cosine("A.KEY", make_loss(name, background=True))


def test_equal_weights_and_a_uniform_prior_are_cross_entropy():
    plain = make_loss("cross_entropy")
    logits, classes = make_batch(plain)
    expected = value_and_gradient(plain, logits, classes)
    for options in ({"class_weight": torch.ones(K)}, {"class_prior": torch.full((K,), 7)}):
        given = value_and_gradient(CrossEntropy(K, **options), logits, classes)
        torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)


def test_cross_entropy_has_no_label_that_is_left_out():
    """255 stands for pixels without label, and is a class of images."""
    loss = CrossEntropy(300)
    logits = torch.zeros(2, 300)
    assert loss(logits, torch.tensor([255, 255])).item() == pytest.approx(math.log(300))


def test_ldam_weighs_the_classes_from_its_iteration_on():
    loss = make_loss("ldam")
    logits, classes = make_batch(loss)
    losses = ldam_loss(logits, classes, loss.margins)
    weights = loss.deferred_weights[classes]
    plain, weighted = losses.mean(), (weights * losses).sum() / weights.sum()
    assert abs(plain - weighted) > 1e-3
    with EventStorage() as storage:
        for iteration in (0, 4, 5, 6):
            storage.iter = iteration
            expected = weighted if iteration >= 5 else plain
            torch.testing.assert_close(loss(logits, classes), expected, atol=1e-6, rtol=0)
            number = weights.sum() if iteration >= 5 else torch.tensor(float(S))
            assert loss.normalizer(classes) == number
    torch.testing.assert_close(loss(logits, classes), plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["seesaw", "objectness"])
def test_seesaw_counts_the_samples_that_it_was_trained_on(name):
    loss = make_loss(name, background=True)
    expected = torch.zeros(K + 1, dtype=torch.long)
    for seed in range(3):
        logits, classes = make_batch(loss, seed=seed)
        loss(logits, classes)
        for label in classes.tolist():
            expected[label] += 1
        assert torch.equal(loss.class_counts, expected)
    assert loss.class_counts.dtype == torch.int64


def test_eqlv2_sums_its_own_gradients_up():
    """What autograd says of the loss, split by the label; they guide the weights."""
    loss = make_loss("eqlv2", background=True)
    positive, negative = torch.zeros(K, dtype=torch.float64), torch.zeros(K, dtype=torch.float64)
    for seed in range(3):
        logits, classes = make_batch(loss, seed=seed)
        of_negatives = [
            1 / (1 + math.exp(-12 * (p / n - 0.8))) if n > 0 else 1.0
            for p, n in zip(positive.tolist(), negative.tolist(), strict=True)
        ]
        expected = 0.0
        for i, y in enumerate(classes.tolist()):
            for j in range(K):
                z, r = logits[i, j].item(), of_negatives[j]
                weight = 1 + 4 * (1 - r) if j == y else r
                expected += weight * math.log(1 + math.exp(-z if j == y else z)) / S
            z = logits[i, K].item()
            expected += math.log(1 + math.exp(-z if y == K else z)) / S
        value, gradient = value_and_gradient(loss, logits, classes)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        for i, y in enumerate(classes.tolist()):
            for j in range(K):
                (positive if j == y else negative)[j] += S * gradient[i, j].abs().item()
        torch.testing.assert_close(loss.positive_gradients, positive, rtol=1e-5, atol=0)
        torch.testing.assert_close(loss.negative_gradients, negative, rtol=1e-5, atol=0)


def test_federated_loss_of_all_classes_is_plain_sigmoid_cross_entropy():
    loss = Federated(K, background=True, sampling_weights=torch.ones(K), number=K + 1)
    logits, classes = make_batch(loss)
    targets = F.one_hot(classes, K + 1)[:, :K].float()
    plain = F.binary_cross_entropy_with_logits(logits[:, :K], targets, reduction="sum") / S
    torch.testing.assert_close(loss(logits, classes), plain, atol=1e-6, rtol=0)


def test_federated_loss_leaves_the_other_classes_alone():
    loss = make_loss("federated", background=True)
    logits, _ = make_batch(loss)
    classes = torch.full((S,), 2)
    _, gradient = value_and_gradient(loss, logits, classes)
    touched = (gradient != 0).any(dim=0)
    assert touched.sum() == 4 and touched[2]
    classes[0] = K
    _, gradient = value_and_gradient(loss, logits, classes)
    assert (gradient != 0).any(dim=0).sum() == 3


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("beta", [1.0, 1e6])
def test_bags_is_the_sum_of_the_means_of_its_groups(background, beta):
    bins = [0, 2, 0, 1, 2]
    loss = BalancedGroupSoftmax(
        K, background=background, bins=torch.tensor(bins), num_bins=3, beta=beta
    )
    logits, classes = make_batch(loss)
    rows, labels = logits.tolist(), classes.tolist()
    value, _ = value_and_gradient(loss, logits, classes)
    torch.manual_seed(3)
    expected = 0.0
    for group in range(3):
        members = [j for j in range(K) if bins[j] == group]
        used = sample_others(torch.tensor([y in members for y in labels]), beta).tolist()
        losses = []
        for row, y, counts in zip(rows, labels, used, strict=True):
            target = y if y in members else K + group
            total = sum(math.exp(row[j]) for j in [*members, K + group])
            losses += [-math.log(math.exp(row[target]) / total)] if counts else []
        expected += sum(losses) / len(losses)
    if background:
        for row, y in zip(rows, labels, strict=True):
            z = row[-1] - row[-2] if y < K else row[-2] - row[-1]
            expected += math.log(1 + math.exp(z)) / S
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_probabilities_of_bags_in_detection():
    """Foreground first: within the bin times that of foreground; all bins share the rest."""
    loss = make_loss("bags", background=True)
    logits, _ = make_batch(loss)
    given = loss.probabilities(logits)
    for row, p in zip(logits.tolist(), given.tolist(), strict=True):
        foreground = 1 / (1 + math.exp(row[-1] - row[-2]))
        assert p[K] == pytest.approx(1 - foreground, abs=1e-6)
        bin_1 = math.exp(row[3]) / (math.exp(row[3]) + math.exp(row[K + 1]))
        assert p[3] == pytest.approx(foreground * bin_1, abs=1e-6)


def test_bags_of_one_bin_is_cross_entropy_and_foreground():
    """With nothing left to the others: p(class) = p(foreground) p(class | foreground)."""
    loss = BalancedGroupSoftmax(
        K, background=True, bins=torch.zeros(K, dtype=torch.long), num_bins=1, beta=0.0
    )
    logits, classes = make_batch(loss)
    logits = logits.detach()
    logits[:, K] = -1e4
    probabilities = loss.probabilities(logits)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(S))
    own = probabilities[torch.arange(S), classes].log()
    foreground = classes < K
    of_foreground = loss.probabilities(logits)[:, :K].sum(dim=1).log()
    expected = -(own - of_foreground)[foreground].mean()
    expected -= torch.where(foreground, of_foreground, own).mean()
    torch.testing.assert_close(loss(logits, classes), expected, atol=1e-5, rtol=0)
