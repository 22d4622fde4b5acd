# SPDX-License-Identifier: Apache-2.0
"""The check of messages can fail."""

import pytest

from tests.messages import assert_names, raises_naming, stands_in

MESSAGE = "MODEL.TIMM.NORM must be one of ['BN', 'FrozenBN'], got 17: see DATASETS.TRAIN."


@pytest.mark.parametrize(
    "part", ["MODEL.TIMM.NORM", "'BN'", "17", "got 17:", "['BN', 'FrozenBN']", "DATASETS.TRAIN"]
)
def test_what_a_message_has(part):
    assert stands_in(part, MESSAGE)


@pytest.mark.parametrize(
    "part", ["MODEL.TIMM.NAME", "NORM", "MODEL.TIMM", "7", "1", "TRAIN", "DATASETS", "Frozen"]
)
def test_a_part_of_another_name_is_not_enough(part):
    assert not stands_in(part, MESSAGE)


def test_numbers_are_whole():
    assert stands_in("0.5", "got 0.5.") and not stands_in("5", "got 0.5")
    assert not stands_in("0", "got 0.5") and not stands_in("0.5", "got 0.55")


def test_another_key_another_type_and_a_second_line_fail():
    with raises_naming(ValueError, "SOLVER.MAX_ITER", "3"):
        raise ValueError("SOLVER.MAX_ITER must be > 3")
    with pytest.raises(AssertionError), raises_naming(ValueError, "SOLVER.MAX_ITER"):
        raise ValueError("SOLVER.BASE_LR must be > 3")
    with pytest.raises(KeyError), raises_naming(ValueError, "x"):
        raise KeyError("x")
    with pytest.raises(pytest.fail.Exception), raises_naming(ValueError, "x"):
        pass
    with pytest.raises(AssertionError):
        assert_names("x\ny", "x")
    with pytest.raises(AssertionError):
        assert_names("x")
