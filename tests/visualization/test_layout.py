# SPDX-License-Identifier: Apache-2.0
"""Rows of pictures: every image is whole, captions and legends have room."""

from itertools import pairwise

import pytest

from longtail.visualization.layout import Column, side_by_side
from tests.visualization.pictures import COLORS, NAMES, positions, random_image


def test_side_by_side_shows_every_image_whole_from_left_to_right():
    images = [random_image(seed) for seed in range(3)]
    columns = [Column(f"column {i}", image, "a note") for i, image in enumerate(images)]
    picture = side_by_side(columns, list(zip(NAMES, COLORS, strict=True)))
    places = [positions(picture, image) for image in images]
    assert [len(place) for place in places] == [1, 1, 1]
    rows, lefts = zip(*(place[0] for place in places), strict=True)
    assert len(set(rows)) == 1
    assert all(a + 40 <= b for a, b in pairwise(lefts))


def test_captions_are_written_above_and_make_columns_wider():
    narrow = side_by_side([Column("a", random_image())], [])
    wide = side_by_side([Column("a name that is longer than the image", random_image())], [])
    assert wide.shape[0] == narrow.shape[0]
    assert wide.shape[1] > narrow.shape[1]
    top, _ = positions(wide, random_image())[0]
    assert (wide[:top] < 100).all(axis=2).any()


def test_a_long_legend_grows_downwards():
    image = random_image(size=(100, 300))
    legend = [(f"class number {i}", COLORS[i % 3]) for i in range(40)]
    short = side_by_side([Column("image", image)], legend[:1])
    long = side_by_side([Column("image", image)], legend)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]


def test_a_legend_entry_wider_than_the_images_fits():
    columns = [Column("image", random_image())]
    bare = side_by_side(columns, [])
    picture = side_by_side(columns, [("escalator, moving staircase, moving stairway", COLORS[0])])
    assert picture.shape[1] > bare.shape[1]
    assert (picture[:, -8:] == 255).all()  # the margin, nothing is cut


@pytest.mark.parametrize("images", [[], [random_image(), random_image(size=(24, 41))]])
def test_side_by_side_needs_images_of_one_size(images):
    with pytest.raises(ValueError, match=r"images .* of the same size"):
        side_by_side([Column("a", image) for image in images], [])
