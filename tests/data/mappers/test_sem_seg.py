# SPDX-License-Identifier: Apache-2.0
"""From files to tensors: what arrives unchanged, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from tests.data.label_maps import save_labels
from tests.tiny import tiny_config

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def record(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, 149, 255], size=(HEIGHT, WIDTH))
    save_labels(tmp_path / "labels.png", labels)
    pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }


def read(file_name):
    return np.asarray(Image.open(file_name))


def plain(is_train=True, image_format="RGB"):
    return SemSegDatasetMapper(
        is_train=is_train, augmentations=[], image_format=image_format, num_classes=150
    )


def test_tensors(record):
    before = dict(record)
    mapped = plain()(record)
    assert record == before
    assert (mapped["image"].dtype, mapped["sem_seg"].dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(mapped["image"].permute(1, 2, 0), read(record["file_name"]))
    assert np.array_equal(mapped["sem_seg"], read(record["sem_seg_file_name"]))
    assert (mapped["height"], mapped["width"]) == (HEIGHT, WIDTH)
    # The evaluator finds the ground truth by this name.
    assert mapped["file_name"] == record["file_name"]


def test_colours_in_the_order_of_the_format(record):
    rgb, bgr = (plain(image_format=order)(record)["image"] for order in ("RGB", "BGR"))
    assert torch.equal(rgb, bgr.flip(0))


@pytest.mark.parametrize("mode", ["L", "P"])
def test_label_values_in_every_file_mode(record, mode, tmp_path):
    labels = read(record["sem_seg_file_name"])
    save_labels(tmp_path / "labels.png", labels, mode=mode)
    assert np.array_equal(plain()(record)["sem_seg"], labels)


def test_grey_images_become_colour_images(record):
    Image.fromarray(read(record["file_name"])[..., 0]).save(record["file_name"])
    assert plain()(record)["image"].shape == (3, HEIGHT, WIDTH)


def test_in_testing_no_labels_are_read(record, tmp_path):
    (tmp_path / "labels.png").unlink()
    mapped = plain(is_train=False)(record)
    assert mapped.keys() == {"file_name", "image", "height", "width"}


def test_original_size_is_kept_when_a_test_image_is_resized(record, tmp_path):
    cfg = tiny_config(tmp_path, ["INPUT.MIN_SIZE_TEST", 10, "INPUT.MAX_SIZE_TEST", 100])
    mapped = SemSegDatasetMapper(cfg, is_train=False)(record)
    assert (mapped["height"], mapped["width"]) == (HEIGHT, WIDTH)
    assert mapped["image"].shape == (3, 10, 15)


def test_training_by_the_config(record, tmp_path):
    cfg = tiny_config(tmp_path, ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 150])
    mapped = SemSegDatasetMapper(cfg, is_train=True)(record)
    assert mapped["image"].shape == (3, 32, 32)
    assert mapped["sem_seg"].shape == (32, 32)
    assert set(mapped["sem_seg"].unique().tolist()) <= {0, 1, 149, 255}


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
def test_a_missing_file(record, key, tmp_path):
    record[key] = str(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere.png is missing: prepare the data set"):
        plain()(record)


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_a_truncated_file(record, key, share, tmp_path):
    path = tmp_path / record[key]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read as an image") as info:
        plain()(record)
    assert "\n" not in str(info.value)


def test_another_size(record, tmp_path):
    save_labels(tmp_path / "labels.png", np.zeros((HEIGHT, WIDTH + 1)))
    with pytest.raises(ValueError, match=r"labels\.png has size 31x20, but its image 30x20"):
        plain()(record)


def test_labels_with_colours(record, tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "labels.png")
    with pytest.raises(ValueError, match=r"labels\.png has mode RGB, but a label map has one 8"):
        plain()(record)


@pytest.mark.parametrize("value", [150, 254])
def test_a_label_out_of_range(record, tmp_path, value):
    labels = read(record["sem_seg_file_name"]).copy()
    labels[3, 4] = value
    save_labels(tmp_path / "labels.png", labels)
    with pytest.raises(ValueError, match=rf"labels.png has the label {value}, expected 0..149"):
        plain()(record)


@pytest.mark.parametrize("ignored", [0, 2, 3, 7, 255])
@pytest.mark.parametrize("value", [0, 2, 3, 6, 7, 8, 254, 255])
def test_the_range_around_any_ignored_label(record, tmp_path, ignored, value):
    """Of three classes."""
    save_labels(tmp_path / "labels.png", np.full((HEIGHT, WIDTH), value))
    options = {"image_format": "RGB", "num_classes": 3, "ignore_label": ignored}
    mapper = SemSegDatasetMapper(is_train=True, augmentations=[], **options)
    if value in (0, 1, 2, ignored):
        assert (mapper(record)["sem_seg"] == value).all()
        return
    with pytest.raises(ValueError, match=rf"the label {value}, expected 0..2 or {ignored}:"):
        mapper(record)


def test_a_record_without_labels(record):
    del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"image\.png has no sem_seg_file_name"):
        plain()(record)
