# SPDX-License-Identifier: Apache-2.0
"""As what a model is tested: itself, in windows, or without pasting masks that cannot count."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from longtail.engine.inference.build import build_inference
from longtail.engine.inference.finite import FiniteDetections
from longtail.engine.inference.sliding_window import SlidingWindowInference
from longtail.evaluation import UnpastedInference
from tests.tiny import tiny_config
from tests.tiny_detection import detector_config

TYPES = {"build_lvis": "lvis", "build_lvis_too": "lvis", "build_coco": "coco"}


@pytest.fixture(autouse=True)
def data_sets():
    for name, kind in TYPES.items():
        MetadataCatalog.get(name).evaluator_type = kind
    yield
    for name in TYPES:
        MetadataCatalog.remove(name)


def detector() -> GeneralizedRCNN:
    parts = {name: nn.Identity() for name in ("backbone", "proposal_generator", "roi_heads")}
    return GeneralizedRCNN(**parts, pixel_mean=(0.0,), pixel_std=(1.0,))


@pytest.mark.parametrize(
    ("names", "unpasted"),
    [
        (("build_lvis",), True),
        (("build_lvis", "build_lvis_too"), True),
        (("build_coco",), False),
        # COCO's evaluator reads whole masks.
        (("build_lvis", "build_coco"), False),
        ((), False),
    ],
    ids=str,
)
def test_masks_are_left_unpasted_where_lvis_alone_is_tested(tmp_path, names, unpasted):
    model = detector()
    checked = build_inference(detector_config(tmp_path, ["DATASETS.TEST", names]), model)
    assert type(checked) is FiniteDetections
    tested = checked.model
    assert type(tested) is (UnpastedInference if unpasted else GeneralizedRCNN)
    assert unpasted or tested is model


def test_windows_have_the_size_and_the_distance_of_the_config(tmp_path):
    options = ["MODE", "slide", "CROP_SIZE", [64, 96], "STRIDE", [32, 48]]
    options = [f"TEST.SEM_SEG.{x}" if i % 2 == 0 else x for i, x in enumerate(options)]
    model = nn.Identity()
    tested = build_inference(tiny_config(tmp_path, options), model)
    assert type(tested) is SlidingWindowInference and tested.model is model
    assert (tested.crop_size, tested.stride) == ((64, 96), (32, 48))
    assert build_inference(tiny_config(tmp_path), model) is model
