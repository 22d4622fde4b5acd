# SPDX-License-Identifier: Apache-2.0
"""The augmentation recipe: sizes derived by hand, labels that stay labels, and determinism."""

import random

import numpy as np
import pytest
from detectron2.data import transforms as T

from longtail.data.mappers.augmentation import (
    PadToSize,
    RandomScaleResize,
    build_sem_seg_augmentation,
)
from tests.tiny import tiny_config


def draw(seed):
    np.random.seed(seed)  # noqa: NPY002  (what detectron2's augmentations draw from)
    random.seed(seed)


@pytest.fixture
def scene():
    """40 x 60 pixels: class 7 on a background of class 2, and an ignored corner."""
    generator = np.random.default_rng(0)
    labels = np.full((40, 60), 2, dtype=np.uint8)
    labels[5:30, 20:50], labels[:6, :6] = 7, 255
    return generator.integers(0, 256, (40, 60, 3), dtype=np.uint8), labels


@pytest.fixture
def recipe(tmp_path):
    def get(*overrides, is_train=True):
        overrides = [f"INPUT.{x}" if i % 2 == 0 else x for i, x in enumerate(overrides)]
        return build_sem_seg_augmentation(tiny_config(tmp_path, overrides), is_train)

    return get


def apply(steps, scene, seed=0):
    draw(seed)
    inputs = T.AugInput(scene[0].copy(), sem_seg=scene[1].copy())
    T.AugmentationList(steps)(inputs)
    return inputs.image, inputs.sem_seg


# factor = min(2048 s / long, 512 s / short), sizes rounded to the nearest pixel.
@pytest.mark.parametrize(
    ("height", "width", "scale", "expected"),
    [
        # ADE20K's usual 512 x 683: min(2048 / 683, 1) = 1.
        (512, 683, 1.0, (512, 683)),
        # min(4.8, 0.8) = 0.8: 512 x 682.67.
        (640, 853, 1.0, (512, 682)),
        (480, 640, 2.0, (1024, 1365)),
        (480, 640, 0.5, (256, 341)),
        # A panorama: min(2048 / 3000, 512 / 500) = 0.68267: 341.33 x 2048.
        (500, 3000, 1.0, (341, 2048)),
        (3000, 500, 0.5, (1024, 171)),
    ],
)
def test_sizes_of_the_recipe(height, width, scale, expected):
    factor = min(2048 * scale / max(height, width), 512 * scale / min(height, width))
    assert expected == (int(height * factor + 0.5), int(width * factor + 0.5))
    resize = RandomScaleResize(512, 2048, (scale, scale))
    transform = resize.get_transform(np.zeros((height, width, 3), dtype=np.uint8))
    assert transform.resized == expected


def test_scales_are_uniform_in_their_range():
    resize = RandomScaleResize(100, 1000, (0.5, 2.0))
    draw(0)
    image = np.zeros((50, 50, 3), dtype=np.uint8)
    sizes = np.array([resize.get_transform(image).resized[0] for _ in range(2000)])
    assert sizes.min() >= 50
    assert sizes.max() <= 200
    # Quarters of [50, 200].
    shares = np.histogram(sizes, bins=4, range=(50, 200))[0] / 2000
    np.testing.assert_allclose(shares, 0.25, atol=0.04)


@pytest.mark.parametrize("scale_range", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_range_that_is_none(scale_range):
    with pytest.raises(ValueError, match=r"RESIZE_SCALE_RANGE must be \[low, high\]"):
        RandomScaleResize(512, 2048, scale_range)


def test_padding_is_the_mean_and_the_ignored_label(scene):
    image, labels = apply([PadToSize((50, 64), (123.675, 116.28, 103.53))], scene)
    assert image.shape == (50, 64, 3)
    assert labels.shape == (50, 64)
    assert (image.dtype, labels.dtype) == (np.uint8, np.uint8)
    assert np.array_equal(image[:40, :60], scene[0])
    assert np.array_equal(labels[:40, :60], scene[1])
    outside = np.ones((50, 64), dtype=bool)
    outside[:40, :60] = False
    assert (image[outside] == [124, 116, 104]).all()
    assert (labels[outside] == 255).all()


def test_padding_leaves_what_is_large_enough(scene):
    image, labels = apply([PadToSize((40, 32), (0.0, 0.0, 0.0), 9)], scene)
    assert np.array_equal(image, scene[0])
    assert np.array_equal(labels, scene[1])


def test_crops_of_one_size(recipe, scene):
    steps = recipe("CROP.SIZE", [48, 56])
    for seed in range(20):
        image, labels = apply(steps, scene, seed)
        assert image.shape == (48, 56, 3)
        assert labels.shape == (48, 56)


def test_labels_are_never_interpolated(recipe, scene):
    """7 and 2 have means such as 4 and 5, and 255 has means with both: none may appear."""
    steps = recipe("CROP.SIZE", [48, 56], "RESIZE_SCALE_RANGE", [0.5, 2.0])
    for seed in range(20):
        _, labels = apply(steps, scene, seed)
        assert set(np.unique(labels)) <= {2, 7, 255}
        assert labels.dtype == np.uint8


def test_image_and_labels_move_together(recipe):
    """Resizing by nothing, a crop and a flip: the image holds its labels as grey values."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 200, (32, 48), dtype=np.uint8)
    image = np.repeat(labels[..., None], 3, axis=2)
    steps = recipe(
        *("RESIZE_SCALE_RANGE", [1.0, 1.0], "PHOTOMETRIC", False, "CROP.SIZE", [16, 16]),
        *("RANDOM_FLIP", "horizontal"),
    )
    flipped = set()
    for seed in range(10):
        new_image, new_labels = apply(steps, (image, labels), seed)
        assert np.array_equal(new_image[..., 0], new_labels)
        windows = np.lib.stride_tricks.sliding_window_view(labels, (16, 16))
        kept = (windows == new_labels).all(axis=(2, 3)).any()
        mirrored = (windows == new_labels[:, ::-1]).all(axis=(2, 3)).any()
        assert kept != mirrored
        flipped.add(bool(mirrored))
    assert flipped == {True, False}


def test_crops_avoid_a_single_class(recipe):
    """Half the image is one class: a free crop is often full of it, ours is not."""
    labels = np.zeros((32, 128), dtype=np.uint8)
    labels[:, 64:] = np.arange(64) % 8 + 1
    image = np.zeros((32, 128, 3), dtype=np.uint8)
    fixed = "RESIZE_SCALE_RANGE", [1.0, 1.0], "MAX_SIZE_TRAIN", 128, "PHOTOMETRIC", False

    def shares(limit):
        steps = recipe(*fixed, "CROP.SIZE", [16, 16], "CROP.SINGLE_CATEGORY_MAX_AREA", limit)
        crops = [apply(steps, (image, labels), seed)[1] for seed in range(60)]
        return np.array([np.bincount(crop.ravel()).max() / crop.size for crop in crops])

    assert (shares(1.0) > 0.75).mean() > 0.25
    # 10 tries fail with probability 0.45^10.
    assert (shares(0.75) <= 0.75).all()


def test_ignored_pixels_do_not_count_as_a_class(recipe):
    """Otherwise an image that is mostly ignored could not be cropped where its classes are."""
    labels = np.full((32, 32), 255, dtype=np.uint8)
    labels[::4, ::4], labels[1::4, ::4] = 0, 1
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    steps = recipe("RESIZE_SCALE_RANGE", [1.0, 1.0], "CROP.SIZE", [16, 16])
    draw(0)
    T.AugmentationList(steps)(T.AugInput(image, sem_seg=labels))
    first_try = np.random.random()  # noqa: NPY002
    draw(0)
    T.AugmentationList([steps[0].resize, T.RandomCrop("absolute", [16, 16]), *steps[1:]])(
        T.AugInput(image, sem_seg=labels)
    )
    assert np.random.random() == first_try  # noqa: NPY002


def test_the_same_seed_gives_the_same_result(recipe, scene):
    steps = recipe()
    first, second, other = (apply(steps, scene, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


def test_photometric_distortion_leaves_labels_and_sizes(recipe, scene):
    fixed = "RESIZE_SCALE_RANGE", [1.0, 1.0], "RANDOM_FLIP", "none", "CROP.ENABLED", False
    fixed += ("MIN_SIZE_TRAIN", (40,))
    plain, _ = apply(recipe(*fixed, "PHOTOMETRIC", False), scene)
    assert np.array_equal(plain, scene[0])
    changed = 0
    for seed in range(10):
        image, labels = apply(recipe(*fixed), scene, seed)
        assert np.array_equal(labels, scene[1])
        assert (image.shape, image.dtype) == (scene[0].shape, np.uint8)
        changed += not np.array_equal(image, scene[0])
    assert changed >= 5


def test_photometric_distortion_knows_the_order_of_the_channels(recipe, scene):
    """Saturation and hue are of colours: the same picture comes out, in the other order."""
    fixed = "RESIZE_SCALE_RANGE", [1.0, 1.0], "RANDOM_FLIP", "none", "CROP.ENABLED", False
    fixed += ("MIN_SIZE_TRAIN", (40,))
    reverse = scene[0][..., ::-1], scene[1]
    for seed in range(10):
        rgb, _ = apply(recipe(*fixed, "FORMAT", "RGB"), scene, seed)
        bgr, _ = apply(recipe(*fixed, "FORMAT", "BGR"), reverse, seed)
        assert np.array_equal(rgb, bgr[..., ::-1])


def test_test_images_are_only_resized(recipe, scene):
    (resize,) = recipe("MIN_SIZE_TEST", 20, "MAX_SIZE_TEST", 25, is_train=False)
    # min(25 / 60, 20 / 40) = 5/12: 16.67 x 25.
    assert resize.get_transform(scene[0]).apply_image(scene[0]).shape == (17, 25, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MIN_SIZE_TRAIN", (640, 672)), r"MIN_SIZE_TRAIN must be a single size .* \(640, 672\)"),
        (("RANDOM_FLIP", "vertical"), "RANDOM_FLIP must be 'none' or 'horizontal', got 'vertical'"),
        (("CROP.TYPE", "centre"), "CROP.TYPE must be one of absolute, .*, got 'centre'"),
        (("RESIZE_SCALE_RANGE", [2.0, 1.0]), "RESIZE_SCALE_RANGE must be"),
    ],
)
def test_bad_options(recipe, options, message):
    with pytest.raises(ValueError, match=message):
        recipe(*options)
