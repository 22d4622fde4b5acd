# SPDX-License-Identifier: Apache-2.0
"""Region pooling and the balanced softmax against plain float64 loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from region_rebalance import functional
from region_rebalance.functional import balanced_softmax_loss, count_regions, pool_regions
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.references.methods import nearest_weights
from tests.references.methods import regions as regions_by_loops

N, C, H, W, K = 3, 5, 6, 7, 9
IGNORE = 255


def make_inputs(label_size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(N, C, H, W, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 4, (N, *label_size), generator=generator)
    # Class 8 is on one image alone, 4..7 nowhere.
    labels[1, :2, :3] = 8
    labels[torch.rand(N, *label_size, generator=generator) < 0.2] = IGNORE
    return features, labels


def area_weights(labels: Tensor) -> Tensor:
    """Shares of each class in the windows of adaptive average pooling, in float64, by loops."""
    rows, columns = (
        [(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]
        for side, cells in zip(labels.shape[1:], (H, W), strict=True)
    )
    weights = torch.zeros(N, K, H, W, dtype=torch.float64)
    for n, label in enumerate(labels):
        for y, (top, bottom) in enumerate(rows):
            for x, (left, right) in enumerate(columns):
                window = label[top:bottom, left:right]
                for k in range(K):
                    weights[n, k, y, x] = (window == k).double().mean()
    return weights


WEIGHTS = {"nearest": lambda labels: nearest_weights(labels, K, (H, W)), "area": area_weights}


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("downsampling", ["nearest", "area"])
@pytest.mark.parametrize("label_size", [(H, W), (4 * H, 4 * W)])
def test_pooling_equals_the_loop(scope, downsampling, label_size):
    features, labels = make_inputs(label_size)
    weights = WEIGHTS[downsampling](labels)
    expected = regions_by_loops(features, weights, scope)
    regions, classes = pool_regions(
        features, labels, K, ignore_label=IGNORE, scope=scope, downsampling=downsampling
    )
    assert classes.tolist() == [k for _, k in expected]
    # Area weights are float32 shares of 1/16: exact. float64 sums of 42 terms.
    torch.testing.assert_close(regions, torch.stack(list(expected.values())), atol=1e-12, rtol=0)


@pytest.mark.parametrize("downsampling", ["nearest", "area"])
@pytest.mark.parametrize("scope", ["image", "batch"])
def test_pooling_has_the_right_gradient(scope, downsampling):
    features, labels = make_inputs((2 * H, 2 * W))
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: pool_regions(x, labels, K, scope=scope, downsampling=downsampling)[0], features
    )


def test_nearest_takes_labels_of_any_size():
    features, labels = make_inputs((13, 25))
    expected = regions_by_loops(features, WEIGHTS["nearest"](labels), "image")
    regions, classes = pool_regions(features, labels, K)
    assert classes.tolist() == [k for _, k in expected]
    torch.testing.assert_close(regions, torch.stack(list(expected.values())), atol=1e-12, rtol=0)


def test_area_keeps_a_region_smaller_than_a_cell():
    features = torch.randn(1, C, 2, 2)
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 3, 3] = 5
    assert pool_regions(features, labels, K)[1].tolist() == [0]
    regions, classes = pool_regions(features, labels, K, downsampling="area")
    assert classes.tolist() == [0, 5]
    torch.testing.assert_close(regions[1], features[0, :, 0, 0])


def test_a_constant_map_pools_to_the_constant():
    labels = make_inputs((24, 28))[1]
    for downsampling in ("nearest", "area"):
        regions, _ = pool_regions(
            torch.full((N, C, H, W), 3.5), labels, K, downsampling=downsampling
        )
        torch.testing.assert_close(regions, torch.full_like(regions, 3.5))


def test_uint8_labels_and_another_ignore_label():
    features, labels = make_inputs((H, W))
    expected = pool_regions(features, labels, K)
    moved = torch.where(labels == IGNORE, 100, labels).to(torch.uint8)
    actual = pool_regions(features, moved, K, ignore_label=100)
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("downsampling", ["nearest", "area"])
def test_no_valid_pixel_gives_no_region_and_a_zero_gradient(scope, downsampling):
    features = torch.randn(2, C, H, W, requires_grad=True)
    labels = torch.full((2, 12, 14), IGNORE)
    regions, classes = pool_regions(features, labels, K, scope=scope, downsampling=downsampling)
    assert regions.shape == (0, C) and classes.shape == (0,)
    logits = torch.nn.Linear(C, K)(regions)
    loss = balanced_softmax_loss(logits, classes, torch.ones(K))
    loss.backward()
    assert loss.item() == 0 and features.grad.abs().max() == 0


@pytest.mark.parametrize("label_size", [(13, 25), (2 * H, 17), (3, 4), (3 * H, 5 * W)])
def test_area_takes_labels_of_any_size(label_size):
    features, labels = make_inputs(label_size)
    expected = regions_by_loops(features, area_weights(labels), "image")
    regions, classes = pool_regions(features, labels, K, downsampling="area")
    assert classes.tolist() == [k for _, k in expected]
    # The shares are float32: 24 bits.
    torch.testing.assert_close(regions, torch.stack(list(expected.values())), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("downsampling", ["nearest", "area"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_type_and_layout_pools_alike(dtype, layout, downsampling, monkeypatch):
    # Small parts, so that several and an incomplete last one occur.
    monkeypatch.setattr(functional, "ELEMENTS_AT_A_TIME", 10 * C)
    features, labels = make_inputs((4 * H, 4 * W))
    features = features.to(dtype).contiguous(memory_format=layout).requires_grad_()
    weights = WEIGHTS[downsampling](labels)
    exact = features.detach().double().contiguous().requires_grad_()
    expected = torch.stack(list(regions_by_loops(exact, weights, "image").values()))
    slope = torch.randn_like(expected)
    expected.backward(slope)

    # What the backward writes: .grad would be brought into the features' layout in any case.
    written = []
    features.register_hook(written.append)
    regions, _ = pool_regions(features, labels, K, downsampling=downsampling)
    regions.backward(slope.to(regions.dtype))
    assert regions.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Sums of up to 42 float32 terms; gradients rounded once to the features' own type.
    sums = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(regions.double(), expected, atol=sums, rtol=sums)
    assert written[0].dtype == dtype and written[0].stride() == features.stride()
    bits = max(torch.finfo(dtype).eps / 2, sums)
    torch.testing.assert_close(written[0].double(), exact.grad, atol=1e-7, rtol=1.01 * bits)


def test_half_precision_is_not_held_in_float32():
    # 64 MB of features would be 128 MB of float32; beside their gradient little is held.
    features = torch.zeros(2, 256, 256, 256, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.arange(4).repeat_interleave(64 * 256).view(1, 256, 256).expand(2, -1, -1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        pool_regions(features, labels, K)[0].sum().backward()
    held = peak = 0
    events = recorded.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak - features.nbytes < 16e6


def test_sums_do_not_lose_half_precision():
    # 128 x 128 cells of 5.0 sum to 81920, beyond float16's 65504; the mean is 5 all the same.
    features = torch.full((1, 2, 128, 128), 5.0, dtype=torch.float16)
    regions, _ = pool_regions(features, torch.zeros(1, 128, 128, dtype=torch.long), K)
    assert regions.dtype == torch.float32
    torch.testing.assert_close(regions, torch.full((1, 2), 5.0))


def test_autocast_does_not_change_the_pooling():
    features, labels = make_inputs((H, W))
    features = features.float()
    expected = pool_regions(features, labels, K)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = pool_regions(features, labels, K)[0]
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(C, H, W)}, r"features must have shape \(N, C, H, W\)"),
        ({"labels": torch.zeros(N + 1, H, W)}, r"labels must have shape \(N, h, w\) with N = 3"),
        ({"labels": torch.full((N, H, W), K)}, rf"labels contain {K}, expected 0..{K - 1}"),
        ({"labels": torch.full((N, H, W), -1)}, "labels contain -1"),
        ({"scope": "pixel"}, "scope must be one of"),
        ({"downsampling": "bilinear"}, "downsampling must be one of"),
    ],
)
def test_bad_arguments_are_named(change, message):
    features, labels = make_inputs((H, W))
    arguments = {"features": features, "labels": labels, "num_classes": K, **change}
    with pytest.raises(ValueError, match=message):
        pool_regions(**arguments)


def test_balanced_softmax_equals_eq_8():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 0, 2])
    counts = torch.tensor([100, 30, 7, 1])
    total = 0.0
    for row, y in zip(logits.tolist(), classes.tolist(), strict=True):
        terms = [n * math.exp(z) for n, z in zip(counts.tolist(), row, strict=True)]
        total += -math.log(terms[y] / sum(terms))
    actual = balanced_softmax_loss(logits, classes, counts)
    assert actual.item() == pytest.approx(total / 6, abs=1e-14)


def test_equal_counts_are_cross_entropy_in_value_and_gradient():
    logits = torch.randn(8, K, dtype=torch.float64, requires_grad=True)
    classes = torch.randint(0, K, (8,))
    ours = balanced_softmax_loss(logits, classes, torch.full((K,), 17))
    plain = F.cross_entropy(logits, classes)
    torch.testing.assert_close(ours, plain, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (ours, plain)), atol=1e-14, rtol=0
    )


def test_the_scale_of_the_counts_cancels():
    logits, classes = torch.randn(8, K, dtype=torch.float64), torch.randint(0, K, (8,))
    counts = torch.randint(1, 1000, (K,))
    expected = balanced_softmax_loss(logits, classes, counts)
    actual = balanced_softmax_loss(logits, classes, counts * 1000)
    torch.testing.assert_close(actual, expected, atol=1e-13, rtol=0)


def test_a_class_without_images_leaves_the_denominator():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([0, 1, 3, 3, 0])
    counts = torch.tensor([9, 4, 0, 2])
    loss = balanced_softmax_loss(logits, classes, counts)
    kept = [0, 1, 3]
    expected = balanced_softmax_loss(logits[:, kept], torch.tensor([0, 1, 2, 2, 0]), counts[kept])
    torch.testing.assert_close(loss, expected, atol=1e-14, rtol=0)
    loss.backward()
    assert logits.grad[:, 2].abs().max() == 0 and logits.grad.isfinite().all()


def test_a_region_of_a_class_without_images_is_an_error():
    with pytest.raises(ValueError, match=r"class \[2\] occurs.*statistics do not belong"):
        balanced_softmax_loss(torch.zeros(2, 3), torch.tensor([0, 2]), torch.tensor([5, 1, 0]))


def test_counts_of_another_length_are_an_error():
    with pytest.raises(ValueError, match=r"class_counts must have shape \(3,\)"):
        balanced_softmax_loss(torch.zeros(2, 3), torch.tensor([0, 2]), torch.ones(4))


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("downsampling", ["nearest", "area"])
@pytest.mark.parametrize("size", [(H, W), (25, 30), (48, 56)])
def test_regions_are_counted_as_they_are_pooled(scope, downsampling, size):
    features, labels = make_inputs(size)
    options = {"scope": scope, "downsampling": downsampling}
    expected = len(pool_regions(features, labels, K, **options)[1])
    assert count_regions(labels, features.shape[2:], K, **options) == expected > 0
    ignored = torch.full_like(labels, IGNORE)
    assert count_regions(ignored, features.shape[2:], K, **options) == 0
