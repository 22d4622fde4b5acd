# SPDX-License-Identifier: Apache-2.0
"""Which counts of a training set the second stage of a detector reads, where they differ."""

import numpy as np
import pytest
from disalign.roi_heads import DisAlignCascadeROIHeads, DisAlignROIHeads

from longtail.data.statistics.class_stats import ClassStats
from tests.tiny_detection import detector_config

# By images rare, frequent and common; by instances the other way round.
IMAGES, INSTANCES = np.array([8, 500, 60]), np.array([4000, 600, 70])


@pytest.mark.parametrize("heads", [DisAlignROIHeads, DisAlignCascadeROIHeads])
def test_weights_are_of_instances_and_groups_of_images(tmp_path, monkeypatch, heads):
    """Eq. 11 counts instances; LVIS calls a class rare by its images: to 10, common to 100."""
    stats = ClassStats(("red", "green", "blue"), 600, None, IMAGES, INSTANCES)
    monkeypatch.setattr("disalign.reference.get_class_stats", lambda names: stats)
    cfg = detector_config(
        tmp_path, ["DATASETS.TRAIN", ("toy",), "MODEL.DISALIGN.RHO", 0.5, "MODEL.MASK_ON", False]
    )
    arguments = heads.predictor_arguments(cfg)
    inverse = [count**-0.5 for count in (4000, 600, 70)]
    expected = [3 * value / sum(inverse) for value in inverse]
    assert arguments["class_weights"].tolist() == pytest.approx(expected, rel=1e-6)
    assert arguments["class_groups"] == {"rare": [0], "common": [2], "frequent": [1]}
