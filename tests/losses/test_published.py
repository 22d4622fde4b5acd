# SPDX-License-Identifier: Apache-2.0
"""The class losses, as configs build them, against their authors' definitions in float64.

Each definition is written down once more, with the authors' numbers (tests/references/losses.py).
RetinaNet's focal loss is torchvision's function (fvcore's is the same, in float32).

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
from tests.references import losses as references

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
            loss.eval(), lambda z, y: references.seesaw_detector(z, y, seen[:K]), logits, classes
        )


def test_seesaw_of_images(build):
    loss = build("seesaw", IMAGES).eval()
    loss.class_counts += torch.tensor([900, 300, 80, 0, 5, 1, 0])
    logits, classes = batch(K, kind="foreground")
    seen = loss.class_counts.tolist()
    assert_equal_losses(loss, lambda z, y: references.seesaw(z, y, seen) / len(y), logits, classes)


def test_the_bound_of_seesaw_on_many_hard_classes():
    """1,203 classes, of which a sample's own has about 1 / 1203: the bound lowers the loss."""
    logits, _ = batch(1203, 6, spread=1.0)
    classes, seen = torch.arange(6), [1] * 1203
    counts = torch.tensor(seen)
    bounded, _ = assert_equal_losses(
        lambda z, y: seesaw_loss(z, y, counts, 0.8, 2.0).sum(),
        lambda z, y: references.seesaw(z, y, seen),
        logits,
        classes,
    )
    free = seesaw_loss(logits, classes, counts, 0.8, 2.0, eps=0.0).sum()
    torch.testing.assert_close(free, references.seesaw(logits, classes, seen, eps=0.0), **EXACT)
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
    margins = torch.from_numpy(references.margins(IMAGE_COUNT, 0.5))

    def reference(x):
        weight = classifier.weight
        cosines = (x / x.norm(dim=1, keepdim=True)) @ (weight / weight.norm(dim=1, keepdim=True)).T
        return F.cross_entropy(30 * references.lowered(cosines, classes, margins), classes)

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
        return references.sigmoid_equalization(z, y, frequency < 0.00177)

    assert_equal_losses(loss, reference, *batch(K + 1, kind=kind, spread=2.0))


# --- federated loss, detectron2


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
            seeded(lambda z, y: references.federated(z, y, number, weights)),
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
    assert_equal_losses(build("focal", IMAGES), references.softmax_focal, logits, classes)


# --- all of them


@pytest.mark.parametrize("name", ["seesaw", "ldam_drw", "eql", "federated", "focal"])
def test_no_rois(build, name):
    loss = build(name)
    logits = torch.zeros(0, loss.num_logits, dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0 and logits.grad.shape == logits.shape
