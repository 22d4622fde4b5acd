# SPDX-License-Identifier: Apache-2.0
"""What registration decides: colours, ignored labels, the folder of all data sets."""

from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from longtail.data.datasets.ade20k import CLASS_GROUPS, complete_ade20k
from longtail.data.datasets.register import class_colors, register_sem_seg
from longtail.utils.datasets_root import datasets_root
from tests.messages import raises_naming

# PASCAL VOC's own table: aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table.
VOC = [
    *([128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]),
    *([128, 128, 128], [64, 0, 0], [192, 0, 0], [64, 128, 0], [192, 128, 0]),
]


def test_colours_are_those_of_pascal_voc():
    assert class_colors(11) == VOC
    assert len({tuple(color) for color in class_colors(255)}) == 255


@pytest.mark.parametrize("ignore_label", [0, 1, 2])
def test_no_class_can_be_ignored(tmp_path, ignore_label):
    with raises_naming(ValueError, f"ignore_label {ignore_label}", "'abc'"[1 + ignore_label]):
        register_sem_seg("ignoring", tmp_path, tmp_path, list("abc"), ignore_label=ignore_label)


@pytest.mark.parametrize("ignore_label", [3, 255, -1])
def test_labels_beside_the_classes_can_be_ignored(tmp_path, ignore_label):
    register_sem_seg("ignoring", tmp_path, tmp_path, list("abc"), ignore_label=ignore_label)
    assert MetadataCatalog.get("ignoring").ignore_label == ignore_label


def test_the_folder_of_all_data_sets(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert Path(datasets_root()) == tmp_path / "data"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == "datasets"


def test_what_the_user_has_set_for_ade20k_stays(monkeypatch):
    metadata = MetadataCatalog.get("ade20k_sem_seg_val")
    assert metadata.class_groups == CLASS_GROUPS
    own = {"mine": list(range(150))}
    # An attribute cannot be set twice: as if the user had been first.
    monkeypatch.setitem(vars(metadata), "class_groups", own)
    complete_ade20k()
    assert metadata.class_groups == own
