# SPDX-License-Identifier: Apache-2.0
"""The formulas of the post hoc methods, as theorems.

Shape alphabet: N samples, C channels, K classes.
"""

import math

import numpy as np
import pytest
import torch

from longtail.modeling.post_hoc import logit_adjustment, nearest_class_mean, tau_norm
from tests.messages import raises_naming


def random_classifier(K=5, C=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return torch.randn(K, C, **options), torch.randn(K, **options), torch.randn(9, C, **options)


def test_tau_0_is_the_identity_and_tau_1_gives_unit_rows():
    weight, bias, _ = random_classifier()
    for given, kept in zip((weight, bias), tau_norm(weight, bias, 0.0), strict=True):
        assert torch.equal(given, kept)
    normalized, _ = tau_norm(weight, bias, 1.0)
    torch.testing.assert_close(normalized.norm(dim=1), torch.ones(5).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_tau_norm_is_the_magnitude_of_table_2(tau):
    """Every logit, with its bias, times 1 / |w_j|^tau; a 1x1 convolution like a layer."""
    weight, bias, x = random_classifier()
    changed, changed_bias = tau_norm(weight, bias, tau)
    found = x @ changed.T + changed_bias
    for i in range(len(x)):
        for j in range(len(weight)):
            z = sum(float(w * v) for w, v in zip(weight[j], x[i], strict=True)) + float(bias[j])
            length = math.sqrt(sum(float(w) ** 2 for w in weight[j]))
            assert float(found[i, j]) == pytest.approx(z / length**tau, rel=1e-12)
    as_convolution, _ = tau_norm(weight[:, :, None, None], bias, tau)
    assert torch.equal(as_convolution[:, :, 0, 0], changed)


def test_lambda_0_is_the_identity_and_lambda_the_margin_of_table_2():
    _, bias, _ = random_classifier()
    counts = torch.tensor([50, 20, 20, 9, 1])
    assert torch.equal(logit_adjustment(bias, counts, 0.0), bias)
    for strength in (0.5, 1.0):
        found = logit_adjustment(bias, counts, strength)
        for j, count in enumerate(counts.tolist()):
            expected = float(bias[j]) - strength * math.log(count / 100)
            assert float(found[j]) == pytest.approx(expected, rel=1e-14)


def test_logit_adjustment_is_optimal_where_all_classes_are_equally_likely():
    """Gaussian classes with one covariance: a linear classifier whose softmax is p(y|x) exactly.

    With x ~ N(m_y, I) and p(y) = r_y, log p(y|x) = m_y.x - |m_y|^2 / 2 + log r_y up to a constant.
    The best guess when all classes are equally likely is the largest p(y|x) / r_y: the nearest m_y.
    """
    generator = np.random.default_rng(0)
    prior = np.array([0.9, 0.07, 0.03])
    means = generator.normal(size=(3, 4))
    bias = torch.from_numpy(np.log(prior) - (means**2).sum(1) / 2)
    adjusted = logit_adjustment(bias, torch.tensor([90, 7, 3]), 1.0)
    x = np.concatenate([mean + generator.normal(size=(500, 4)) for mean in means])
    logits = torch.from_numpy(x @ means.T)
    nearest = np.linalg.norm(x[:, None] - means, axis=2).argmin(1)
    assert ((logits + adjusted).argmax(1).numpy() == nearest).all()
    posterior = (logits + bias).softmax(1).numpy()
    assert ((posterior / prior).argmax(1) == nearest).all()
    # Where it is not needed there is nothing to see.
    assert ((logits + bias).argmax(1).numpy() != nearest).sum() > 100


def test_centered_margins_change_no_softmax_and_have_mean_0():
    _, bias, _ = random_classifier()
    counts = torch.tensor([50, 20, 20, 9, 1])
    plain, centered = (logit_adjustment(bias, counts, 0.7, centered=c) for c in (False, True))
    torch.testing.assert_close(plain.softmax(0), centered.softmax(0), rtol=1e-13, atol=0)
    assert float((centered - bias).mean()) == pytest.approx(0, abs=1e-14)


def test_ncm_names_the_nearest_mean():
    """Of cosines, and of distances to normalized means: by loops over samples and classes."""
    K, C, N = 4, 6, 60
    generator = np.random.default_rng(1)
    labels = np.arange(N) % K
    features = generator.normal(size=(K, C))[labels] + generator.normal(size=(N, C))
    weight = nearest_class_mean(torch.from_numpy(features), torch.from_numpy(labels), K)
    x = generator.normal(size=(200, C))
    found = (torch.from_numpy(x) @ weight.T).argmax(1).tolist()
    means = []
    for k in range(K):
        members = [f for f, label in zip(features, labels, strict=True) if label == k]
        means.append(sum(members) / len(members))
    for sample, guess in zip(x, found, strict=True):
        lengths = [np.linalg.norm(m) for m in means]
        cosines = [
            sample @ m / (np.linalg.norm(sample) * length)
            for m, length in zip(means, lengths, strict=True)
        ]
        distances = [
            np.linalg.norm(sample - m / length) for m, length in zip(means, lengths, strict=True)
        ]
        assert guess == int(np.argmax(cosines)) == int(np.argmin(distances))
    assert len(set(found)) == K


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_strength_out_of_range(value):
    weight, bias, _ = random_classifier()
    with raises_naming(ValueError, "MODEL.POST_HOC.TAU", ">= 0", str(value)):
        tau_norm(weight, bias, value)
    with raises_naming(ValueError, "MODEL.POST_HOC.LAMBDA", ">= 0", str(value)):
        logit_adjustment(bias, torch.ones(5), value)


def test_a_weight_of_zero_has_no_direction():
    weight, bias, _ = random_classifier()
    weight[3] = 0
    with raises_naming(ValueError, "tau_norm", "class 3", "0"):
        tau_norm(weight, bias, 0.5)
    assert torch.equal(tau_norm(weight, bias, 0.0)[0], weight)


def test_statistics_and_samples_of_other_classes():
    _, bias, x = random_classifier()
    with raises_naming(ValueError, "logit_adjustment", "5", "3", "DATASETS.TRAIN"):
        logit_adjustment(bias, torch.ones(3), 1.0)
    with raises_naming(ValueError, "ncm", "0 to 2", "0 to 1", "DATASETS.TRAIN"):
        nearest_class_mean(x, torch.arange(9) % 3, 2)


def test_a_class_without_samples_is_named():
    _, bias, x = random_classifier()
    names = ["ash", "birch", "cedar", "dogwood", "elm"]
    # The first one by its name, and how many more there are.
    parts = ("class 1 (birch) and 1 more", "DATASETS.TRAIN")
    counts = torch.tensor([5, 0, 3, 0, 1])
    with raises_naming(ValueError, "logit_adjustment", *parts):
        logit_adjustment(bias, counts, 1.0, class_names=names)
    labels = torch.repeat_interleave(torch.arange(5), counts)
    with raises_naming(ValueError, "ncm", *parts):
        nearest_class_mean(x, labels, 5, class_names=names)
