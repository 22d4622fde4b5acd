# SPDX-License-Identifier: Apache-2.0
"""NorCal and LogN, against NumPy transcriptions of the papers' formulas on probabilities.

Shape alphabet: N RoIs, C channels, K foreground classes.
"""

import numpy as np
import pytest
import torch

from longtail.modeling.post_hoc import (
    logit_adjustment,
    logit_normalization,
    normalized_calibration,
)
from tests.messages import raises_naming

COUNTS = np.array([900, 40, 40, 3])


def scene(N=12, C=6, K=4):
    generator = np.random.default_rng(0)
    return (
        generator.normal(size=(K + 1, C)),
        generator.normal(size=K + 1),
        generator.normal(size=(N, C)),
    )


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_norcal_is_the_division_of_the_scores(gamma):
    weight, bias, x = scene()
    scores = softmax(x @ weight.T + bias)
    divided = scores.copy()
    divided[:, :-1] /= COUNTS**gamma
    expected = divided / divided.sum(axis=1, keepdims=True)
    changed = normalized_calibration(torch.from_numpy(bias[:-1]), torch.from_numpy(COUNTS), gamma)
    found = softmax(x @ weight.T + np.append(changed.numpy(), bias[-1]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gamma_0_is_the_identity_and_lower_scores_are_those_of_objects():
    bias = torch.randn(4, dtype=torch.float64)
    counts = torch.from_numpy(COUNTS)
    assert torch.equal(normalized_calibration(bias, counts, 0.0), bias)
    # All counts above 1: every object falls against the background, the frequent one most.
    fall = bias - normalized_calibration(bias, counts, 0.5)
    assert (fall > 0).all() and fall.argmax() == 0
    assert float(fall[1]) == pytest.approx(float(fall[2]))
    # Among the objects it is logit adjustment.
    adjusted = bias - logit_adjustment(bias, counts, 0.5)
    difference = fall - adjusted
    torch.testing.assert_close(difference, difference[:1].expand(4), rtol=0, atol=1e-12)


def test_logn_is_the_formula_and_gives_every_class_one_scale():
    weight, bias, x = (torch.from_numpy(a) for a in scene(N=4000))
    z = (x @ weight.T + bias)[:, :-1]
    mean, deviation = z.mean(dim=0), z.std(dim=0, correction=0)
    changed, changed_bias = logit_normalization(weight[:-1], bias[:-1], mean, deviation)
    found = (x @ changed.T + changed_bias).numpy()
    mu, sigma = z.numpy().mean(axis=0), z.numpy().std(axis=0)
    for j in range(4):
        np.testing.assert_allclose(
            found[:, j], (z.numpy()[:, j] - mu[j] + min(mu)) / sigma[j], atol=1e-10
        )
        assert found[:, j].std() == pytest.approx(1)


def test_bad_input():
    bias = torch.zeros(3)
    with raises_naming(ValueError, "MODEL.POST_HOC.GAMMA", "-1"):
        normalized_calibration(bias, torch.ones(3), -1)
    with raises_naming(ValueError, "norcal", "3", "4", "DATASETS.TRAIN"):
        normalized_calibration(bias, torch.ones(4), 1)
    with raises_naming(ValueError, "norcal", "class 1", "(cat)", "DATASETS.TRAIN"):
        names = ["dog", "cat", "cow"]
        normalized_calibration(bias, torch.tensor([1, 0, 2]), 1, class_names=names)
    with raises_naming(ValueError, "logn", "class 2"):
        logit_normalization(torch.ones(3, 2), bias, bias, torch.tensor([1.0, 1.0, 0.0]))
