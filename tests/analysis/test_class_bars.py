# SPDX-License-Identifier: Apache-2.0
"""Bars of classes: the most frequent first, every method's beside the others'."""

import numpy as np
import pytest

from longtail.analysis.class_bars import draw_class_bars
from longtail.visualization.figures import new_figure


def test_bars_have_the_values_of_their_class_and_method():
    figure, ((axes,),) = new_figure(1, 1, 4, 3)
    values = {"plain": [10.0, 20.0, np.nan], "method": [11.0, 22.0, 33.0]}
    draw_class_bars(
        axes, ["a", "b", "c"], [5, 500, 50], values, unit="training images", title="accuracy"
    )
    assert [text.get_text() for text in axes.get_xticklabels()] == ["b", "c", "a"]
    # Left of the class's place, and right of it.
    found = {
        bars.get_label(): [
            (round(bar.get_x() + bar.get_width() / 2, 3), bar.get_height()) for bar in bars
        ]
        for bars in axes.containers
    }
    places = {name: [place for place, _ in pairs] for name, pairs in found.items()}
    assert places == {"plain": [-0.205, 0.795, 1.795], "method": [0.205, 1.205, 2.205]}
    heights = {name: [height for _, height in pairs] for name, pairs in found.items()}
    np.testing.assert_array_equal(heights["plain"], [20, np.nan, 10])
    assert heights["method"] == [22, 33, 11]
    # The frequency in grey has an axis of its own.
    assert [other.get_ylabel() for other in figure.axes] == ["percent", "training images"]


def test_values_of_other_classes_are_refused():
    _, ((axes,),) = new_figure(1, 1, 4, 3)
    with pytest.raises(ValueError, match="plain has 1 values, expected 2"):
        draw_class_bars(axes, ["a", "b"], [1, 2], {"plain": [1.0]}, unit="images", title="")
