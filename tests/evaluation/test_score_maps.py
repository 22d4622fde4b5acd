# SPDX-License-Identifier: Apache-2.0
"""Maps of scores: theorems of each method, and independent searches for the same optimum."""

import json
import math

import numpy as np
import pytest
from scipy.optimize import brentq

from longtail.evaluation.score_maps import (
    FEWEST,
    METHODS,
    Isotonic,
    Parametric,
    apply_score_maps,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_score_maps,
    fit_temperature,
    from_json,
    to_json,
)
from tests.messages import raises_naming


def sample(size=600, seed=0, slope=0.6, shift=-0.4):
    """Scores, and hits that are drawn with logit p = slope logit s + shift."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(0.02, 0.98, size)
    probability = 1 / (1 + np.exp(-(slope * np.log(scores / (1 - scores)) + shift)))
    return scores, generator.random(size) < probability


def cross_entropy(a, b, c, scores, targets):
    """The mean, from the formula, term by term."""
    total = 0.0
    for s, t in zip(scores.tolist(), targets, strict=True):
        p = 1 / (1 + math.exp(-(a * math.log(s) - b * math.log(1 - s) + c)))
        total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    return total / len(scores)


def is_minimum(found, scores, targets, directions):
    """No step along a direction is better, and larger steps are worse: the loss is convex."""
    base = cross_entropy(found.a, found.b, found.c, scores, targets)
    for direction in directions:
        for step in (-0.01, 0.01):
            a, b, c = (v + step * d for v, d in zip(vars(found).values(), direction, strict=True))
            assert cross_entropy(a, b, c, scores, targets) > base


def test_temperature_is_the_root_of_the_derivative():
    scores, hits = sample(shift=0.0)
    logits = np.log(scores) - np.log(1 - scores)

    def derivative(inverse):
        return sum(
            (1 / (1 + math.exp(-inverse * z)) - h) * z for z, h in zip(logits, hits, strict=True)
        )

    found = fit_temperature(scores, hits)
    assert found.a == found.b == pytest.approx(brentq(derivative, 0.01, 10), abs=1e-6)
    assert found.c == 0
    assert found.a == pytest.approx(0.6, abs=0.15)


def test_temperature_keeps_the_order_of_all_scores_and_the_best_class():
    scores, hits = sample()
    maps = fit_score_maps("temperature", np.arange(600) % 3, scores, hits, 3)
    mapped = apply_score_maps(maps, np.arange(600) % 3, scores)
    assert (np.argsort(mapped) == np.argsort(scores)).all()
    assert (mapped.reshape(-1, 3).argmax(axis=1) == scores.reshape(-1, 3).argmax(axis=1)).all()


def test_platt_is_the_minimum_for_the_smoothed_targets():
    scores, hits = sample()
    right = int(hits.sum())
    targets = [(right + 1) / (right + 2) if h else 1 / (600 - right + 2) for h in hits]
    found = fit_platt(scores, hits)
    assert found.a == found.b
    is_minimum(found, scores, targets, [(1, 1, 0), (0, 0, 1), (1, 1, 1), (1, 1, -1)])
    # What the hits were drawn with, within the error of 600 of them.
    assert found.a == pytest.approx(0.6, abs=0.2) and found.c == pytest.approx(-0.4, abs=0.25)


def test_platts_targets_to_the_last_one():
    """Of few predictions a target counts: the gradient of the formula is 0."""
    scores, hits = sample(30, seed=6)
    right = int(hits.sum())
    found = fit_platt(scores, hits)
    gradient = np.zeros(2)
    for s, h in zip(scores.tolist(), hits, strict=True):
        z = math.log(s / (1 - s))
        target = (right + 1) / (right + 2) if h else 1 / (30 - right + 2)
        gradient += (1 / (1 + math.exp(-found.a * z - found.c)) - target) * np.array([z, 1]) / 30
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_beta_is_the_minimum_and_keeps_the_mean():
    scores, hits = sample(seed=1)
    found = fit_beta(scores, hits)
    assert min(found.a, found.b) > 0
    is_minimum(found, scores, hits.astype(float), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 1)])
    # The derivative by c is 0: mean probability = share of right ones.
    assert found(scores).mean() == pytest.approx(hits.mean(), abs=1e-6)


def test_beta_contains_the_identity_and_maps_fall_never():
    """logit(s) = log s - log(1 - s); scores against the hits give constants, not falling maps."""
    scores, hits = sample(slope=-1.0, shift=0.0)
    np.testing.assert_allclose(Parametric(1.0, 1.0, 0.0)(scores), scores, atol=1e-12)
    for method in METHODS:
        maps = fit_score_maps(method, np.zeros(600, int), scores, hits, 1)
        assert (np.diff(maps[0](np.linspace(0, 1, 200))) >= 0).all()


def test_isotonic_is_monotone_keeps_the_mean_and_every_level_is_a_mean():
    scores, hits = sample(seed=2)
    scores = scores.round(2)
    found = fit_isotonic(scores, hits)
    fitted = found(scores)
    assert (np.diff(fitted[np.argsort(scores, kind="stable")]) >= 0).all()
    assert fitted.mean() == pytest.approx(hits.mean(), abs=1e-12)
    for level in np.unique(fitted):
        assert hits[fitted == level].mean() == pytest.approx(level, abs=1e-12)


def test_isotonic_is_the_minimax_of_means():
    """The max-min formula of isotonic regression: max over i <= k of min over j >= k of a mean."""
    scores, hits = sample(40, seed=3)
    order = np.argsort(scores)
    y = hits[order].astype(np.float64)
    expected = [
        max(min(y[i : j + 1].mean() for j in range(k, 40)) for i in range(k + 1)) for k in range(40)
    ]
    np.testing.assert_allclose(fit_isotonic(scores, hits)(scores[order]), expected, atol=1e-12)


def test_every_class_has_its_own_map_but_for_small_ones():
    scores, hits = sample(900, seed=4)
    classes = np.repeat([0, 1, 2], [500, 380, 20])
    hits[classes == 2] = np.arange(20) < FEWEST - 1
    for method in ("platt", "beta", "isotonic"):
        maps = fit_score_maps(method, classes, scores, hits, 4)
        assert maps[0] == METHODS[method](scores[:500], hits[:500])
        assert maps[1] == METHODS[method](scores[500:880], hits[500:880])
        # One right prediction is missing; the last class has none at all.
        assert maps[2] == maps[3] == METHODS[method](scores, hits)
        mapped = apply_score_maps(maps, classes, scores)
        np.testing.assert_array_equal(mapped[500:880], maps[1](scores[500:880]))
    hits[900 - 1] = True
    assert fit_score_maps("platt", classes, scores, hits, 4)[2] != maps[3]


def test_scores_that_separate_have_finite_maps():
    scores, hits = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    for fit in METHODS.values():
        mapped = fit(scores, hits)(np.array([0.0, 0.15, 0.85, 1.0]))
        assert np.isfinite(mapped).all() and (mapped[:2] < 0.5).all() and (mapped[2:] > 0.5).all()


def test_json_and_back():
    scores, hits = sample()
    for method in METHODS:
        maps = fit_score_maps(method, np.zeros(600, int), scores, hits, 2)
        assert from_json(json.loads(json.dumps(to_json(maps)))) == maps


@pytest.mark.parametrize(
    "row",
    [
        {"a": 1},
        {"a": -1, "b": 1, "c": 0},
        {"a": 1, "b": 1, "c": math.inf},
        {"scores": [0.1, 0.2], "probabilities": [0.5, 0.4]},
        {"scores": [0.2, 0.2], "probabilities": [0.5, 0.6]},
        {"scores": [0.1], "probabilities": [1.5]},
        {"scores": [], "probabilities": []},
        "abc",
        3,
    ],
)
def test_what_is_no_map(row):
    with pytest.raises(ValueError, match="not a list of maps"):
        from_json([row])


def test_bad_input():
    good = np.zeros(2, int), np.array([0.2, 0.4]), np.array([True, False])
    with raises_naming(ValueError, "'isoton'", "isotonic"):
        fit_score_maps("isoton", *good, 1)
    with raises_naming(ValueError, "platt", "0..1"):
        fit_score_maps("platt", good[0], np.array([0.2, 1.4]), good[2], 1)
    with raises_naming(ValueError, "beta", "0..0"):
        fit_score_maps("beta", np.array([0, 1]), *good[1:], 1)
    with raises_naming(ValueError, "beta", "2 of 2"):
        fit_score_maps("beta", *good[:2], np.array([True, True]), 1)
    assert Isotonic((0.2,), (0.5,))(np.array([0.0, 1.0])).tolist() == [0.5, 0.5]
