# SPDX-License-Identifier: Apache-2.0
"""Cached RoI features in float16: half the space, nearly the same training, never mixed."""

import json

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from disalign import roi_cache_making
from disalign.roi_cache import CachedRoIsMapper, RoICache
from disalign.roi_cache_index import INDEX_FILE, expected_index, shard_name

from longtail.engine import Trainer
from longtail.engine.training.data_sets import training_records
from longtail.modeling.roi_heads import RoIs
from tests.messages import raises_naming
from tests.tiny_detection import detector_config
from tests.tiny_roi_cache import NUM_IMAGES, second_stage, write_cache

KEY = "MODEL.DISALIGN.ROI_FEATURE_DTYPE"
TYPES = ("float32", "float16")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, options) of a Mask R-CNN with a cache of either type."""
    folder = tmp_path_factory.mktemp("roi_cache_dtype")
    with second_stage(folder) as options:
        for dtype in TYPES:
            write_cache(detector_config(folder, [*options, KEY, dtype]), folder / dtype)
        yield folder, options


@pytest.fixture
def configure(made):
    """A function that gives the config that trains on a cache, read as of a type."""
    folder, options = made

    def get(cache, dtype, *overrides):
        own = ["MODEL.DISALIGN.ROI_FEATURE_CACHE", str(folder / cache), KEY, dtype]
        return detector_config(folder, [*options, *own, *overrides])

    return get


def open_cache(cfg):
    folder = cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE
    return RoICache(folder, expected_index(cfg, training_records(cfg)))


def test_features_are_rounded_once_and_read_as_float32(configure):
    full, half = (open_cache(configure(dtype, dtype)) for dtype in TYPES)
    for epoch, image in [(e, i) for e in (0, 1) for i in range(NUM_IMAGES)]:
        (exact,), (rounded,) = full.read(epoch, image), half.read(epoch, image)
        assert rounded.features.dtype == torch.float16
        assert torch.equal(rounded.features, exact.features.half())
        assert torch.equal(rounded.classes, exact.classes)
    given = {CachedRoIsMapper(half)({"index": 1})["rois"][0].features.dtype for _ in range(4)}
    assert given == {torch.float32}


def test_the_features_take_half_the_space(made):
    folder = made[0]
    shards = [torch.load(folder / dtype / shard_name(0), weights_only=True) for dtype in TYPES]
    sizes = [sum(f.numel() * f.element_size() for f in shard["features"]) for shard in shards]
    assert sizes[0] == 2 * sizes[1] > 0


def test_a_step_and_a_short_stage_are_nearly_the_same(configure, tmp_path):
    """Rounding to 11 bits is 2^-12 of a feature; the losses' and the learned differences are."""
    losses, learned = [], []
    for dtype in TYPES:
        output = tmp_path / dtype
        output.mkdir()
        options = ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", 30, "SOLVER.BASE_LR", 0.1]
        seed_all_rng(5)
        trainer = Trainer(configure(dtype, dtype, *options, "SEED", 5))
        trainer.resume_or_load(False)
        mapper = CachedRoIsMapper(open_cache(configure(dtype, dtype)))
        seed_all_rng(7)
        with EventStorage(), torch.no_grad():
            losses.append(trainer.model.train()([mapper({"index": 3})])["loss_cls"])
        trainer.train()
        calibration = trainer.model.roi_heads.box_predictor.calibration
        learned.append(torch.stack([calibration.alpha, calibration.beta]).detach())
    assert abs(losses[1] / losses[0] - 1) < 2**-10
    moved = (learned[0] - torch.tensor([[1.0], [0.0]])).abs().max()
    difference = (learned[1] - learned[0]).abs().max()
    print(f"loss {losses}, moved {moved}, difference {difference}")
    assert moved > 0.05
    assert 0 < difference < 2**-8 * moved


@pytest.mark.parametrize(("cache", "dtype"), [TYPES, TYPES[::-1]])
def test_a_cache_of_another_type_is_refused(made, configure, cache, dtype):
    with raises_naming(ValueError, KEY, str(made[0] / cache)):
        open_cache(configure(cache, dtype))
    with raises_naming(ValueError, KEY):
        roi_cache_making.make_cache(configure(cache, dtype), made[0] / cache, 3)


def test_a_cache_without_the_key_is_of_float32(made, configure, tmp_path):
    """As caches were before there was a choice."""
    content = json.loads((made[0] / "float32" / INDEX_FILE).read_text())
    assert content["config"].pop(KEY) == "float32"
    for path in (made[0] / "float32").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / INDEX_FILE).write_text(json.dumps(content))
    own = ["MODEL.DISALIGN.ROI_FEATURE_CACHE", str(tmp_path)]
    # Nor did they name keys of today, which are as they were.
    assert content["config"].pop("INPUT.COPY_PASTE.PROBABILITY") == 0
    (tmp_path / INDEX_FILE).write_text(json.dumps(content))
    assert len(open_cache(configure("float32", "float32", *own)).read(0, 0)) == 1
    with raises_naming(ValueError, KEY):
        open_cache(configure("float32", "float16", *own))
    content["config"][KEY] = "float64"
    (tmp_path / INDEX_FILE).write_text(json.dumps(content))
    with raises_naming(ValueError, INDEX_FILE, "float64"):
        open_cache(configure("float32", "float32", *own))


def test_other_types_and_features_beyond_the_range(configure, tmp_path, monkeypatch):
    with raises_naming(ValueError, KEY, "float16", "bfloat16"):
        make = configure("float32", "bfloat16")
        roi_cache_making.make_cache(make, tmp_path / "new", 1)
    assert not (tmp_path / "new").exists()
    rois = [RoIs(torch.tensor([[65504.0, 7e4]]), torch.tensor([1]))]
    model = type("Model", (), {"sample_rois": lambda self, items: rois})()
    item = {"file_name": "a.jpg"}
    with raises_naming(ValueError, "a.jpg", "float16", KEY):
        roi_cache_making._compute(model, 0, item, torch.float16)
    [found] = roi_cache_making._compute(model, 0, item, torch.float32)
    assert torch.equal(found.features, rois[0].features)
