# SPDX-License-Identifier: Apache-2.0
"""Data sets that exist for one test, and a cache of its own for each test."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import longtail.data.datasets
from tests.data.label_maps import CLASSES, random_labels, save_labels


@pytest.fixture
def register():
    """A function that registers records for the duration of one test."""
    names = []

    def add(name, records, **metadata):
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LONGTAIL_CACHE", str(folder))
    return folder / "class_stats"


@pytest.fixture
def street(register, tmp_path):
    """A small semantic data set: its name, its label arrays, its label files."""
    maps = random_labels(0, 5)
    records = [save_labels(tmp_path / "gt" / f"{i}.png", labels) for i, labels in enumerate(maps)]
    name = register("toy_street", records, stuff_classes=CLASSES, ignore_label=255)
    return name, maps, [Path(record["sem_seg_file_name"]) for record in records]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of all data sets, known to the tool and to the registration."""
    root = tmp_path / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    longtail.data.datasets.register_all(str(root))
    yield root
    monkeypatch.undo()
    longtail.data.datasets.register_all(longtail.data.datasets.datasets_root())
