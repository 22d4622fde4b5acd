# SPDX-License-Identifier: Apache-2.0
"""Bars: as long as the score, in the colour of the class."""

import numpy as np
import pytest

from longtail.visualization.predictions import Ranking
from longtail.visualization.rankings import comparison_of_rankings, draw_bars, rank_note
from tests.visualization.pictures import COLORS, NAMES, positions, random_image

SIZE = (256, 316)
# Without the margins of 8 pixels.
FULL = 300


def bar_lengths(picture: np.ndarray, color: tuple) -> set[int]:
    lengths = (picture == color).all(axis=2).sum(axis=1)
    return set(lengths[lengths > 0].tolist())


@pytest.mark.parametrize("score", [1.0, 0.5, 0.1, 1 / FULL])
def test_a_bar_is_as_long_as_the_score(score):
    drawn = draw_bars(Ranking([2], [score]), SIZE, NAMES, COLORS)
    assert drawn.shape == (*SIZE, 3)
    assert bar_lengths(drawn, COLORS[2]) == {round(FULL * score)}
    assert tuple(drawn[(drawn == COLORS[2]).all(axis=2).any(axis=1)][0, 8]) == COLORS[2]


def test_a_score_of_0_has_no_bar():
    assert bar_lengths(draw_bars(Ranking([2], [0.0]), SIZE, NAMES, COLORS), COLORS[2]) == set()


def test_the_best_class_is_on_top_and_classes_keep_their_colors():
    drawn = draw_bars(Ranking([2, 0, 1], [0.5, 0.3, 0.2]), SIZE, NAMES, COLORS)
    tops = {
        label: np.flatnonzero((drawn == COLORS[label]).all(axis=2).any(axis=1))[0]
        for label in range(3)
    }
    assert tops[2] < tops[0] < tops[1]
    assert [bar_lengths(drawn, COLORS[k]) for k in (2, 0, 1)] == [{150}, {90}, {60}]


def test_the_name_of_the_right_class_has_a_frame():
    ranking = Ranking([2, 0], [0.6, 0.4])
    plain, right = (draw_bars(ranking, SIZE, NAMES, COLORS, label) for label in (None, 0))
    changed = np.flatnonzero((plain != right).any(axis=(1, 2)))
    rows = SIZE[0] // 5
    assert len(changed) and rows <= changed[0] and changed[-1] < 2 * rows


def test_long_names_are_shortened():
    names = ["escalator, moving staircase, moving stairway, and so on, and so forth"]
    drawn = draw_bars(Ranking([0], [0.5]), SIZE, names, COLORS)
    ink = (drawn < 60).all(axis=2)
    assert not ink[:, -8:].any()


def test_columns_are_the_image_and_the_bars():
    image = random_image(size=(300, 400))
    one, two = Ranking([0, 1], [0.9, 0.1]), Ranking([1, 0], [0.6, 0.4])
    picture = comparison_of_rankings(image, 0, {"one": one, "two": two}, NAMES, COLORS)
    parts = [image, *(draw_bars(r, (300, 400), NAMES, COLORS, 0) for r in (one, two))]
    lefts = [positions(picture, part)[0][1] for part in parts]
    assert lefts == sorted(set(lefts))


def test_highlights_are_where_the_best_classes_differ():
    image = random_image(size=(300, 400))
    one, two = Ranking([0, 1], [0.9, 0.1]), Ranking([1, 0], [0.6, 0.4])
    for columns, expected in (({"a": one, "b": two}, True), ({"a": one, "b": one}, False)):
        plain, bright = (
            comparison_of_rankings(image, 0, columns, NAMES, COLORS, highlight=highlight)
            for highlight in (False, True)
        )
        assert (plain != bright).any() == expected


def test_small_images_are_enlarged_and_get_margins():
    picture = comparison_of_rankings(random_image(size=(32, 16)), None, {}, NAMES, COLORS)
    # 16 pixels become 256.
    assert picture.shape[0] > 512 and picture.shape[1] == 256 + 16


def test_captions():
    ranking = Ranking([2, 0], [0.6, 0.4])
    notes = [rank_note(ranking, label, 3) for label in (2, 0, 1, None)]
    assert notes == ["right", "wrong, place 2 of 3", "wrong, not in the best 2 of 3", ""]
