# SPDX-License-Identifier: Apache-2.0
"""Comparisons of label maps: scores by hand, the order of the columns and of the legend."""

import numpy as np
import pytest

from longtail.visualization.comparison import comparison, score_note
from longtail.visualization.painting import fade, paint
from tests.visualization.pictures import (
    COLORS,
    IGNORED,
    NAMES,
    positions,
    random_image,
    random_labels,
)


def test_score_note_by_hand():
    # 3 labelled pixels, 2 right. wall: 1 of (2 + 0), tree: 1 of (1 + 1): both IoU 1/2.
    target = np.array([[0, 0, 1, IGNORED]], np.uint8)
    prediction = np.array([[0, 1, 1, 2]], np.uint8)
    assert score_note(prediction, target, 3) == "acc 66.7 %, mIoU 50.0 %"


def test_score_note_counts_an_ignored_prediction_as_wrong():
    # wall: 1 right of 2; tree: 1 of 1. The pixel without a prediction is no false tree.
    target = np.array([[0, 0, 1]], np.uint8)
    prediction = np.array([[0, IGNORED, 1]], np.uint8)
    assert score_note(prediction, target, 3) == "acc 66.7 %, mIoU 75.0 %"


def test_score_note_without_labelled_pixels():
    target = np.full((2, 2), IGNORED, np.uint8)
    assert score_note(np.zeros((2, 2), np.uint8), target, 3) == "no labelled pixel"


def swatches_from_left(picture: np.ndarray, colors: list[tuple[int, int, int]]) -> list:
    """The colours that occur in the last quarter of the rows, in the order of their columns."""
    legend = picture[-picture.shape[0] // 4 :]
    first = {c: np.flatnonzero((legend == c).all(axis=2).any(axis=0)) for c in colors}
    return sorted((c for c in colors if len(first[c])), key=lambda c: first[c][0])


def test_comparison_has_image_ground_truth_and_predictions_in_this_order():
    image, target = random_image(), random_labels(1)
    predictions = {"one": random_labels(2), "two": random_labels(3)}
    picture = comparison(image, target, predictions, NAMES, COLORS)
    parts = [image] + [paint(image, m, COLORS) for m in (target, *predictions.values())]
    lefts = [positions(picture, part)[0][1] for part in parts]
    assert lefts == sorted(set(lefts))


def test_comparison_without_ground_truth():
    image, target, prediction = random_image(), random_labels(1), random_labels(2)
    picture = comparison(image, None, {"one": prediction}, NAMES, COLORS)
    assert len(positions(picture, paint(image, prediction, COLORS))) == 1
    assert not positions(picture, paint(image, target, COLORS))


def test_legend_lists_the_classes_present_by_area_and_ignored_pixels_last():
    image = random_image(size=(80, 400))
    labels = np.full((80, 400), IGNORED, np.uint8)
    labels[0, :10], labels[1, :20] = 0, 2
    picture = comparison(image, labels, {}, NAMES, COLORS)
    shown = swatches_from_left(picture, COLORS)
    assert shown == [COLORS[2], COLORS[0]]
    labels[0, :30] = 0
    picture = comparison(image, labels, {}, NAMES, COLORS)
    assert swatches_from_left(picture, COLORS) == [COLORS[0], COLORS[2]]
    black = (0, 0, 0)
    assert swatches_from_left(picture, [*COLORS, black])[-1] == black


def test_comparison_names_the_column_that_is_wrong():
    image, target = random_image(), random_labels()
    with pytest.raises(ValueError, match=r"^mine: .*value 7"):
        comparison(image, target, {"mine": np.full((24, 40), 7)}, NAMES, COLORS)
    with pytest.raises(ValueError, match=r"^ground truth: .*size 4x4"):
        comparison(image, np.zeros((4, 4), np.uint8), {}, NAMES, COLORS)
    with pytest.raises(ValueError, match="needs a target or one or more predictions"):
        comparison(image, None, {}, NAMES, COLORS)


def test_highlights_are_exactly_the_pixels_that_differ():
    image, target = random_image(), random_labels(1)
    one = np.zeros((24, 40), np.uint8)
    two = one.copy()
    two[5:9, 3:11] = 1
    region = two == 1
    region &= target != IGNORED
    picture = comparison(image, target, {"1": one, "2": two}, NAMES, COLORS, highlight=True)
    for labels in (one, two):
        assert len(positions(picture, fade(paint(image, labels, COLORS), region))) == 1
    # Image and ground truth stay as they are.
    assert len(positions(picture, image)) == len(positions(picture, paint(image, target, COLORS)))
