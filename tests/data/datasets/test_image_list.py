# SPDX-License-Identifier: Apache-2.0
"""Image classification data sets: registration, what is wrong with a list, and class counts."""

import os
import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets import files as files_module
from longtail.data.datasets import register_image_list
from longtail.data.statistics.class_stats import (
    compute_class_stats,
    get_class_stats,
    locate_class_stats,
)
from tests.data.image_lists import make_images, write_list

CLASSIFICATION_SETS = {
    **{f"imagenet_lt_{split}": "imagenet_lt_train" for split in ("train", "val", "test")},
    "imagenet_full_train": "imagenet_lt_train",
    **{f"places_lt_{split}": "places_lt_train" for split in ("train", "val", "test")},
    **{f"inaturalist2018_{split}": "inaturalist2018_train" for split in ("train", "val")},
    **{
        f"{name}_lt_{split}": f"{name}_lt_train"
        for name in ("digits", "synthetic")
        for split in ("train", "val", "test", "balanced")
    },
}
TRAIN = [("train/cat/1.jpg", 1), ("train/ant/2.jpg", 0), ("train/cat/3 b.jpg", 1)]


@pytest.fixture
def register():
    """:func:`register_image_list`, for the duration of one test."""
    names = set()

    def add(name, *args, **kwargs):
        register_image_list(name, *args, **kwargs)
        names.add(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def train(register, tmp_path):
    """A training set with images."""
    make_images(tmp_path / "images", [file for file, _ in TRAIN])
    write_list(tmp_path / "train.txt", TRAIN)
    return register("toy_train", tmp_path / "train.txt", tmp_path / "images", every_class=True)


@pytest.mark.parametrize(("name", "training_set"), CLASSIFICATION_SETS.items())
def test_registration_needs_no_data_and_using_it_says_how_to_get_it(root, name, training_set):
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "classification"
    assert metadata.training_set == training_set
    for use in (metadata.load_labels, lambda: DatasetCatalog.get(name)):
        with pytest.raises(FileNotFoundError) as raised:
            use()
        assert str(raised.value).startswith(f"{name}: the list {root}/")
        assert "is missing" in str(raised.value) and "longtail " in str(raised.value)


def test_records_are_those_of_the_list(train, tmp_path):
    assert MetadataCatalog.get(train).get("thing_classes") is None
    assert DatasetCatalog.get(train) == [
        {"file_name": str(tmp_path / "images" / file), "image_id": index, "label": label}
        for index, (file, label) in enumerate(TRAIN)
    ]
    # The folders below the one that all share, in the order of the labels.
    assert MetadataCatalog.get(train).thing_classes == ["ant", "cat"]
    assert MetadataCatalog.get(train).training_set == train


def test_labels_need_no_images_and_can_be_sent_to_a_process(register, tmp_path):
    write_list(tmp_path / "train.txt", TRAIN)
    name = register("toy_labels", tmp_path / "train.txt", tmp_path / "nowhere")
    load_labels = pickle.loads(pickle.dumps(MetadataCatalog.get(name).load_labels))
    assert load_labels() == [1, 0, 1]
    with pytest.raises(FileNotFoundError, match=r"toy_labels: 3 of 3 images are not in .*nowhere"):
        DatasetCatalog.get(name)


def test_other_sets_have_the_names_of_their_training_set(train, register, tmp_path):
    # ImageNet's validation images, for instance, lie in one folder.
    make_images(tmp_path / "images", ["val/9.jpg"])
    write_list(tmp_path / "test.txt", [("val/9.jpg", 1)])
    name = register(
        "toy_test", tmp_path / "test.txt", tmp_path / "images", training_set="toy_train"
    )
    assert [record["label"] for record in DatasetCatalog.get(name)] == [1]
    assert MetadataCatalog.get(name).thing_classes == ["ant", "cat"]
    write_list(tmp_path / "test.txt", [("val/9.jpg", 2)])
    with pytest.raises(ValueError, match=r"entry 1, val/9\.jpg, has the label 2, expected 0 to 1"):
        DatasetCatalog.get(name)
    register("toy_test", tmp_path / "test.txt", tmp_path / "images", training_set="toy_none")
    with pytest.raises(ValueError, match="its training set 'toy_none' is not registered"):
        DatasetCatalog.get(name)


def test_without_the_training_set_the_names_are_numbers(register, tmp_path):
    """An evaluation does not need it; without K nothing says how many there are."""
    write_list(tmp_path / "test.txt", [("val/9.jpg", 1)])
    register("toy_train", tmp_path / "nowhere.txt", tmp_path)
    arguments = (tmp_path / "test.txt", tmp_path)
    name = register("toy_test", *arguments, training_set="toy_train", num_classes=3)
    assert MetadataCatalog.get(name).load_labels() == [1]
    assert MetadataCatalog.get(name).thing_classes == ["0", "1", "2"]
    register("toy_test", *arguments, training_set="toy_train")
    with pytest.raises(FileNotFoundError, match=r"toy_train: the list .*nowhere\.txt is missing"):
        MetadataCatalog.get(name).load_labels()


def test_a_label_with_too_many_digits(register, tmp_path):
    (tmp_path / "list.txt").write_text("a/1.jpg 0\nb/1.jpg 3000000000\n")
    name = register("toy_digits", tmp_path / "list.txt", tmp_path)
    message = r"2999999999 of 3000000001 classes have no image \(labels 1, 2, 3, \.\.\.\)"
    with pytest.raises(ValueError, match=message):
        MetadataCatalog.get(name).load_labels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("\n\n", "the list is empty"),
        (
            "a/1.jpg 0\nb/1.jpg\n",
            r"line 2: expected 'path label', .* got 'b/1\.jpg'",
        ),
        ("a/1.jpg 0\n\nb/1.jpg 1\n", "line 2: expected 'path label', the label an integer, got ''"),
        ("a/1.jpg 0.5\n", "line 1: expected 'path label'"),
        ("a/1.jpg 0\nb/1.jpg -1\n", r"entry 2, b/1\.jpg, has the label -1, expected 0 to 2"),
        ("a/1.jpg 0\nb/1.jpg 3\n", r"entry 2, b/1\.jpg, has the label 3, expected 0 to 2"),
        ("a/1.jpg 0\nb/1.jpg 1\na/1.jpg 1\n", r"entry 3, a/1\.jpg, is entry 1 again"),
        ("a/1.jpg 1\n", r"2 of 3 classes have no image \(labels 0, 2\)"),
        ("a/1.jpg 0\na/2.jpg 1\nb/1.jpg 2\n", r"a/2\.jpg has the label 1, but classes and folders"),
        ("a/1.jpg 0\nb/1.jpg 0\nc/1.jpg 1\nd/1.jpg 2", r"b/1\.jpg has the label 0, but classes"),
    ],
)
def test_a_bad_list_is_one_line(register, tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    name = register("toy_bad", tmp_path / "list.txt", tmp_path, num_classes=3, every_class=True)
    with pytest.raises(ValueError, match=rf"^toy_bad: .*list\.txt: {message}") as raised:
        MetadataCatalog.get(name).load_labels()
    assert "\n" not in str(raised.value)


def test_only_training_needs_every_class(register, tmp_path):
    write_list(tmp_path / "list.txt", [("a/1.jpg", 0)])
    arguments = (tmp_path / "list.txt", tmp_path)
    name = register("toy_few", *arguments, classes=["x", "y"])
    assert MetadataCatalog.get(name).load_labels() == [0]
    register("toy_few", *arguments, classes=["x", "y"], every_class=True)
    with pytest.raises(ValueError, match=r"1 of 2 classes have no image \(labels 1\)"):
        MetadataCatalog.get(name).load_labels()
    register("toy_few", *arguments, classes=["x", "y"], num_classes=3)
    with pytest.raises(ValueError, match="2 classes, expected 3"):
        MetadataCatalog.get(name).load_labels()


def test_missing_images_are_counted_with_one_listing_a_folder(register, tmp_path, monkeypatch):
    files = [f"{folder}/{number}.jpg" for folder in "abc" for number in range(50)]
    make_images(tmp_path, [file for file in files if not file.startswith("b/4")])
    write_list(tmp_path / "list.txt", [(file, "abc".index(file[0])) for file in files])
    listed = []

    def listdir(path):
        listed.append(path)
        return os.listdir(path)

    monkeypatch.setattr(
        files_module, "os", type("os", (), {**vars(os), "listdir": staticmethod(listdir)})
    )
    name = register("toy_missing", tmp_path / "list.txt", tmp_path, hint="unpack it")
    with pytest.raises(FileNotFoundError) as raised:
        DatasetCatalog.get(name)
    # b/4 and b/40 to b/49.
    assert str(raised.value) == (
        f"toy_missing: 11 of 150 images are not in {tmp_path} "
        "(b/4.jpg, b/40.jpg, b/41.jpg, ...); unpack it"
    )
    assert listed == [f"{tmp_path}/{folder}" for folder in "abc"]


def test_class_counts_come_from_the_list_and_are_cached(register, tmp_path, cache):
    labels = [*np.random.default_rng(0).integers(0, 3, 40).tolist(), 4]
    write_list(tmp_path / "list.txt", [(f"{i}.jpg", label) for i, label in enumerate(labels)])
    classes = ["a", "b", "c", "never", "e"]
    name = register("toy_stats", tmp_path / "list.txt", tmp_path / "nowhere", classes=classes)
    stats, path = locate_class_stats(name)
    assert stats.image_count.tolist() == [sum(label == k for label in labels) for k in range(5)]
    assert stats.image_count.tolist()[3:] == [0, 1]
    assert stats.class_names == tuple(classes)
    assert stats.num_images == 41
    assert stats.pixel_count is None and stats.instance_count is None
    # Another order of the images is the same, another label is not.
    pairs = [(f"{i}.jpg", label) for i, label in enumerate(labels)]
    write_list(tmp_path / "list.txt", pairs[::-1])
    assert locate_class_stats(name) == (stats, path)
    write_list(tmp_path / "list.txt", [*pairs[:-1], ("40.jpg", 3)])
    assert get_class_stats(name).image_count.tolist()[3:] == [1, 0]
    assert len(list(cache.iterdir())) == 2
    assert get_class_stats([name, name]).num_images == 82


def test_class_counts_set_the_names_that_only_the_list_knows(train):
    assert compute_class_stats(train).class_names == ("ant", "cat")
    assert compute_class_stats(train).image_count.tolist() == [1, 2]
