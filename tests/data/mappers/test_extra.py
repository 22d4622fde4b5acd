# SPDX-License-Identifier: Apache-2.0
"""Transforms of albumentations by config: image and labels move together, seeds decide."""

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.extra import ExtraAugmentation
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from tests.tiny import tiny_config

pytest.importorskip("albumentations")


@pytest.fixture
def scene():
    """40 x 60 pixels, whose grey values are their labels."""
    labels = np.random.default_rng(0).integers(0, 8, (40, 60), dtype=np.uint8)
    return np.repeat(labels[..., None], 3, axis=2), labels


def test_image_and_labels_move_together(scene):
    turned = ExtraAugmentation([{"VerticalFlip": {"p": 0.5}}, {"Transpose": {"p": 0.5}}], "RGB")
    shapes = set()
    for seed in range(20):
        torch.manual_seed(seed)
        image, labels = turned(*scene)
        np.testing.assert_array_equal(image[..., 0], labels)
        shapes.add((labels.shape, bool(np.array_equal(labels.ravel(), scene[1].ravel()))))
    # One comes without the other.
    assert shapes == {((40, 60), True), ((40, 60), False), ((60, 40), False)}


def test_what_lies_outside_is_ignored(scene):
    """Moved by half the width: the other half has no labels, not those of class 0."""
    moved = {"Affine": {"translate_percent": {"x": [0.5, 0.5], "y": [0, 0]}, "p": 1.0}}
    _, labels = ExtraAugmentation([moved], "RGB", ignore_label=99)(*scene)
    assert (labels[:, :29] == 99).all() and (labels[:, 31:] != 99).all()


def test_seeds_decide(scene):
    noise = ExtraAugmentation([{"GaussNoise": {"p": 1.0}}], "RGB")

    def drawn(seed):
        torch.manual_seed(seed)
        return noise(*scene)[0]

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))
    torch.manual_seed(1)
    assert not np.array_equal(noise(*scene)[0], noise(*scene)[0])


def test_channels_in_the_order_that_albumentations_expects():
    """Red becomes grey of its luma, 0.299 of 200, in both orders."""
    image = np.zeros((4, 4, 3), np.uint8)
    for order, red in (("RGB", 0), ("BGR", 2)):
        colored = image.copy()
        colored[..., red] = 200
        grey, labels = ExtraAugmentation([{"ToGray": {"p": 1.0}}], order)(colored)
        assert labels is None and abs(int(grey[0, 0, 0]) - 59.8) < 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"Blurr": {}}, r"ALBUMENTATIONS: nothing is registered as 'Blurr'; near names: .*Blur"),
        ({"Blur": {"radius": 3}}, "ALBUMENTATIONS: Blur does not take .*radius"),
        ({"Blur": {"blur_limit": "x"}}, "ALBUMENTATIONS: Blur does not take .*blur_limit"),
        ("Blur", "must list transforms as NAME"),
        ({"Compose": {"transforms": []}}, "nothing is registered as 'Compose'"),
    ],
)
def test_bad_transforms(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        ExtraAugmentation([spec], "RGB")
    assert "\n" not in str(error.value)


def test_mappers_use_them_in_training(tmp_path, scene):
    Image.fromarray(scene[0]).save(tmp_path / "image.png")
    Image.fromarray(scene[1] % 3).save(tmp_path / "labels.png")
    record = {"file_name": str(tmp_path / "image.png"), "label": 0}
    inverted = ["INPUT.ALBUMENTATIONS", [{"InvertImg": {"p": 1.0}}], "INPUT.PHOTOMETRIC", False]
    still = ["INPUT.RANDOM_FLIP", "none", "INPUT.CLASSIFICATION.COLOR_JITTER", 0.0]
    plain, extra = (tiny_config(tmp_path, [*still, *keys]) for keys in ([], inverted))
    for mapper in (SemSegDatasetMapper, ClassificationDatasetMapper):
        images = []
        for cfg in (plain, extra):
            cfg.INPUT.PHOTOMETRIC = False
            np.random.seed(0)  # noqa: NPY002  (detectron2's crops)
            torch.manual_seed(0)
            given = {**record, "sem_seg_file_name": str(tmp_path / "labels.png")}
            images.append(mapper(cfg, True)(given)["image"])
        assert torch.equal(255 - images[0], images[1])
        assert mapper(extra, False).extra is None
