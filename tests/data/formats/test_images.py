# SPDX-License-Identifier: Apache-2.0
"""Images and label maps: pixels that are written down here come back."""

import numpy as np
import pytest
from PIL import Image

from longtail.data.formats.images import opened_label_map, read_image, read_label_map
from tests.data.label_maps import save_labels

PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [6, 5, 4], [3, 2, 1]]])


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PIXELS.astype(np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_channels_in_the_order_of_the_format(path):
    rgb, bgr = read_image(path, "RGB"), read_image(path, "BGR")
    assert rgb.dtype == bgr.dtype == np.uint8
    assert rgb.tolist() == PIXELS.tolist()
    assert bgr[1].tolist() == [[7, 8, 9], [4, 5, 6], [1, 2, 3]]


def test_an_image_is_turned_as_its_exif_data_say(tmp_path):
    """Orientation 6: the camera was turned, rows are columns from the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS.astype(np.uint8)).save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png", "RGB")
    assert turned.tolist() == np.rot90(PIXELS, -1).tolist()


@pytest.mark.parametrize("mode", ["L", "P"])
def test_label_maps_are_indices(tmp_path, mode):
    labels = np.array([[0, 7, 255], [1, 2, 3]])
    save_labels(tmp_path / "labels.png", labels, mode)
    found = read_label_map(tmp_path / "labels.png")
    assert found.dtype == np.uint8 and found.tolist() == labels.tolist()
    found[0, 0] = 5  # writable
    with opened_label_map(tmp_path / "labels.png") as image:
        assert image.size == (3, 2)


def test_label_maps_have_one_channel(path):
    with pytest.raises(ValueError, match=r"image\.png has mode RGB"):
        read_label_map(path)


@pytest.mark.parametrize("read", [read_label_map, lambda path: read_image(path, "RGB")])
def test_damaged_and_missing_files(path, read):
    save_labels(path, np.zeros((20, 30)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"image\.png cannot be read as an image") as error:
        read(path)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"image\.png is missing"):
        read(path)
