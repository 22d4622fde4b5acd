# SPDX-License-Identifier: Apache-2.0
"""Images, boxes, pixels, regions and the alignment all have the one cross-entropy's loss.

Every caller gets the same samples; what it returns is compared with plain Python, and to the last
bit with the function where mathematics leaves no other order of the sums.
"""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils.events import EventStorage
from disalign.functional import alignment_loss, generalized_reweight
from region_rebalance.functional import balanced_softmax_loss
from region_rebalance.head import RegionRebalanceHead
from torch import nn

from longtail.losses import CrossEntropy, PixelLoss
from longtail.losses.class_weights import inverse_frequency_weights
from longtail.losses.cross_entropy import cross_entropy
from longtail.modeling import LongTailFastRCNNOutputLayers
from tests.references.losses import weighted_balanced_cross_entropy

S, K = 12, 4
WEIGHT, PRIOR = [0.25, 3.0, 1.0, 2.0], [900.0, 40.0, 7.0, 1.0]
OPTIONS = {
    "plain": {},
    "weight": {"class_weight": torch.tensor(WEIGHT)},
    "prior": {"class_prior": torch.tensor(PRIOR)},
    "both": {"class_weight": torch.tensor(WEIGHT), "class_prior": torch.tensor(PRIOR)},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(S, K, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, K, (S,), generator=generator)


def check(loss, logits, classes, options, *, weighted_mean=True):
    """Value and gradient by hand."""
    plain = {key.removeprefix("class_"): value.tolist() for key, value in options.items()}
    expected, derivatives = weighted_balanced_cross_entropy(
        logits.tolist(), classes.tolist(), weighted_mean=weighted_mean, **plain
    )
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.tensor(derivatives, dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


@each_option
@pytest.mark.parametrize("background", [False, True], ids=["images", "boxes"])
def test_images_and_boxes(samples, options, background):
    logits, classes = samples
    loss = CrossEntropy(K - background, background=background, **options)
    assert torch.equal(loss(logits, classes), cross_entropy(logits, classes, **options))
    check(loss(logits, classes), logits, classes, options)


@each_option
def test_pixels(samples, options):
    """The samples as pixels of two maps of 2 x 4, four of them without a label."""
    logits, classes = samples
    cells = torch.randperm(16, generator=torch.Generator().manual_seed(1))[:S]
    maps = torch.zeros(16, K, dtype=torch.float64).index_copy(0, cells, logits)
    labels = torch.full((16,), 255).index_copy(0, cells, classes)
    maps, labels = maps.view(2, 2, 4, K).permute(0, 3, 1, 2), labels.view(2, 2, 4)
    given = PixelLoss(CrossEntropy(K, **options))(maps, labels)
    assert torch.equal(given, cross_entropy(maps, labels, ignore_label=255, **options))
    check(given, logits, classes, options)


def test_regions(samples):
    logits, classes = samples
    options = OPTIONS["prior"]
    given = balanced_softmax_loss(logits, classes, options["class_prior"])
    assert torch.equal(given, cross_entropy(logits, classes, **options))
    check(given, logits, classes, options)


class Features(nn.Module):
    """A base head whose pixel features are what it is given."""

    ignore_value, common_stride = 255, 4

    def __init__(self):
        super().__init__()
        self.predictor = nn.Conv2d(K, K, 1)


@pytest.mark.parametrize("balanced", [True, False])
def test_the_region_branch(samples, balanced):
    """A classifier that is the identity, on regions of one cell: their features are the logits."""
    logits, classes = samples
    head = RegionRebalanceHead(
        Features(),
        num_classes=K,
        class_counts=torch.tensor(PRIOR),
        loss_weight=1.0,
        balanced=balanced,
    ).double()
    with torch.no_grad():
        head.region_classifier.weight.copy_(torch.eye(K))
    loss = head.region_loss(logits[:, :, None, None], classes[:, None, None])
    check(loss, logits, classes, OPTIONS["prior" if balanced else "plain"])


@pytest.mark.parametrize("weighted_mean", [True, False])
def test_the_alignment(samples, weighted_mean):
    logits, classes = samples
    options = OPTIONS["weight"]
    given = alignment_loss(logits, classes, options["class_weight"], weighted_mean=weighted_mean)
    assert torch.equal(
        given, cross_entropy(logits, classes, weighted_mean=weighted_mean, **options)
    )
    check(given, logits, classes, options, weighted_mean=weighted_mean)


def test_a_detector(samples):
    """By its own default, without a class loss."""
    logits, classes = samples
    layers = LongTailFastRCNNOutputLayers(
        ShapeSpec(channels=2),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=K - 1,
    )
    with EventStorage():
        check(layers.classification_loss(logits, classes), logits, classes, {})


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 1.5])
def test_class_weights(exponent):
    """Of all classes that occur generalized re-weighting is inverse frequency, bit for bit."""
    counts = torch.tensor([50_000, 1, 300, 7])
    raw = [n**-exponent for n in counts.tolist()]
    expected = [4 * value / sum(raw) for value in raw]
    weights = inverse_frequency_weights(counts, exponent, dtype=torch.float64)
    assert weights.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(generalized_reweight(counts, exponent), weights)
    assert torch.equal(inverse_frequency_weights(counts, exponent), weights.float())
    # Classes that do not occur change nothing for the others.
    more = inverse_frequency_weights(torch.tensor([0, *counts, 0]), exponent, dtype=torch.float64)
    assert torch.equal(more, torch.cat([weights.new_zeros(1), weights, weights.new_zeros(1)]))
