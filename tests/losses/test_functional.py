# SPDX-License-Identifier: Apache-2.0
"""The class losses against plain loops in float64, values and gradients, and their limits."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from longtail.losses.functional import (
    bins_of_counts,
    equalization_weights,
    federated_classes,
    focal_loss,
    gradient_guided_weights,
    group_columns,
    group_losses,
    group_probabilities,
    ldam_loss,
    ldam_margins,
    one_hot,
    sample_others,
    seesaw_loss,
    sigmoid_losses,
    softmax_equalization_loss,
)

S, K = 6, 4
COUNTS = [900, 40, 40, 1]
MARGINS = [0.3, 1.0, 2.5, 0.0]
TAIL = [False, True, False, True]
STEP = 1e-5
Rows = list[list[float]]


def make_batch(seed: int = 0, columns: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    """(S, columns) float64 logits with gradient, and (S,) labels in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(S, columns, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.tensor([0, 1, 2, 3, 3, 0])


def assert_is_formula(
    loss: Callable[[torch.Tensor], torch.Tensor],
    formula: Callable[[Rows, int], float],
    logits: torch.Tensor,
) -> None:
    """Values, and gradients by central differences; ``formula`` gives the loss of one sample."""
    losses = loss(logits)
    rows = logits.detach().tolist()
    assert losses.tolist() == pytest.approx([formula(rows, i) for i in range(S)], abs=1e-10)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    for i in range(S):
        for j in range(logits.shape[1]):
            shifted = []
            for step in (STEP, -STEP):
                moved = [list(row) for row in rows]
                moved[i][j] += step
                shifted.append(formula(moved, i))
            expected = (shifted[0] - shifted[1]) / (2 * STEP)
            assert gradient[i, j].item() == pytest.approx(expected, abs=1e-8)


def assert_is_cross_entropy(loss: torch.Tensor, logits, classes) -> None:
    expected = F.cross_entropy(logits, classes, reduction="none")
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    given = [torch.autograd.grad(value.sum(), logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*given, atol=1e-12, rtol=0)


def softmax_of(row: list[float], j: int) -> float:
    return math.exp(row[j]) / sum(math.exp(z) for z in row)


# --- focal


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_is_its_formula(gamma):
    logits, classes = make_batch()

    def formula(rows, i):
        p = softmax_of(rows[i], int(classes[i]))
        return -((1 - p) ** gamma) * math.log(p)

    assert_is_formula(lambda z: focal_loss(z, classes, gamma), formula, logits)


def test_focal_without_gamma_is_cross_entropy():
    logits, classes = make_batch()
    assert_is_cross_entropy(focal_loss(logits, classes, 0.0), logits, classes)


def test_focal_of_two_classes_is_torchvisions():
    logits, _ = make_batch(columns=2)
    classes = torch.tensor([0, 1, 1, 0, 1, 0])
    expected = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], classes.double(), alpha=-1, gamma=2.0
    )
    torch.testing.assert_close(focal_loss(logits, classes, 2.0), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_focal_of_certain_samples_has_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 2]), gamma)
    assert loss.tolist() == pytest.approx([0, 200])
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


# --- LDAM


def test_margins_of_ldam():
    # (1 / 16)^(1/4) = 1/2, (1 / 256)^(1/4) = 1/4; a class that does not occur counts as one.
    margins = ldam_margins(torch.tensor([16, 1, 256, 0]), 10.0)
    assert margins.tolist() == pytest.approx([5, 10, 2.5, 10])


def test_ldam_is_its_formula():
    logits, classes = make_batch()

    def formula(rows, i):
        y = int(classes[i])
        row = [z - MARGINS[j] * (j == y) for j, z in enumerate(rows[i])]
        return -math.log(softmax_of(row, y))

    margins = torch.tensor(MARGINS, dtype=torch.float64)
    assert_is_formula(lambda z: ldam_loss(z, classes, margins), formula, logits)


def test_ldam_without_margins_is_cross_entropy():
    logits, classes = make_batch()
    loss = ldam_loss(logits, classes, torch.zeros(K, dtype=torch.float64))
    assert_is_cross_entropy(loss, logits, classes)


# --- Seesaw


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.8, 0.0), (0.0, 2.0)])
def test_seesaw_is_its_formula(p, q, eps):
    logits, classes = make_batch()
    fixed = logits.detach().tolist()  # sigma has no gradient

    def formula(rows, i):
        y = int(classes[i])
        total = 0.0
        for j, z in enumerate(rows[i]):
            mitigation = min(1, (COUNTS[j] / COUNTS[y]) ** p)
            own = max(softmax_of(fixed[i], y), eps)
            compensation = max(1, (softmax_of(fixed[i], j) / own) ** q)
            total += (mitigation * compensation if j != y else 1) * math.exp(z)
        return -math.log(math.exp(rows[i][y]) / total)

    counts = torch.tensor(COUNTS)
    assert_is_formula(lambda z: seesaw_loss(z, classes, counts, p, q, eps=eps), formula, logits)


def test_seesaw_protects_no_class_from_the_background():
    """A sample of the background, the last class, has M = 1; all others are as without it."""
    logits, classes = make_batch()
    counts = torch.tensor([1, 40, 40, 900])
    given = seesaw_loss(logits, classes, counts, 0.8, 2.0, background=True)
    alike = seesaw_loss(logits, classes, torch.ones(K), 0.8, 2.0)
    others = seesaw_loss(logits, classes, counts, 0.8, 2.0)
    expected = torch.where(classes == K - 1, alike, others)
    torch.testing.assert_close(given, expected, atol=0, rtol=1e-12)
    assert (alike > others + 0.01)[classes == K - 1].any()


def test_seesaw_without_exponents_is_cross_entropy():
    logits, classes = make_batch()
    loss = seesaw_loss(logits, classes, torch.tensor(COUNTS), 0, 0)
    assert_is_cross_entropy(loss, logits, classes)


def test_seesaw_protects_the_tail_from_the_head_alone():
    """The pull of a sample of the head at a tail class, and of one of the tail at the head."""
    logits, counts = torch.zeros(2, 2, requires_grad=True), torch.tensor([100, 1])
    loss = seesaw_loss(logits, torch.tensor([0, 1]), counts, 1, 2)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    # p = 1 / (1 + 0.01) of the label, M = 0.01 for the other; and plain softmax.
    assert gradient.flatten().tolist() == pytest.approx([-0.01 / 1.01, 0.01 / 1.01, 0.5, -0.5])


# --- equalization


def test_softmax_equalization_is_its_formula():
    logits, classes = make_batch()
    left_out = torch.rand(S, K, generator=torch.Generator().manual_seed(1)) < 0.5
    left_out[0] = True

    def formula(rows, i):
        y = int(classes[i])
        kept = [z for j, z in enumerate(rows[i]) if j == y or not left_out[i, j]]
        return -rows[i][y] + math.log(sum(math.exp(z) for z in kept))

    assert_is_formula(lambda z: softmax_equalization_loss(z, classes, left_out), formula, logits)


def test_softmax_equalization_without_tail_is_cross_entropy():
    logits, classes = make_batch()
    none = torch.zeros(S, K, dtype=torch.bool)
    loss = softmax_equalization_loss(logits, classes, none)
    assert_is_cross_entropy(loss, logits, classes)


def binary_cross_entropy(z: float, target: bool) -> float:
    return math.log(1 + math.exp(-z if target else z))


def test_equalization_is_its_formula():
    logits, classes = make_batch()
    classes[2] = K  # background

    def formula(rows, i):
        y = int(classes[i])
        return sum(
            (1 - (y < K) * TAIL[j] * (j != y)) * binary_cross_entropy(z, j == y)
            for j, z in enumerate(rows[i])
        )

    def loss(z):
        targets = one_hot(classes, K)
        return (equalization_weights(targets, torch.tensor(TAIL)) * sigmoid_losses(z, targets)).sum(
            dim=1
        )

    assert_is_formula(loss, formula, logits)


def test_gradient_guided_weights():
    positive, negative = torch.tensor([0.0, 5, 8, 0]), torch.tensor([0.0, 0, 10, 3])
    q, r = gradient_guided_weights(positive, negative, gamma=12, mu=0.8, alpha=4)
    # Nothing seen, no negatives: 1. The ratio mu: f = 1/2. The ratio 0: f = 1 / (1 + e^9.6).
    rare = 1 / (1 + math.exp(9.6))
    assert r.tolist() == pytest.approx([1, 1, 0.5, rare])
    assert q.tolist() == pytest.approx([1, 1, 3, 1 + 4 * (1 - rare)])


# --- federated


def test_federated_classes_are_those_that_occur_and_others():
    targets = one_hot(torch.tensor([2, 2, 5, 9]), 9)  # the last is background
    weights = torch.tensor([1.0, 0, 1, 1, 1, 0, 1, 0, 1])
    seen = torch.zeros(9)
    for seed in range(40):
        torch.manual_seed(seed)
        chosen = federated_classes(targets, weights, 4)
        # The background takes one place of the four.
        assert chosen.shape == (9,) and chosen.sum() == 3 and chosen[2] and chosen[5]
        seen += chosen
        assert federated_classes(targets[:3], weights, 4).sum() == 4
    assert (seen[[1, 7]] == 0).all() and (seen[[0, 3, 4, 6, 8]] > 0).all()
    assert federated_classes(targets, weights, 1).nonzero().flatten().tolist() == [2, 5]
    assert federated_classes(targets, weights, 50).all()


def test_federated_classes_are_drawn_by_their_weights():
    torch.manual_seed(0)
    weights, none = torch.tensor([1.0, 3, 0, 4]), torch.zeros(0, 4, dtype=torch.bool)
    drawn = sum(federated_classes(none, weights, 1).double() for _ in range(4000)) / 4000
    # Standard deviation < 0.008.
    assert drawn.tolist() == pytest.approx([1 / 8, 3 / 8, 0, 1 / 2], abs=0.03)


# --- balanced group softmax


def test_bins():
    counts = torch.tensor([0, 9, 10, 99, 100, 5000])
    assert bins_of_counts(counts, [10, 100]).tolist() == [0, 0, 1, 1, 2, 2]


BINS, NUM_BINS = torch.tensor([0, 2, 0, 2]), 3  # the bin 1 has no class


@pytest.mark.parametrize("index", range(NUM_BINS))
def test_group_losses_are_their_formula(index):
    logits, classes = make_batch(columns=K + NUM_BINS)
    classes[5] = K  # background
    columns = group_columns(BINS, NUM_BINS)[index]

    def formula(rows, i):
        y = int(classes[i])
        members = [j for j in range(K) if BINS[j] == index]
        target = y if y in members else K + index
        total = sum(math.exp(rows[i][j]) for j in [*members, K + index])
        return -math.log(math.exp(rows[i][target]) / total)

    assert_is_formula(lambda z: group_losses(z, classes, columns)[0], formula, logits)
    expected = [y < K and int(BINS[y]) == index for y in classes.tolist()]
    assert group_losses(logits, classes, columns)[1].tolist() == expected


def test_group_probabilities_are_their_formula():
    logits, _ = make_batch(columns=K + NUM_BINS)
    probabilities = group_probabilities(logits, BINS, NUM_BINS)
    for i, row in enumerate(logits.tolist()):
        for j in range(K):
            members = [k for k in range(K) if BINS[k] == BINS[j]] + [K + int(BINS[j])]
            expected = math.exp(row[j]) / sum(math.exp(row[k]) for k in members)
            assert probabilities[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_one_bin_without_others_is_plain_softmax():
    logits, classes = make_batch()
    outputs = F.pad(logits, (0, 1), value=-1e4)
    (columns,) = group_columns(torch.zeros(K, dtype=torch.long), 1)
    losses, inside = group_losses(outputs, classes, columns)
    assert inside.all()
    assert_is_cross_entropy(losses, logits, classes)
    probabilities = group_probabilities(outputs, torch.zeros(K, dtype=torch.long), 1)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))


def test_others_are_sampled_in_proportion():
    inside = torch.arange(40) % 20 == 3  # two of them
    drawn = torch.zeros(40)
    for seed in range(100):
        torch.manual_seed(seed)
        used = sample_others(inside, 8.0)
        assert used.sum() == 2 + 16 and used[inside].all()
        drawn += used
    # 100 * 16 / 38 = 42, standard deviation 5.
    assert (drawn[~inside] > 20).all() and (drawn[~inside] < 65).all()
    assert torch.equal(sample_others(inside, 0.0), inside)
    assert sample_others(inside, 19.0).all()
    assert not sample_others(torch.zeros(5, dtype=torch.bool), 8.0).any()
