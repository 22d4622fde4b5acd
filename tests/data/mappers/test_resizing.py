# SPDX-License-Identifier: Apache-2.0
"""Windows of resized images, against detectron2's resizing, cropping and colours, one by one."""

import random

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

from longtail.data.mappers.augmentation import (
    PhotometricDistortion,
    RandomScaleResize,
    build_sem_seg_augmentation,
)
from longtail.data.mappers.pixels import build_pixel_mapper
from longtail.data.mappers.resizing import ResizedCrop, ResizedWindow, ShortestEdgeResize
from longtail.engine.inference.tta import SemanticSegmentorWithTTA
from tests.tiny import tiny_config

SIZES = [(97, 131), (64, 64), (300, 50)]


def draw(seed):
    np.random.seed(seed)  # noqa: NPY002  (what detectron2's augmentations draw from)
    random.seed(seed)


def drawn_scene(size, seed):
    """Smooth colours, labels in stripes with ignored rows."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    labels = np.add.outer(np.arange(size[0]) // 20, np.arange(size[1]) // 25).astype(np.uint8)
    labels[: size[0] // 8] = 255
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), labels


def after(steps, image, labels):
    inputs = T.AugInput(image.copy(), sem_seg=labels.copy())
    T.AugmentationList(steps)(inputs)
    return inputs.image, inputs.sem_seg


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_area", [0.4, 1.0])
@pytest.mark.parametrize("crop", [("absolute", (40, 48)), ("relative_range", (0.3, 0.5))])
def test_windows_are_crops_of_detectron2s_resized_images(size, max_area, crop):
    """The same numbers are drawn, labels are equal, and colours but for rounding.

    Two passes, down and across, round once each. Small images have many values between two levels.
    """
    low, high, shares = 0.5, 2.0, []
    for seed in range(12):
        image, labels = drawn_scene(size, seed)
        draw(seed)
        scale = np.random.uniform(low, high)  # noqa: NPY002
        theirs = [
            T.ResizeShortestEdge(int(60 * scale), int(200 * scale)),
            T.RandomCrop_CategoryAreaConstraint(*crop, max_area, 255),
        ]
        expected_image, expected_labels = after(theirs, image, labels)
        next_number = np.random.random()  # noqa: NPY002
        draw(seed)
        resize = RandomScaleResize(60, 200, (low, high), "pillow")
        found = ResizedCrop(resize, T.RandomCrop(*crop), max_area, 255)
        found_image, found_labels = after([found], image, labels)
        assert np.random.random() == next_number  # noqa: NPY002
        np.testing.assert_array_equal(found_labels, expected_labels)
        away = np.abs(found_image.astype(int) - expected_image)
        assert away.max() <= 2
        shares.append((away > 0).mean())
    assert np.mean(shares) < 0.1


@pytest.mark.parametrize("new", [(40, 55), (97, 131), (150, 201)])
def test_opencv_takes_the_four_nearest_pixels(new):
    """Bilinear at (i + 0.5) H / h - 0.5, in float64: OpenCV rounds weights to 11 bits."""
    image, _ = drawn_scene((97, 131), 0)
    result = image.astype(float)
    for axis in (0, 1):
        at = (np.arange(new[axis]) + 0.5) * image.shape[axis] / new[axis] - 0.5
        at = at.clip(0, image.shape[axis] - 1)
        first = np.floor(at).astype(int)
        second = (first + 1).clip(max=image.shape[axis] - 1)
        part = (at - first).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        result = (1 - part) * result.take(first, axis) + part * result.take(second, axis)
    window = ResizedWindow((97, 131), new, (3, 5, 20, 30), "opencv").apply_image(image)
    np.testing.assert_allclose(window, result[3:23, 5:35], atol=1.0)


@pytest.mark.parametrize("kind", ["opencv", "pillow"])
def test_what_keeps_its_size_keeps_its_values(kind):
    image, labels = drawn_scene((97, 131), 0)
    window = ResizedWindow((97, 131), (97, 131), (3, 5, 20, 30), kind)
    np.testing.assert_array_equal(window.apply_image(image), image[3:23, 5:35])
    np.testing.assert_array_equal(window.apply_segmentation(labels), labels[3:23, 5:35])


def test_points_move_with_the_image():
    """Half the height, a third of the width, and the corner of the window is at (10, 20)."""
    window = ResizedWindow((100, 300), (50, 100), (20, 10, 30, 40), "pillow")
    points = window.apply_coords(np.array([[60.0, 50.0], [30.0, 40.0]]))
    np.testing.assert_allclose(points, [[10.0, 5.0], [0.0, 0.0]])


def test_filters_in_testing(tmp_path):
    """Pillow's is detectron2's; both of the size that detectron2 gives, none where it is 0."""
    image, _ = drawn_scene((97, 131), 0)
    expected = T.ResizeShortestEdge(40, 100).get_transform(image).apply_image(image)
    keys = ["INPUT.MIN_SIZE_TEST", 40, "INPUT.MAX_SIZE_TEST", 100, "INPUT.RESIZE_FILTER"]
    for kind in ("pillow", "opencv"):
        (step,) = build_sem_seg_augmentation(tiny_config(tmp_path, [*keys, kind]), False)
        found = step.get_transform(image).apply_image(image)
        assert found.shape == expected.shape
        assert np.array_equal(found, expected) == (kind == "pillow")
    assert isinstance(ShortestEdgeResize(0, 100).get_transform(image), NoOpTransform)
    with pytest.raises(ValueError, match=r"RESIZE_FILTER must be one of .*'pillow'.*, got 'pil'"):
        build_sem_seg_augmentation(tiny_config(tmp_path, [*keys, "pil"]), False)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_colours_are_detectron2s(order):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    changed = 0
    for seed in range(30):
        draw(seed)
        expected = ColorAugSSDTransform(order).apply_image(image.copy())
        draw(seed)
        found = PhotometricDistortion(order).apply_image(image.copy())
        np.testing.assert_array_equal(found, expected)
        changed += not np.array_equal(found, image)
    assert changed > 20


@pytest.mark.parametrize("kind", ["opencv", "pillow"])
def test_the_filter_is_that_of_all_predictions(tmp_path, kind):
    """Of single images, of multi-scale testing; a detector's is always detectron2's."""
    image, _ = drawn_scene((97, 131), 0)
    Image.fromarray(image).save(tmp_path / "image.png")
    keys = ["INPUT.MIN_SIZE_TEST", 40, "INPUT.MAX_SIZE_TEST", 100, "INPUT.FORMAT", "RGB"]
    cfg = tiny_config(tmp_path, [*keys, "INPUT.RESIZE_FILTER", kind, "TEST.AUG.SCALES", [1.0]])
    expected = {
        "opencv": cv2.resize(image, (54, 40), interpolation=cv2.INTER_LINEAR),
        "pillow": np.asarray(Image.fromarray(image).resize((54, 40), Image.Resampling.BILINEAR)),
    }
    assert not np.array_equal(expected["opencv"], expected["pillow"])
    found = build_pixel_mapper(cfg, "sem_seg")(image, "image")["image"]
    np.testing.assert_array_equal(found.permute(1, 2, 0), expected[kind])
    found = build_pixel_mapper(cfg, "objects")(image, "image")["image"]
    np.testing.assert_array_equal(found.permute(1, 2, 0), expected["pillow"])

    class Seen(torch.nn.Module):
        def forward(self, inputs):
            np.testing.assert_array_equal(inputs[0]["image"].permute(1, 2, 0), expected[kind])
            return [{"sem_seg": torch.zeros(3, 97, 131)}]

    cfg.TEST.AUG.FLIP = False
    SemanticSegmentorWithTTA(cfg, Seen())([{"file_name": str(tmp_path / "image.png")}])
