# SPDX-License-Identifier: Apache-2.0
"""The nearest class mean, by loops, and that sums of batches are all that it needs.

Shape alphabet: N samples, C channels, K classes.
"""

import math

import numpy as np
import pytest
import torch

from longtail.modeling.nearest_mean import (
    SAMPLES_AT_A_TIME,
    ForegroundNearestMean,
    nearest_class_mean,
    nearest_class_means,
)
from tests.messages import raises_naming
from tests.modeling.test_post_hoc import random_classifier


def transformed(x, mean, kind):
    """A feature as it is compared, a list of numbers."""
    x = [v - m for v, m in zip(x, mean, strict=True)] if kind == "centered" else list(x)
    length = math.sqrt(sum(v * v for v in x)) if kind != "plain" else 1.0
    return [v / length for v in x]


KINDS = [(f, d) for f in ("centered", "normalized", "plain") for d in ("euclidean", "cosine")]


@pytest.mark.parametrize(("kind", "distance"), KINDS)
def test_ncm_by_loops(kind, distance):
    """Logits, gradients by the feature, and where there is one the linear layer's choice."""
    K, C, N = 4, 6, 60
    generator = np.random.default_rng(1)
    labels = np.arange(N) % K
    features = 0.5 + generator.normal(size=(K, C))[labels] + generator.normal(size=(N, C))
    mean = [sum(f[c] for f in features) / N for c in range(C)]
    of_all = [transformed(f, mean, kind) for f in features]
    means = []
    for k in range(K):
        members = [f for f, label in zip(of_all, labels, strict=True) if label == k]
        means.append([sum(f[c] for f in members) / len(members) for c in range(C)])

    def logit(sample, k):
        f = transformed(sample, mean, kind)
        if distance == "euclidean":
            return -sum((a - b) ** 2 for a, b in zip(f, means[k], strict=True))
        length = math.sqrt(sum(b * b for b in means[k]))
        return sum(a * b for a, b in zip(f, means[k], strict=True)) / length

    given = (torch.from_numpy(features), torch.from_numpy(labels), K)
    nearest = nearest_class_mean(*given, transform=kind, distance=distance)
    x = torch.from_numpy(generator.normal(size=(50, C))).requires_grad_()
    found = nearest(x)
    for i in range(len(x)):
        for k in range(K):
            expected = logit(x[i].tolist(), k)
            assert found[i, k].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    (gradient,) = torch.autograd.grad(found[:, 1].sum(), x)
    for c in range(C):
        up, down = (
            [float(v) + s * 1e-5 * (c == j) for j, v in enumerate(x[0].tolist())] for s in (1, -1)
        )
        slope = (logit(up, 1) - logit(down, 1)) / 2e-5
        assert float(gradient[0, c]) == pytest.approx(slope, abs=1e-8)
    assert len(set(found.argmax(1).tolist())) == K
    linear = nearest.linear()
    assert (linear is None) == (kind != "plain" and distance == "euclidean")
    if linear is not None:
        weight, bias = linear
        assert torch.equal((x @ weight.T + bias).argmax(1), found.argmax(1))


def test_ncm_of_a_foreground_shares_what_the_background_leaves():
    """p_j = p(foreground) softmax(n)_j, p of the background as before; with the gradient."""
    weight, bias, x = random_classifier()
    layer = torch.nn.Linear(7, 5).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    nearest = nearest_class_mean(x, torch.arange(9) % 4, 4)
    x = x.clone().requires_grad_()
    found = ForegroundNearestMean(layer, nearest)(x).softmax(1)

    def probabilities(sample):
        z = [
            sum(w * v for w, v in zip(row, sample, strict=True)) + b
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        e = [math.exp(v) for v in z]
        f = transformed(sample, nearest.mean.tolist(), "centered")
        n = [
            math.exp(-sum((a - b) ** 2 for a, b in zip(f, mean, strict=True)))
            for mean in nearest.means.tolist()
        ]
        foreground = sum(e[:-1]) / sum(e)
        return [*(foreground * v / sum(n) for v in n), e[-1] / sum(e)]

    for i, sample in enumerate(x.tolist()):
        assert found[i].tolist() == pytest.approx(probabilities(sample), rel=1e-12)
    (gradient,) = torch.autograd.grad(found[:, 2].sum(), x)
    up, down = ([v + s * 1e-5 * (c == 3) for c, v in enumerate(x[0].tolist())] for s in (1, -1))
    slope = (probabilities(up)[2] - probabilities(down)[2]) / 2e-5
    assert float(gradient[0, 3]) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize(("kind", "distance"), KINDS)
def test_the_logits_of_maps_are_those_of_their_cells(kind, distance):
    generator = torch.Generator().manual_seed(0)
    features = 1 + torch.randn(30, 6, generator=generator).double()
    nearest = nearest_class_mean(
        features, torch.arange(30) % 4, 4, transform=kind, distance=distance
    )
    maps = torch.randn(2, 6, 3, 5, generator=generator).double()
    found = nearest(maps)
    assert found.shape == (2, 4, 3, 5)
    for n in range(2):
        for y in range(3):
            for x in range(5):
                cell = nearest(maps[n, :, y, x][None])[0]
                torch.testing.assert_close(found[n, :, y, x], cell, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["centered", "normalized", "plain"])
def test_batches_add_up_and_no_pass_is_too_many(kind):
    """Of two layers; features far from 0, which float32 sums would lose."""
    generator = torch.Generator().manual_seed(0)
    N = SAMPLES_AT_A_TIME + 9
    layers = [100 + torch.randn(N, C, generator=generator) for C in (3, 5)]
    labels = torch.arange(N) % 4
    passes = []

    def read():
        passes.append(1)
        for start in (*range(0, 21, 7), N):
            # The last one of a process without an image.
            part = slice(start, start + 7 if start < 14 else N)
            yield [x[part] for x in layers], labels[part]

    found = nearest_class_means(read, 4, [3, 5], transform=kind)
    assert len(passes) == (2 if kind == "centered" else 1)
    for x, nearest in zip(layers, found, strict=True):
        x = x.double()
        mean = x.mean(0) if kind == "centered" else torch.zeros(x.shape[1]).double()
        f = x if kind == "plain" else (x - mean) / (x - mean).norm(dim=1, keepdim=True)
        means = torch.stack([f[labels == k].mean(0) for k in range(4)])
        torch.testing.assert_close(nearest.mean, mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(nearest.means, means, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("kind", "distance"), KINDS)
def test_a_class_without_samples_is_never_named_if_one_says_so(kind, distance):
    """Not even between pixels, where logits are interpolated; all else is as without it."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 6, generator=generator).double()
    labels, x = torch.arange(30) % 3, torch.randn(50, 6, generator=generator).double()
    options = {"transform": kind, "distance": distance}
    # Classes 0, 2 and 3 of 4.
    found = nearest_class_mean(
        features, torch.tensor([0, 2, 3])[labels], 4, skip_absent=True, **options
    )
    expected = nearest_class_mean(features, labels, 3, **options)
    assert torch.equal(found(x)[:, [0, 2, 3]], expected(x))
    between = torch.nn.functional.interpolate(found(x[:, :, None, None]), size=(2, 2))
    assert between.isfinite().all() and (between.argmax(1) != 1).all()
    if found.linear() is not None:
        weight, bias = found.linear()
        assert ((x @ weight.T + bias).argmax(1) != 1).all()
    with raises_naming(ValueError, "ncm", "class 0", "DATASETS.TRAIN"):
        nearest_class_mean(features[:0], labels[:0], 4, skip_absent=True)


@pytest.mark.parametrize(("kind", "distance"), KINDS)
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_no_length_of_features_names_a_class_without_samples(kind, distance, length):
    """Neither features near 0, far from all means, nor those opposite to them; in float32."""
    generator = torch.Generator().manual_seed(0)
    labels, center = torch.arange(30) % 3, torch.full((6,), length)
    features = center + 0.1 * length * torch.randn(30, 6, generator=generator)
    nearest = nearest_class_mean(
        features,
        torch.tensor([1, 2, 3])[labels],
        4,
        transform=kind,
        distance=distance,
        skip_absent=True,
    )
    x = torch.cat([torch.zeros(1, 6), features, -features, 10 * features, -10 * features])
    assert (nearest(x).argmax(1) != 0).all() and (nearest(x).softmax(1)[:, 0] == 0).all()
    if nearest.linear() is not None:
        weight, bias = nearest.linear()
        assert ((x @ weight.T + bias).argmax(1) != 0).all()


@pytest.mark.parametrize(("kind", "distance"), KINDS)
def test_a_class_without_samples_in_half_precision(kind, distance):
    """The linear layer as well, and between pixels: nothing is infinite, or not a number."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 6, generator=generator)
    labels = torch.tensor([1, 2, 3])[torch.arange(30) % 3]
    nearest = nearest_class_mean(
        features, labels, 4, transform=kind, distance=distance, skip_absent=True
    )
    logits = [nearest.half()(features.half())]
    if nearest.linear() is not None:
        weight, bias = nearest.linear()
        logits.append(features.half() @ weight.T + bias)
    for z in logits:
        assert z.dtype == torch.float16
        between = torch.nn.functional.interpolate(
            z.T.reshape(1, 4, 5, 6), size=(9, 12), mode="bilinear", align_corners=True
        )
        assert between.isfinite().all() and (between.argmax(1) != 0).all()
