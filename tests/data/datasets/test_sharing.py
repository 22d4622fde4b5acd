# SPDX-License-Identifier: Apache-2.0
"""Records that are read once within a context."""

import gc
import weakref

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from longtail.data.datasets.register import replace_registration
from longtail.data.datasets.sharing import records_read_once
from longtail.data.statistics.counting import load_records

NAME = "toy_sharing"


class Record(dict):
    """A record that can be watched."""


@pytest.fixture
def reads():
    """What was read so far, of one data set."""
    found = []

    def load():
        found.append(NAME)
        return [Record(file_name="a.jpg", number=len(found))]

    replace_registration(NAME, load, {"stuff_classes": ["a"]})
    yield found
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_all_ways_to_the_records_share_them(reads):
    with records_read_once():
        first = DatasetCatalog.get(NAME)
        second = load_records(NAME)
        third = get_detection_dataset_dicts([NAME])
        assert first[0] is second[0] is third[0] and len(reads) == 1
        # A list of one's own may be sorted or cut.
        first.clear()
        assert len(DatasetCatalog.get(NAME)) == 1
        with records_read_once():
            DatasetCatalog.get(NAME)
        assert len(DatasetCatalog.get(NAME)) == len(reads) == 1
    DatasetCatalog.get(NAME)
    DatasetCatalog.get(NAME)
    assert len(reads) == 3


def test_nothing_is_held_afterwards(reads):
    with records_read_once():
        watched = weakref.ref(DatasetCatalog.get(NAME)[0])
        assert watched() is not None
    gc.collect()
    assert watched() is None
    with pytest.raises(ValueError), records_read_once():
        raise ValueError
    assert "get" not in vars(DatasetCatalog)


def test_a_new_registration_is_read_anew(reads):
    """Also of the same function with other metadata, by which it chooses class indices."""
    with records_read_once():
        load = DatasetCatalog[NAME]
        DatasetCatalog.get(NAME)
        replace_registration(NAME, load, {"stuff_classes": ["b"]})
        assert DatasetCatalog.get(NAME)[0]["number"] == 2
        replace_registration(NAME, lambda: [{"number": 9}], {"stuff_classes": ["b"]})
        assert DatasetCatalog.get(NAME)[0]["number"] == 9
        with pytest.raises(KeyError, match="no_such_set"):
            DatasetCatalog.get("no_such_set")
