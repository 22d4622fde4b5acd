# SPDX-License-Identifier: Apache-2.0
"""EXIF orientation: one rule for reading, training, preparing and pictures of both."""

import logging

import pytest
from PIL import Image

from longtail.data.formats.headers import read_header
from longtail.data.formats.images import read_image, read_label_map, read_pair
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from longtail.data.prepare import prepare_dataset
from tests.data.pngs import orientation_chunk, png

STORED = [[1, 2, 3], [4, 5, 6]]
# The meaning of the tag, as the standard words it: where the stored first row and first column are.
SHOWN = {
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[4, 1], [5, 2], [6, 3]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[3, 6], [2, 5], [1, 4]],  # left, bottom
}
each_orientation = pytest.mark.parametrize("orientation", SHOWN)


@each_orientation
@pytest.mark.parametrize("where", ["before", "after"])
def test_images_and_label_maps_are_turned_as_they_say(tmp_path, orientation, where):
    path = tmp_path / "a.png"
    path.write_bytes(png(STORED, **{where: orientation_chunk(orientation)}))
    assert read_image(path, "RGB")[..., 1].tolist() == SHOWN[orientation]
    assert read_label_map(path).tolist() == SHOWN[orientation]
    header = read_header(path)
    assert (header.orientation, header.stored) == (orientation, (2, 3))
    assert header.size == (len(SHOWN[orientation]), len(SHOWN[orientation][0]))


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_no_such_orientation(tmp_path, orientation):
    (tmp_path / "a.png").write_bytes(png(STORED, before=orientation_chunk(orientation)))
    assert read_label_map(tmp_path / "a.png").tolist() == STORED


def test_damaged_exif_data_turn_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(tmp_path / "a.jpg", exif=exif)
    content, data = (tmp_path / "a.jpg").read_bytes(), exif.tobytes()
    assert data in content and read_image(tmp_path / "a.jpg", "RGB").shape == (3, 2, 3)
    # The byte order, which the rest hangs on.
    (tmp_path / "a.jpg").write_bytes(content.replace(data, data.replace(b"MM", b"XX")))
    assert read_image(tmp_path / "a.jpg", "RGB").shape == (2, 3, 3)


def write_pair(root, orientation, labels, label_chunk=b""):
    """CamVid with one image in training; SHOWN and STORED are valid labels of it."""
    image, label = root / "camvid/train/0.png", root / "camvid/trainannot/0.png"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(png(STORED, before=orientation_chunk(orientation)))
    label.write_bytes(png(labels, before=label_chunk))
    return image, label


def trained(image, label):
    mapper = SemSegDatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", num_classes=11
    )
    mapped = mapper({"file_name": str(image), "sem_seg_file_name": str(label)})
    return mapped["image"][0].tolist(), mapped["sem_seg"].tolist()


@each_orientation
@pytest.mark.parametrize("own", [False, True])
def test_what_is_prepared_can_be_trained_on(tmp_path, orientation, own):
    """Labels of the image as it is shown, or that are turned likewise."""
    labels, extra = (STORED, orientation_chunk(orientation)) if own else (SHOWN[orientation], b"")
    image, label = write_pair(tmp_path, orientation, labels, extra)
    assert trained(image, label) == (SHOWN[orientation], SHOWN[orientation])
    report = prepare_dataset("camvid", str(tmp_path), splits=["train"])
    assert report.problems == []
    prepared = tmp_path / "camvid/trainannot_detectron2/0.png"
    assert trained(image, prepared) == (SHOWN[orientation], SHOWN[orientation])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_image_are_refused_alike(tmp_path, orientation):
    image, label = write_pair(tmp_path, orientation, STORED)
    with pytest.raises(ValueError) as error:
        trained(image, label)
    (problem,) = prepare_dataset("camvid", str(tmp_path), splits=["train"]).problems
    assert str(error.value) == problem
    assert problem == (
        f"{label} has size 3x2, but its image 2x3, as its EXIF orientation {orientation} turns it "
        f"({image}): turn the label map likewise, or remove the orientation from the image"
    )


def test_other_sizes_name_both_files(tmp_path):
    image, label = write_pair(tmp_path, 6, [[1, 2, 3, 4]])
    with pytest.raises(ValueError) as error:
        read_pair(image, label, "RGB", "do this")
    assert str(error.value) == f"{label} has size 4x1, but its image 2x3 ({image}): do this"


@pytest.mark.parametrize("orientation", SHOWN)
def test_a_turn_that_the_size_does_not_show_is_said_once(tmp_path, caplog, orientation):
    image, label = write_pair(tmp_path, orientation, SHOWN[orientation])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read_pair(image, label, "RGB", "")
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == (orientation in (2, 3, 4))
    assert all(str(image) in line and "EXIF" in line for line in found)
