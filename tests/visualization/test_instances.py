# SPDX-License-Identifier: Apache-2.0
"""Boxes and masks: colours at places that are known."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from longtail.visualization.instances import comparison_of_objects, draw_objects, found_note
from longtail.visualization.predictions import Objects
from tests.visualization.pictures import COLORS, NAMES, positions, random_image

SIZE = (300, 400)
GREY = np.full((*SIZE, 3), 100, np.uint8)
# x0, y0, x1, y1 and the last pixel inside.
BOX = (100, 120, 200, 180)


def objects(*boxes: tuple, classes: tuple = (1,), scores: tuple | None = None) -> Objects:
    corners = np.array(boxes, float).reshape(-1, 4)
    return Objects(np.array(classes), corners, None if scores is None else np.array(scores))


def is_color(picture: np.ndarray, color: tuple) -> np.ndarray:
    return (picture == color).all(axis=2)


def test_the_edges_of_a_box_have_the_color_of_its_class():
    drawn = draw_objects(GREY, objects(BOX), NAMES, COLORS)
    assert drawn.shape == GREY.shape
    green = is_color(drawn, COLORS[1])
    # Two pixels thick, inside of the box: rows 120..179, columns 100..199.
    assert green[120:180, 100:102].all() and green[120:180, 198:200].all()
    assert green[120:122, 100:200].all() and green[178:180, 100:200].all()
    unchanged = is_color(drawn, (100, 100, 100))
    assert unchanged[122:178, 102:198].all()
    assert unchanged[180:].all() and unchanged[:, :100].all() and unchanged[:, 200:].all()


def test_every_class_has_its_color_whatever_else_is_drawn():
    boxes = [(20, 60, 60, 100), (120, 60, 160, 100), (220, 60, 260, 100)]
    for classes in ((0, 1, 2), (2, 0, 1)):
        drawn = draw_objects(GREY, objects(*boxes, classes=classes), NAMES, COLORS)
        for (x, y, *_), label in zip(boxes, classes, strict=True):
            assert tuple(drawn[y + 20, x]) == COLORS[label]


def test_a_mask_is_half_its_color():
    mask = np.zeros(SIZE, np.uint8)
    mask[130:170, 110:150] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    drawn = draw_objects(
        GREY, Objects(np.array([0]), np.array([BOX], float), None, [rle]), NAMES, COLORS
    )
    inside = np.zeros(SIZE, bool)
    inside[130:170, 110:150] = True
    # (200 + 100) / 2, (10 + 100) / 2, (20 + 100) / 2.
    np.testing.assert_array_equal(is_color(drawn, (150, 55, 60)), inside)


def test_names_are_written_above_on_the_color_or_inside_at_the_upper_border():
    drawn = draw_objects(GREY, objects(BOX), NAMES, COLORS)
    assert is_color(drawn, COLORS[1])[108:119, 101].all()
    at_border = draw_objects(GREY, objects((100, 0, 200, 60)), NAMES, COLORS)
    green = is_color(at_border, COLORS[1])
    assert green[2:10, 102:110].mean() > 0.3 and not green[20:50, 102:190].any()


def test_names_do_not_hide_each_other():
    # Two boxes of one corner: the name of the large one goes above, the other's inside.
    boxes = (100, 100, 300, 250), (100, 100, 250, 220)
    drawn = draw_objects(GREY, objects(*boxes, classes=(2, 0)), NAMES, COLORS)
    above, inside = drawn[89:99, 100:110], drawn[103:111, 103:110]
    assert is_color(above, COLORS[2]).mean() > 0.3 and not is_color(above, COLORS[0]).any()
    assert is_color(inside, COLORS[0]).mean() > 0.3


def test_small_objects_are_drawn_over_large_ones():
    boxes = (100, 100, 140, 140), (100, 100, 300, 250)
    for order in (slice(None), slice(None, None, -1)):
        drawn = draw_objects(GREY, objects(*boxes[order], classes=(0, 2)[order]), NAMES, COLORS)
        assert tuple(drawn[120, 100]) == COLORS[0] and tuple(drawn[200, 100]) == COLORS[2]


def test_boxes_that_leave_the_image_are_drawn_along_its_border():
    drawn = draw_objects(GREY, objects((-20, 100, 420, 330)), NAMES, COLORS)
    green = is_color(drawn, COLORS[1])
    assert green[110:, 0].all() and green[110:, -1].all() and green[-1].all()


def test_objects_that_are_not_strong_are_thin_boxes():
    drawn = draw_objects(GREY, objects(BOX), NAMES, COLORS, np.array([False]))
    green = is_color(drawn, COLORS[1])
    assert green[120:180, 100].all() and not green[122:178, 101].any()
    assert not green[:120].any()  # no name


def test_small_images_are_enlarged_with_their_boxes():
    image = random_image(size=(64, 100))
    drawn = draw_objects(image, objects((10, 20, 30, 40)), NAMES, COLORS)
    assert drawn.shape == (512, 800, 3)  # 512 // 64 = 8 times
    assert is_color(drawn, COLORS[1])[8 * 20 : 8 * 40, 8 * 10].all()
    assert tuple(drawn[-1, -1]) == tuple(image[-1, -1])


def test_columns_are_image_ground_truth_and_predictions():
    image = random_image(size=SIZE)
    target, found = objects(BOX), objects((0, 0, 50, 50), classes=(2,), scores=(0.8,))
    picture = comparison_of_objects(image, target, {"one": found}, NAMES, COLORS)
    parts = [image, *(draw_objects(image, each, NAMES, COLORS) for each in (target, found))]
    lefts = [positions(picture, part)[0][1] for part in parts]
    assert lefts == sorted(set(lefts))
    alone = comparison_of_objects(image, None, {"one": found}, NAMES, COLORS)
    assert len(positions(alone, parts[2])) == 1 and not positions(alone, parts[1])


def test_highlights_are_what_another_column_lacks():
    image = random_image(size=SIZE)
    other = (250, 120, 300, 180)
    both = objects(BOX, other, classes=(1, 0), scores=(0.9, 0.8))
    one = objects(BOX, scores=(0.7,))
    columns = {"both": both, "one": one}
    picture = comparison_of_objects(image, None, columns, NAMES, COLORS, highlight=True)
    expected = (both, np.array([False, True])), (one, np.array([False]))
    for drawn, strong in expected:
        part = draw_objects(image, drawn, NAMES, COLORS, strong)
        assert len(positions(picture, part)) == 1
    assert not positions(picture, draw_objects(image, both, NAMES, COLORS))


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (objects(BOX, (0, 0, 9, 9), classes=(1, 1), scores=(1, 1)), "found 1 of 2, 1 other"),
        (objects(classes=()), "found 0 of 2, 0 others"),
    ],
)
def test_the_caption_counts_what_was_found(found, note):
    target = objects(BOX, (250, 0, 300, 50), classes=(1, 1))
    assert found_note(found, target) == note
    assert found_note(target, None) == "2 objects"
    assert found_note(objects(BOX), None) == "1 object"
