# SPDX-License-Identifier: Apache-2.0
"""The frame of all figures."""

import numpy as np
import pytest
from PIL import Image

from longtail.visualization.figures import (
    new_figure,
    plain_numbers,
    running_mean,
    save_figure,
    short_name,
    smoothing_window,
    sorted_class_axis,
)


def test_classes_are_sorted_and_their_frequency_is_behind():
    figure, [[ax]] = new_figure(1, 1, 4, 3)
    order, frequency = sorted_class_axis(ax, ["a", "b$", "c"], [5, 0, 7], "training pixels")
    assert order.tolist() == [2, 0, 1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["c", "a", r"b\$"]
    [bars] = frequency.collections
    corners = [path.vertices for path in bars.get_paths()]
    # From below the shortest one, which is 5, over the whole width of a class.
    np.testing.assert_allclose(corners[0][:4], [[-0.5, 2.5], [-0.5, 7], [0.5, 7], [0.5, 2.5]])
    assert corners[1][:4, 1].max() == 5 and np.isnan(corners[2][1:3, 1]).all()
    assert frequency.get_ylim()[0] == 2.5 and frequency.get_ylim()[1] > 7
    assert frequency.get_yscale() == "log" and ax.get_zorder() > frequency.get_zorder()
    figure.draw_without_rendering()


def test_many_classes_have_no_names():
    _, [[ax]] = new_figure(1, 1, 4, 3)
    sorted_class_axis(ax, [f"class {i}" for i in range(41)], np.arange(41), "training images")
    assert not any("class" in label.get_text() for label in ax.get_xticklabels())
    assert ax.get_xlabel() == "classes, sorted by training images"


def test_numbers_have_no_offset():
    figure, [[ax]] = new_figure(1, 1, 4, 3)
    ax.plot([1.0, 1.0002])
    plain_numbers(ax)
    figure.draw_without_rendering()
    assert ax.yaxis.get_offset_text().get_text() == ""
    assert "1.000100" in [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_files_are_whole_and_the_same_again(tmp_path, name):
    contents = []
    for folder in ("one", "two"):
        figure, [[ax]] = new_figure(1, 1, 4, 3)
        ax.set_title("a title")
        save_figure(figure, tmp_path / folder / name)
        contents.append((tmp_path / folder / name).read_bytes())
    assert contents[0] == contents[1]
    if name.endswith("png"):
        assert Image.open(tmp_path / "one" / name).size == (440, 330)
    else:
        assert b">a title<" in contents[0]


def test_running_mean():
    np.testing.assert_allclose(running_mean([1, 2, 6, np.nan], 3), [1.5, 3, 4, 6])
    np.testing.assert_allclose(running_mean([1, 2, 6], 1), [1, 2, 6])
    # A window that is longer than the values.
    np.testing.assert_allclose(running_mean([1, 2, 6], 9), [3, 3, 3])
    assert np.isnan(running_mean([np.nan, np.nan], 3)).all()
    assert [smoothing_window(k) for k in (10, 40, 150, 1000)] == [1, 1, 7, 51]


def test_short_names():
    assert short_name("road") == "road"
    assert short_name("chest of drawers, chest, bureau") == "chest of drawers,…"
