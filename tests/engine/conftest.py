# SPDX-License-Identifier: Apache-2.0
"""Data sets and a cache that exist for one test."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.tiny import register_stripes, tiny_config

NAMES = ("tiny_stripes_train", "tiny_stripes_val")


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """Two registered data sets of striped images, 8 for training and 2 for validation."""
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    for seed, (name, count) in enumerate(zip(NAMES, (8, 2), strict=True)):
        register_stripes(name, tmp_path / name, count=count, seed=seed)
    yield NAMES
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def configure(tmp_path, stripes):
    """A function that gives a tiny config on these data sets, with keys and values replaced."""

    def get(*overrides):
        names = ["DATASETS.TRAIN", stripes[:1], "DATASETS.TEST", stripes[1:]]
        return tiny_config(tmp_path, [*names, *overrides])

    return get
