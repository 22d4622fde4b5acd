# SPDX-License-Identifier: Apache-2.0
"""Names of pictures, and the contact sheet."""

import numpy as np
import pytest
from PIL import Image

from longtail.visualization.writing import contact_sheet, picture_names, write_pictures
from tests.visualization.pictures import positions, random_image


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/d/a.png", "/d/b.jpg"], ["a", "b"]),
        (["/d/x/0.png", "/d/y/0.png"], ["x_0", "y_0"]),
        (["/d/x/0.png", "/d/y/1.png"], ["0", "1"]),
        (["/d/a.png", "/d/a.jpg"], ["d_a.png", "d_a.jpg"]),
        (["/d/contact_sheet.png"], ["d_contact_sheet.png"]),
    ],
)
def test_pictures_are_named_as_their_images(files, names):
    assert picture_names(files) == names


def test_the_sheet_has_every_picture_in_the_order_of_reading():
    pictures = [random_image(seed, (40, 60)) for seed in range(4)]
    sheet = contact_sheet([(str(i), Image.fromarray(p)) for i, p in enumerate(pictures)])
    places = [positions(sheet, picture) for picture in pictures]
    assert [len(place) for place in places] == [1, 1, 1, 1]
    places = [place[0] for place in places]
    # Four of 2:3 in two rows.
    assert places == sorted(places)
    assert len({y for y, _ in places}) == len({x for _, x in places}) == 2


def test_large_pictures_are_scaled_to_one_width():
    white = Image.new("RGB", (4000, 1000), (255, 255, 255))
    red = Image.new("RGB", (5000, 1000), (250, 0, 0))
    sheet = contact_sheet([("white", white), ("red", red)])
    assert sheet.shape[1] == 1800
    rows, columns = np.nonzero((sheet == (250, 0, 0)).all(axis=2))
    # 1780 pixels wide, and a fifth of that high.
    assert np.ptp(columns) + 1 == 1780 and np.ptp(rows) + 1 == 356


def test_files(tmp_path, capsys):
    pictures = [("a", random_image(1)), ("b", random_image(2))]
    write_pictures(str(tmp_path / "out"), iter(pictures))
    printed = [str(tmp_path / "out" / f"{name}.png") for name in ("a", "b", "contact_sheet")]
    assert capsys.readouterr().out.split() == printed
    for (_, picture), path in zip(pictures, printed, strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    write_pictures(str(tmp_path / "one"), pictures[:1])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["a.png"]
