# SPDX-License-Identifier: Apache-2.0
"""IoU by accuracy, Eq. 3."""

import numpy as np
import pytest

from longtail.analysis.iou import false_positive_ratio, iou_of_accuracy


def test_equation():
    # 1 / (1/0.5 + 3) = 0.2.
    assert iou_of_accuracy([0.5, 0, 1], 3).tolist() == pytest.approx([0.2, 0, 0.25])
    assert iou_of_accuracy([0.3], 0).tolist() == [0.3]


def test_it_is_that_of_a_confusion_matrix():
    confusion = np.random.default_rng(0).integers(1, 100, (6, 6))
    for index, ratio in enumerate(false_positive_ratio(confusion)):
        hits = confusion[index, index]
        truth, predicted = confusion[index].sum(), confusion[:, index].sum()
        iou = hits / (truth + predicted - hits)
        assert iou_of_accuracy(hits / truth, ratio) == pytest.approx(iou)
    np.testing.assert_array_equal(false_positive_ratio([[0, 3], [5, 0]]), [np.inf, np.inf])
    assert np.isnan(false_positive_ratio([[2, 0, 0], [2, 0, 0], [0, 0, 0]])[2])
