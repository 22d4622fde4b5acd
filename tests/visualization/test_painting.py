# SPDX-License-Identifier: Apache-2.0
"""Painted label maps against plain loops."""

from types import SimpleNamespace

import numpy as np
import pytest

from longtail.visualization.painting import colorize, fade, paint, thing_colors
from tests.visualization.pictures import COLORS, IGNORED, random_image, random_labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_colorize_takes_each_pixels_class_and_leaves_ignored_ones_black(dtype):
    labels = random_labels().astype(dtype)
    painted = colorize(labels, COLORS)
    assert painted.dtype == np.uint8
    for y, x in np.ndindex(labels.shape):
        expected = (0, 0, 0) if labels[y, x] == IGNORED else COLORS[labels[y, x]]
        assert tuple(painted[y, x]) == expected


def test_colorize_knows_other_ignore_labels():
    painted = colorize(np.array([[-1, 2]]), COLORS, ignore_label=-1)
    assert painted.tolist() == [[[0, 0, 0], list(COLORS[2])]]


@pytest.mark.parametrize("value", [3, -1, 254])
def test_colorize_names_a_label_out_of_range(value):
    with pytest.raises(ValueError, match=rf"value {value}, expected 0\.\.2 or 255"):
        colorize(np.array([[0, value]]), COLORS)


def test_paint_is_three_quarters_colour_and_one_quarter_grey_image():
    image, labels = random_image(), random_labels()
    painted = paint(image, labels, COLORS)
    for y, x in np.ndindex(labels.shape):
        grey = sum(float(v) for v in image[y, x]) / 3
        expected = np.zeros(3)
        if labels[y, x] != IGNORED:
            expected = 0.75 * np.array(COLORS[labels[y, x]]) + 0.25 * grey
        # Rounding to whole numbers moves a value by at most 1/2.
        np.testing.assert_allclose(painted[y, x], expected, rtol=0, atol=0.5 + 1e-9)


def test_paint_refuses_labels_of_another_size():
    with pytest.raises(ValueError, match="size 39x24, but its image 40x24"):
        paint(random_image(), random_labels(size=(24, 39)), COLORS)


def test_fade_leaves_the_region_and_makes_the_rest_three_quarters_white():
    image = random_image()
    region = np.zeros(image.shape[:2], bool)
    region[3:9, 5:20] = True
    faded = fade(image, region)
    np.testing.assert_array_equal(faded[region], image[region])
    expected = 0.75 * 255 + 0.25 * image[~region].astype(float)
    np.testing.assert_allclose(faded[~region], expected, rtol=0, atol=0.5 + 1e-9)


def test_bright_colors_are_different_and_can_be_seen():
    metadata = SimpleNamespace(thing_classes=["x"] * 100, get=lambda key, default: default)
    colors = thing_colors(metadata)
    assert len({tuple(color) for color in colors}) == 100
    assert min(max(color) for color in colors) > 180
    # A class keeps its colour whatever the number of classes.
    metadata.thing_classes = ["x"] * 7
    assert thing_colors(metadata) == colors[:7]
