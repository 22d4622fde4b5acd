# SPDX-License-Identifier: Apache-2.0
"""Every module of these packages works as the first that is imported."""

import pytest

from tests.fresh import ROOT, run_each

# Each in a process of its own.
pytestmark = pytest.mark.slow

PACKAGES = ("analysis", "data", "evaluation", "visualization")


def modules() -> list[str]:
    paths = [path for name in PACKAGES for path in (ROOT / "longtail" / name).rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(paths))
    return [name.removesuffix(".__init__") for name in names]


def missing(call: str) -> str:
    """A program that expects the data set to be known, but its files not to be here."""
    return f"try:\n    {call}\nexcept FileNotFoundError:\n    pass\nelse:\n    raise AssertionError"


CONFIG = "from longtail.config import get_cfg\ncfg = get_cfg()\n"
CALLS = {
    "statistics of a packaged data set": """
from longtail.data.statistics.class_stats import get_class_stats
assert get_class_stats("ade20k_sem_seg_train").num_images == 20210
""",
    "statistics of a data set that is not here": (
        "from longtail.data.statistics.class_stats import compute_class_stats\n"
        + missing("compute_class_stats('lvis_camvid_train')")
    ),
    "groups": """
from longtail.data.statistics.groups import groups_by_pixel_share
assert groups_by_pixel_share([3, 2, 1]) == {"head": [0], "body": [1], "tail": [2]}
""",
    "preparation": (
        "from longtail.data.prepare import prepare_dataset\n"
        + missing("prepare_dataset('camvid', '/nonexistent')")
    ),
    "samplers": CONFIG
    + """
from longtail.data.samplers import build_train_sampler
cfg.DATALOADER.SAMPLER_TRAIN = "ClassBalancedTrainingSampler"
assert next(iter(build_train_sampler(cfg, [{"label": 0}]))) == 0
""",
    "mappers": CONFIG
    + """
from longtail.data.mappers import ClassificationDatasetMapper, SemSegDatasetMapper
cfg.INPUT.MIN_SIZE_TRAIN = (512,)
for is_train in (True, False):
    SemSegDatasetMapper(cfg, is_train)
    ClassificationDatasetMapper(cfg, is_train)
""",
    "loading LVIS's format": (
        "from longtail.data.datasets.lvis import load_lvis_json\n"
        + missing("load_lvis_json('/nonexistent.json', '.', 'lvis_v1_val')")
    ),
    "pictures": """
import numpy
from longtail.visualization.comparison import comparison
image = numpy.zeros((8, 8, 3), numpy.uint8)
assert comparison(image, image[..., 0], {}, ["a"], [(1, 2, 3)]).ndim == 3
""",
    **{
        f"evaluator of {name}": CONFIG
        + "from longtail.evaluation.build import build_evaluator\n"
        + missing(f"build_evaluator(cfg, {name!r})")
        for name in ("camvid_sem_seg_val", "lvis_synthetic_val", "places_lt_test")
    },
    **{
        f"{module}.evaluator": f"from longtail.evaluation.{module}.evaluator import {name} as E\n"
        + missing(f"E({dataset!r})")
        for module, name, dataset in (
            ("sem_seg", "SemSegEvaluator", "camvid_sem_seg_val"),
            ("lvis", "LVISEvaluator", "lvis_v1_val"),
            ("classification", "ClassificationEvaluator", "digits_lt_test"),
        )
    },
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """What fails, of all programs; one run, since its start takes longest."""
    folder = tmp_path_factory.mktemp("datasets")
    prefix = f"import os\nos.environ['DETECTRON2_DATASETS'] = {str(folder)!r}\n"
    imports = {name: f"import {name}" for name in modules()}
    calls = {name: prefix + program for name, program in CALLS.items()}
    return run_each({**imports, **calls, "mistake": "import json\njson.nothing"})


def test_every_module_can_be_imported_first(failures):
    names = modules()
    assert {"longtail.data.formats.lvis_reader", "longtail.evaluation"} < set(names)
    assert {name: failures[name] for name in names if name in failures} == {}


def test_public_functions_work_after_importing_their_own_module(failures):
    assert {name: failures[name] for name in CALLS if name in failures} == {}


def test_a_program_that_fails_is_noticed(failures):
    assert "AttributeError" in failures["mistake"]
