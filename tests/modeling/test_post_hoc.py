# SPDX-License-Identifier: Apache-2.0
"""The formulas of the post hoc methods, as theorems.

Shape alphabet: N samples, C channels, K classes.
"""

import math

import numpy as np
import pytest
import torch

from longtail.config import load_config
from longtail.modeling.nearest_mean import nearest_class_mean
from longtail.modeling.post_hoc import logit_adjustment, normalized_calibration, tau_norm
from tests.messages import raises_naming


def random_classifier(K=5, C=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return torch.randn(K, C, **options), torch.randn(K, **options), torch.randn(9, C, **options)


@pytest.mark.parametrize("keep_bias", [False, True])
def test_tau_0_leaves_the_weights_and_tau_1_gives_unit_rows(keep_bias):
    weight, bias, _ = random_classifier()
    kept, kept_bias = tau_norm(weight, bias, 0.0, keep_bias=keep_bias)
    assert torch.equal(kept, weight)
    assert torch.equal(kept_bias, bias if keep_bias else torch.zeros_like(bias))
    normalized, _ = tau_norm(weight, bias, 1.0, keep_bias=keep_bias)
    torch.testing.assert_close(normalized.norm(dim=1), torch.ones(5).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("keep_bias", [False, True])
@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_tau_norm_by_loops(tau, keep_bias):
    """w_j.x / |w_j|^tau as published, or with the bias, the magnitude of Table 2."""
    weight, bias, x = random_classifier()
    changed, changed_bias = tau_norm(weight, bias, tau, keep_bias=keep_bias)
    found = x @ changed.T + changed_bias
    for i in range(len(x)):
        for j in range(len(weight)):
            z = sum(float(w * v) for w, v in zip(weight[j], x[i], strict=True))
            z += float(bias[j]) if keep_bias else 0.0
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


def test_defaults_are_those_of_the_authors():
    """No bias; centered, normalized features, Euclidean: the release's "cl2n" and "l2"."""
    weight, bias, x = random_classifier()
    assert bias.all() and not tau_norm(weight, bias, 0.5)[1].any()
    nearest = nearest_class_mean(x, torch.arange(9) % 3, 3)
    assert (nearest.features, nearest.distance) == ("centered", "euclidean")
    options = load_config("").MODEL.POST_HOC
    assert (options.NCM_FEATURES, options.NCM_DISTANCE) == ("centered", "euclidean")
    assert options.TAU_BIAS == "drop"


@pytest.mark.parametrize("key", ["TAU_BIAS", "NCM_FEATURES", "NCM_DISTANCE"])
def test_unknown_values_are_named(key):
    with raises_naming(ValueError, f"MODEL.POST_HOC.{key}", "cl2n"):
        load_config("", [f"MODEL.POST_HOC.{key}", "cl2n"])


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


def test_a_class_without_samples_is_left_out_if_one_says_so():
    """The others rise or fall as without it, whose bias stays."""
    bias, counts = torch.randn(5).double(), torch.tensor([5, 0, 3, 0, 1])
    occurs = counts > 0
    for change in (
        lambda b, n, **skip: logit_adjustment(b, n, 0.7, **skip),
        lambda b, n, **skip: logit_adjustment(b, n, 0.7, centered=True, **skip),
        lambda b, n, **skip: normalized_calibration(b, n, 0.7, **skip),
    ):
        found = change(bias, counts, skip_absent=True)
        assert torch.equal(found[~occurs], bias[~occurs])
        torch.testing.assert_close(
            found[occurs], change(bias[occurs], counts[occurs]), rtol=0, atol=1e-15
        )
    with raises_naming(ValueError, "logit_adjustment", "class 0", "DATASETS.TRAIN"):
        logit_adjustment(bias, torch.zeros(5), 1.0, skip_absent=True)
