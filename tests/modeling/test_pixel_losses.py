"""Pixel losses by name: what each is made of, and where its statistics come from."""

import numpy as np
import pytest
import torch
from PIL import Image

import longtail.engine.pixel_losses  # noqa: F401  (registers)
from longtail.modeling.losses import dice_loss, inverse_frequency_weights, pixel_cross_entropy
from longtail.modeling.pixel_losses import build_pixel_loss
from tests.tiny import register_stripes, tiny_config

# Two label maps by hand: class 2 in one image alone.
PIXELS, IMAGES = [40, 20, 3], [2, 2, 1]


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
    return build_pixel_loss(cfg)


EXPECTED = {
    "cross_entropy": pixel_cross_entropy,
    "reweighted_cross_entropy": lambda z, y: pixel_cross_entropy(
        z, y, class_weight=inverse_frequency_weights(torch.tensor(PIXELS))
    ),
    "balanced_softmax_pixel_prior": lambda z, y: pixel_cross_entropy(
        z, y, class_prior=torch.tensor(PIXELS)
    ),
    "balanced_softmax_region_prior": lambda z, y: pixel_cross_entropy(
        z, y, class_prior=torch.tensor(IMAGES)
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


def test_the_config_names_the_ignored_label(cfg):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 2
    logits, labels = torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 2)
    for name in EXPECTED:
        assert build(cfg, name)(logits, labels) == 0


def test_an_unknown_name_lists_the_known_ones(cfg):
    with pytest.raises(ValueError, match=r"PIXEL_LOSS must be one of .*dice.*, got 'focal'"):
        build(cfg, "focal")


@pytest.mark.parametrize("name", [name for name in EXPECTED if "_prior" in name])
def test_statistics_of_another_number_of_classes(cfg, name):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="NUM_CLASSES 7 classes, but toy_stripes has 3 classes"):
        build(cfg, name)


def test_statistics_without_a_training_set(cfg):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="need a data set"):
        build(cfg, "reweighted_cross_entropy")
