# SPDX-License-Identifier: Apache-2.0
"""Metrics that more than one task reports, against numbers derived by hand."""

import math

import numpy as np
import pytest
import torch

from longtail.evaluation.metrics import grouped_mean


def test_mean_without_nan():
    values = torch.tensor([0.2, math.nan, 0.6, 0.9, math.nan], dtype=torch.float64)
    means = grouped_mean(values, {"a": [0, 1, 2], "b": [3], "c": [4], "d": []})
    assert list(means) == ["a", "b", "c", "d"]
    assert means["a"] == pytest.approx((0.2 + 0.6) / 2, abs=1e-15)
    assert means["b"] == pytest.approx(0.9, abs=1e-15)
    assert math.isnan(means["c"]) and math.isnan(means["d"])


def test_one_group_of_all_is_the_mean():
    values = np.random.default_rng(0).random(13)
    means = grouped_mean(values, {"all": range(13)})
    assert means["all"] == pytest.approx(values.mean(), abs=1e-15)


def test_group_beyond_the_classes():
    with pytest.raises(ValueError, match=r"group 'tail' has class 5.*classes 0\.\.3"):
        grouped_mean([0.1, 0.2, 0.3, 0.4], {"tail": [1, 5]})
    with pytest.raises(ValueError, match="has class -1"):
        grouped_mean([0.1, 0.2], {"head": [-1]})
    with pytest.raises(ValueError, match=r"expected \(K,\) values"):
        grouped_mean(torch.zeros(2, 2), {})
