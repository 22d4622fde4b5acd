# SPDX-License-Identifier: Apache-2.0
"""Text lists of images: lines by hand, and there and back."""

import pytest

from longtail.data.formats.image_list import image_list_text, read_image_list


def test_lines(tmp_path):
    """The label is what follows the last space; a path may have spaces."""
    (tmp_path / "list.txt").write_text("train/a b.jpg 3\nc.jpg\t12\n\n")
    found = read_image_list(tmp_path / "list.txt")
    assert (found.files, found.labels) == (["train/a b.jpg", "c.jpg"], [3, 12])
    assert found.class_names is None
    assert image_list_text(["a b.jpg", "c.jpg"], [3, 12]) == "a b.jpg 3\nc.jpg 12\n"
    with pytest.raises(ValueError, match="zip"):
        image_list_text(["a.jpg"], [1, 2])


@pytest.mark.parametrize(
    ("text", "number", "line"),
    [("a.jpg 0\nb.jpg\n", 2, "b.jpg"), ("a.jpg 0.5", 1, "a.jpg 0.5"), ("\na.jpg 0", 1, "")],
)
def test_a_line_that_is_not_a_path_and_a_number(tmp_path, text, number, line):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=f"^line {number}: .*{line!r}$"):
        read_image_list(tmp_path / "list.txt")


def test_text_and_back(tmp_path):
    files, labels = ["a/b c.jpg", "ü.png"], [10, 0]
    (tmp_path / "list.txt").write_text(image_list_text(files, labels), encoding="utf-8")
    found = read_image_list(tmp_path / "list.txt")
    assert (found.files, found.labels, found.class_names) == (files, labels, None)
