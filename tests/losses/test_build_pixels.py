# SPDX-License-Identifier: Apache-2.0
"""Losses of pixels by name: what each is made of, and where its statistics come from."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.losses import PIXELS, build_loss
from longtail.losses.class_weights import effective_number_weights, inverse_frequency_weights
from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.functional import focal_loss, ldam_loss, ldam_margins, seesaw_loss
from longtail.losses.pixels import dice_loss
from tests.tiny import register_stripes, tiny_config

pixel_cross_entropy = functools.partial(cross_entropy, ignore_label=255)

# Two label maps by hand: class 2 in one image alone.
PIXEL_COUNT, IMAGE_COUNT = [40, 20, 3], [2, 2, 1]


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    register_stripes("toy_stripes", tmp_path, count=2)
    maps = [0] * 20 + [1] * 10 + [2] * 3 + [255] * 3, [0] * 20 + [1] * 10
    for index, labels in enumerate(maps):
        labels = np.array(labels, dtype=np.uint8).reshape(6, -1)
        Image.fromarray(labels).save(tmp_path / "labels" / f"{index}.png")
        Image.new("RGB", labels.shape[::-1]).save(tmp_path / "images" / f"{index}.png")
    return tiny_config(tmp_path, ["DATASETS.TRAIN", ("toy_stripes",)])


def build(cfg, name):
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_LOSS = name
    return build_loss(cfg, PIXELS)


def pixel_by_pixel(logits, labels, loss):
    """The mean of the loss over the valid pixels, one after the other."""
    values = [
        loss(logits[n, :, y, x][None], labels[n, y, x][None])
        for n, y, x in (labels < 3).nonzero().tolist()
    ]
    return torch.cat(values).mean() if values else logits.sum() * 0


EXPECTED = {
    "cross_entropy": pixel_cross_entropy,
    "reweighted_cross_entropy": lambda z, y: pixel_cross_entropy(
        z, y, class_weight=inverse_frequency_weights(torch.tensor(PIXEL_COUNT))
    ),
    "balanced_softmax_pixel_prior": lambda z, y: pixel_cross_entropy(
        z, y, class_prior=torch.tensor(PIXEL_COUNT)
    ),
    "balanced_softmax_region_prior": lambda z, y: pixel_cross_entropy(
        z, y, class_prior=torch.tensor(IMAGE_COUNT)
    ),
    "class_balanced": lambda z, y: pixel_cross_entropy(
        z, y, class_weight=effective_number_weights(torch.tensor(IMAGE_COUNT), 0.9999)
    ),
    "focal": lambda z, y: pixel_by_pixel(z, y, lambda z, y: focal_loss(z, y, 2.0)),
    "ldam_drw": lambda z, y: pixel_by_pixel(
        z, y, lambda z, y: ldam_loss(z, y, ldam_margins(torch.tensor(PIXEL_COUNT), 15.0))
    ),
    "dice": dice_loss,
    "dice_cross_entropy": lambda z, y: dice_loss(z, y) + pixel_cross_entropy(z, y),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_name_is_its_function(cfg, name):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    labels[0, 0] = 255
    loss = build(cfg, name)
    torch.testing.assert_close(
        loss(logits, labels), EXPECTED[name](logits, labels), atol=1e-6, rtol=0
    )
    # Statistics belong to the data: no checkpoint holds them.
    assert not loss.state_dict()


def make_maps():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (2, 4, 4), generator=generator)
    labels[0, :3] = 255
    return logits, labels


def test_seesaw_counts_the_valid_pixels(cfg):
    logits, labels = make_maps()
    loss = build(cfg, "seesaw")
    counts = torch.stack([(labels == k).sum() for k in range(3)])
    for times in (1, 2):
        value = loss(logits, labels)
        assert torch.equal(loss.state_dict()["class_loss.class_counts"], times * counts)
    expected = pixel_by_pixel(logits, labels, lambda z, y: seesaw_loss(z, y, counts, 0.8, 2.0))
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_the_exponent_of_the_weights(cfg):
    cfg.MODEL.CLASS_LOSS.REWEIGHT_EXPONENT = 0.5
    weights = inverse_frequency_weights(torch.tensor(PIXEL_COUNT), 0.5)
    assert torch.equal(build(cfg, "reweighted_cross_entropy").class_loss.class_weight, weights)


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("name", ["class_balanced", "focal", "ldam_drw", "seesaw"])
def test_parts_of_a_batch_add_up(cfg, name, reweighted):
    """With the normalizers of the parts, as gradient accumulation does it."""
    cfg.MODEL.CLASS_LOSS.LDAM_REWEIGHT_FROM = 0.0 if reweighted else 1.0
    cfg.MODEL.CLASS_LOSS.EFFECTIVE_NUMBER_BETA = 0.9
    loss = build(cfg, name).eval()  # of Seesaw, every part would count the pixels before it
    logits, labels = make_maps()
    shares = [loss.normalizer(part) for part in labels.split(1)]
    assert shares[0] != shares[1] and shares[0] > 0
    total = sum(
        loss(z, y) * share / sum(shares)
        for z, y, share in zip(logits.split(1), labels.split(1), shares, strict=True)
    )
    torch.testing.assert_close(total, loss(logits, labels), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["focal", "ldam_drw", "seesaw"])
def test_ignored_pixels_have_no_gradient(cfg, name):
    logits, labels = make_maps()
    (gradient,) = torch.autograd.grad(build(cfg, name)(logits, labels), logits)
    assert torch.equal((gradient != 0).any(dim=1), labels != 255)


def test_losses_of_one_class_for_each_sample_alone(cfg):
    with pytest.raises(ValueError, match=r"PIXEL_LOSS must be one of .*seesaw.*, got 'eql'"):
        build(cfg, "eql")


def test_the_config_names_the_ignored_label(cfg):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 2
    logits, labels = torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 2)
    for name in EXPECTED:
        assert build(cfg, name)(logits, labels) == 0


def test_an_unknown_name_lists_the_known_ones(cfg):
    with pytest.raises(ValueError, match=r"PIXEL_LOSS must be one of .*dice.*, got 'lovasz'"):
        build(cfg, "lovasz")


@pytest.mark.parametrize("name", [name for name in EXPECTED if "_prior" in name])
def test_statistics_of_another_number_of_classes(cfg, name):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="NUM_CLASSES 7 classes, but toy_stripes has 3 classes"):
        build(cfg, name)


def test_statistics_without_a_training_set(cfg):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="need a data set"):
        build(cfg, "reweighted_cross_entropy")
