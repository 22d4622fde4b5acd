# SPDX-License-Identifier: Apache-2.0
"""When an evaluation takes place: how many iterations the model was trained for."""

import datetime

import pytest
from detectron2.utils.events import EventStorage

from longtail.evaluation.provenance import moment


@pytest.mark.parametrize(
    ("iteration", "trained"),
    # Iterations are numbered from 0; after the last of 10 the storage is at 10.
    [(0, 1), (4, 5), (8, 9), (9, 10), (10, 10)],
)
def test_iterations_of_a_training(iteration, trained):
    with EventStorage(iteration):
        assert moment(10)["iteration"] == trained


def test_outside_of_a_training_nobody_knows():
    found = moment(10)
    assert found["iteration"] is None
    time = datetime.datetime.fromisoformat(found["time"])
    assert time.utcoffset() == datetime.timedelta(0)
