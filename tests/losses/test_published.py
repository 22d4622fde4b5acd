# SPDX-License-Identifier: Apache-2.0
"""The class losses, as configs build them, against their authors' definitions in float64.

Each definition is written down here once more, from the paper and what its release computes, with
the authors' numbers: Seesaw of mmdetection 3.3, LDAM of LDAM-DRW, the equalization loss of
eql.detectron2, the federated loss of detectron2. RetinaNet's focal loss is torchvision's function
(fvcore's is the same, in float32).

Shape alphabet:
    S: RoIs or images
    K: classes; background is the class K
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from longtail.config import get_cfg
from longtail.data.statistics.class_stats import ClassStats
from longtail.losses import BOXES, IMAGES, build_loss
from longtail.losses.functional import seesaw_loss
from longtail.modeling import CosineLinear
from longtail.modeling.cosine import cosine_classifier

K, IMAGE_COUNT = 7, np.array([100_000, 900, 178, 177, 30, 1, 1])
NUM_IMAGES = 100_000
EXACT = {"atol": 1e-12, "rtol": 1e-12}


@pytest.fixture
def build(monkeypatch):
    """The loss of a name for boxes or images, with the default keys."""
    names = tuple("abcdefg")
    stats = ClassStats(names, NUM_IMAGES, None, 2 * IMAGE_COUNT, IMAGE_COUNT)
    monkeypatch.setattr("longtail.losses.build.get_class_stats", lambda names: stats)

    def make(name, task=BOXES):
        cfg = get_cfg()
        cfg.merge_from_list([task.loss_key, name, task.classes_key, K])
        cfg.DATASETS.TRAIN = ("toy",)
        return build_loss(cfg, task)

    return make


def batch(columns: int, count: int = 40, *, kind="mixed", spread=4.0, seed=0):
    """(count, columns) float64 logits and (count,) labels: mixed, all foreground or background."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, columns, generator=generator, dtype=torch.float64)
    low, high = {"mixed": (0, K + 1), "foreground": (0, K), "background": (K, K + 1)}[kind]
    return logits, torch.randint(low, high, (count,), generator=generator)


def assert_equal_losses(given, expected, logits, classes):
    """Two functions of logits and labels have the same values and gradients, to 1e-12."""
    results = []
    for function in (given, expected):
        z = logits.clone().requires_grad_()
        value = function(z, classes)
        results.append((value.detach(), torch.autograd.grad(value, z)[0]))
    torch.testing.assert_close(*results, **EXACT)
    return results[0]


each_kind = pytest.mark.parametrize("kind", ["mixed", "foreground", "background"])


# --- Seesaw, mmdetection 3.3


def reference_seesaw(logits, labels, seen, *, p=0.8, q=2.0, eps=1e-2):
    """(S, K) logits of foreground, (K,) counts: factors on the exponentials of each sample."""
    total = torch.zeros((), dtype=torch.float64)
    for z, y in zip(logits, labels.tolist(), strict=True):
        sigma = z.detach().exp() / z.detach().exp().sum()
        factors = torch.ones(len(z), dtype=torch.float64)
        for j in range(len(z)):
            if j == y:
                continue
            ratio = max(seen[j], 1) / max(seen[y], 1)
            if ratio < 1:
                factors[j] *= ratio**p
            confused = sigma[j].item() / max(sigma[y].item(), eps)
            if confused > 1:
                factors[j] *= confused**q
        total = total - (z[y].exp() / (factors * z.exp()).sum()).log()
    return total


def reference_seesaw_detector(logits, labels, seen):
    """Of (S, K + 2) outputs: classes over the foreground, objectness over all, both over S."""
    number, inside = len(labels), labels < K
    of_classes = reference_seesaw(logits[inside, :K], labels[inside], seen)
    p = logits[:, K:].exp() / logits[:, K:].exp().sum(dim=1, keepdim=True)
    of_objectness = -torch.where(inside, p[:, 0], p[:, 1]).log().sum()
    return (of_classes + of_objectness) / number


@each_kind
def test_seesaw_in_detection(build, kind):
    loss = build("seesaw")
    seen = [0] * (K + 1)
    for seed in range(3):
        logits, classes = batch(K + 2, kind=kind, seed=seed)
        for label in classes.tolist():
            seen[label] += 1
        loss.train()
        loss(logits, classes)  # counts
        assert_equal_losses(
            loss.eval(), lambda z, y: reference_seesaw_detector(z, y, seen[:K]), logits, classes
        )


def test_seesaw_of_images(build):
    loss = build("seesaw", IMAGES).eval()
    loss.class_counts += torch.tensor([900, 300, 80, 0, 5, 1, 0])
    logits, classes = batch(K, kind="foreground")
    seen = loss.class_counts.tolist()
    assert_equal_losses(loss, lambda z, y: reference_seesaw(z, y, seen) / len(y), logits, classes)


def test_the_bound_of_seesaw_on_many_hard_classes():
    """1,203 classes, of which a sample's own has about 1 / 1203: the bound lowers the loss."""
    logits, _ = batch(1203, 6, spread=1.0)
    classes, seen = torch.arange(6), [1] * 1203
    counts = torch.tensor(seen)
    bounded, _ = assert_equal_losses(
        lambda z, y: seesaw_loss(z, y, counts, 0.8, 2.0).sum(),
        lambda z, y: reference_seesaw(z, y, seen),
        logits,
        classes,
    )
    free = seesaw_loss(logits, classes, counts, 0.8, 2.0, eps=0.0).sum()
    torch.testing.assert_close(free, reference_seesaw(logits, classes, seen, eps=0.0), **EXACT)
    assert free > 1.2 * bounded


def test_probabilities_of_seesaw_in_detection(build):
    logits, _ = batch(K + 2)
    given = build("seesaw").probabilities(logits)
    exp = logits.exp()
    foreground = exp[:, K] / (exp[:, K] + exp[:, K + 1])
    of_classes = exp[:, :K] / exp[:, :K].sum(dim=1, keepdim=True)
    expected = torch.cat([of_classes * foreground[:, None], 1 - foreground[:, None]], dim=1)
    torch.testing.assert_close(given, expected, **EXACT)
    torch.testing.assert_close(given.sum(dim=1), torch.ones(40).double(), **EXACT)


# --- LDAM, LDAM-DRW


def test_ldam(build):
    """CE(s (cos - Delta)), max Delta = 0.5, s = 30, of a cosine classifier with a fixed s."""
    loss = build("ldam_drw", IMAGES)
    torch.manual_seed(0)
    classifier = cosine_classifier("KEY", 5, loss).double()
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]
    features = torch.randn(40, 5, dtype=torch.float64)
    _, classes = batch(K, kind="foreground")
    margins = IMAGE_COUNT**-0.25
    margins = torch.from_numpy(0.5 * margins / margins.max())

    def reference(x):
        weight = classifier.weight
        cosines = (x / x.norm(dim=1, keepdim=True)) @ (weight / weight.norm(dim=1, keepdim=True)).T
        own = F.one_hot(classes, K).bool()
        return F.cross_entropy(30 * torch.where(own, cosines - margins, cosines), classes)

    loss.margins = 30 * margins  # the buffer's own numbers are float32
    torch.testing.assert_close(build("ldam_drw", IMAGES).margins.double(), loss.margins)
    assert_equal_losses(
        lambda x, y: loss(classifier(x), y), lambda x, y: reference(x), features, classes
    )


def test_a_scale_that_is_not_learned_is_in_checkpoints():
    """By the same name as one that is: what was trained with a learned one stays as it is."""
    learned, fixed = CosineLinear(4, 3, 17.0), CosineLinear(4, 3, 30.0, learn_scale=False)
    fixed.load_state_dict(learned.state_dict())
    features = torch.randn(2, 4)
    assert torch.equal(fixed(features), learned(features))
    assert fixed.scale == 17 and not fixed.scale.requires_grad


# --- equalization loss, eql.detectron2


@each_kind
def test_equalization_loss_in_detection(build, kind):
    loss = build("eql")
    frequency = IMAGE_COUNT / NUM_IMAGES
    # 178 of 100,000 images are more than 0.00177 of them, 177 are not fewer.
    assert loss.tail.tolist() == (frequency < 0.00177).tolist() == [False] * 4 + [True] * 3

    def reference(z, y):
        target = F.one_hot(y, K + 1)[:, :K].double()
        foreground = (y < K).double()[:, None]
        tail = torch.from_numpy((frequency < 0.00177).astype(float))
        weight = 1 - foreground * tail * (1 - target)
        p = z[:, :K].sigmoid()
        return -(weight * (target * p.log() + (1 - target) * (1 - p).log())).sum() / len(y)

    assert_equal_losses(loss, reference, *batch(K + 1, kind=kind, spread=2.0))


# --- federated loss, detectron2


def reference_federated(z, y, number, weights):
    """Unique labels, background among them, filled up by a draw of K + 1 weights; mean over S."""
    unique = y.unique()
    kept = unique
    if len(unique) < number:
        chances = F.pad(weights.float(), (0, 1))
        chances[unique] = 0
        kept = torch.cat([unique, torch.multinomial(chances, number - len(unique))])
    mask = torch.zeros(len(weights) + 1, dtype=torch.float64)
    mask[kept] = 1
    count = len(weights)
    targets = F.one_hot(y, count + 1)[:, :count].double()
    losses = F.binary_cross_entropy_with_logits(z[:, :count], targets, reduction="none")
    return (losses * mask[:count]).sum() / len(y)


@each_kind
@pytest.mark.parametrize("number", [1, 3, 5])
def test_federated_loss(build, kind, number):
    loss = build("federated")
    assert loss.number == 50
    loss.number = number
    weights = torch.tensor(IMAGE_COUNT) ** 0.5
    for seed in range(8):
        logits, classes = batch(K + 1, kind=kind, seed=seed)
        classes = torch.where(classes < K, classes % 3, K)  # three classes and background
        state = torch.Generator().manual_seed(seed).get_state()

        def seeded(function, state=state):
            def run(z, y):
                torch.set_rng_state(state)
                return function(z, y)

            return run

        assert_equal_losses(
            seeded(loss),
            seeded(lambda z, y: reference_federated(z, y, number, weights)),
            logits,
            classes,
        )


# --- focal loss, RetinaNet


@each_kind
def test_focal_loss_in_detection(build, kind):
    loss = build("focal")

    def reference(z, y):
        targets = F.one_hot(y, K + 1)[:, :K].double()
        total = sigmoid_focal_loss(z[:, :K], targets, alpha=0.25, gamma=2.0, reduction="sum")
        return total / max(1, int((y < K).sum()))

    assert_equal_losses(loss, reference, *batch(K + 1, kind=kind))


def test_focal_loss_of_certain_samples_has_a_finite_gradient(build):
    loss = build("focal")
    loss.gamma = 0.5
    logits = torch.full((2, K + 1), 300.0).requires_grad_()
    value = loss(logits, torch.tensor([0, K]))
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_focal_loss_of_images_is_that_of_a_softmax(build):
    """As LDAM-DRW's comparison computes it: (1 - p)^gamma of the cross-entropy."""
    logits, classes = batch(K, kind="foreground")

    def reference(z, y):
        cross_entropy = F.cross_entropy(z, y, reduction="none")
        return ((1 - (-cross_entropy).exp()) ** 2 * cross_entropy).mean()

    assert_equal_losses(build("focal", IMAGES), reference, logits, classes)


# --- all of them


@pytest.mark.parametrize("name", ["seesaw", "ldam_drw", "eql", "federated", "focal"])
def test_no_rois(build, name):
    loss = build(name)
    logits = torch.zeros(0, loss.num_logits, dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0 and logits.grad.shape == logits.shape
