# SPDX-License-Identifier: Apache-2.0
"""Painted label maps against plain loops."""

import numpy as np
import pytest

from longtail.visualization.painting import colorize, paint
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
