# SPDX-License-Identifier: Apache-2.0
"""Which caches of RoI features are used, and which are refused with one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from disalign.roi_cache import RoICache
from disalign.roi_cache_index import expected_index, read_index, shard_name

from longtail.engine.training.trainer import training_records
from tests.messages import raises_naming
from tests.tiny_detection import detector_config
from tests.tiny_roi_cache import second_stage, write_cache


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, options, cache) of a Mask R-CNN."""
    folder = tmp_path_factory.mktemp("roi_cache")
    with second_stage(folder) as options:
        yield folder, options, write_cache(detector_config(folder, options), folder / "cache")


@pytest.fixture
def configure(made):
    """A function that gives the config with further options, the cache among them."""
    folder, options, cache = made

    def get(*overrides):
        return detector_config(
            folder, [*options, "MODEL.DISALIGN.ROI_FEATURE_CACHE", str(cache), *overrides]
        )

    return get


def open_cache(cfg):
    folder = cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE
    return RoICache(folder, expected_index(cfg, training_records(cfg)))


SAME_FEATURES = [
    ("MODEL.DISALIGN.RHO", 0.1),
    ("MODEL.DISALIGN.MARGIN", False),
    ("SOLVER.BASE_LR", 0.7),
    ("SOLVER.IMS_PER_BATCH", 4),
    ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    ("SEED", 77),
    ("INPUT.MIN_SIZE_TEST", 32),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5),
    ("TEST.EVAL_PERIOD", 5),
]
OTHER_FEATURES = [
    ("INPUT.MIN_SIZE_TRAIN", (48,)),
    ("INPUT.RANDOM_FLIP", "none"),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    ("MODEL.RPN.POST_NMS_TOPK_TRAIN", 20),
    ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False),
]


@pytest.mark.parametrize(("key", "value"), SAME_FEATURES)
def test_what_leaves_features_as_they_are_is_accepted(configure, key, value):
    open_cache(configure(key, value))


@pytest.mark.parametrize(("key", "value"), OTHER_FEATURES)
def test_a_config_with_other_features_is_refused_and_the_key_named(configure, key, value):
    with pytest.raises(ValueError, match=rf"^the RoI features .* another config \({key}\): go"):
        open_cache(configure(key, value))


def test_other_weights_are_refused(configure, tmp_path):
    cfg = configure()
    weights = tmp_path / "other.pth"
    content = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    content["model"]["backbone.fpn_output2.bias"] += 1e-6
    torch.save(content, weights)
    with pytest.raises(ValueError, match="computed with another file of weights: go back"):
        open_cache(configure("MODEL.WEIGHTS", str(weights)))
    # Their place does not matter.
    weights.write_bytes(Path(cfg.MODEL.WEIGHTS).read_bytes())
    open_cache(configure("MODEL.WEIGHTS", str(weights)))


@pytest.mark.parametrize("change", ["box", "class", "order", "fewer"])
def test_another_training_set_of_the_same_name_is_refused(configure, change):
    cfg = configure()
    records = training_records(cfg)
    if change == "box":
        records[3]["annotations"][0]["bbox"][0] += 1
    elif change == "class":
        records[3]["annotations"][0]["category_id"] = 2
    elif change == "order":
        records.reverse()
    else:
        records.pop()
    with pytest.raises(ValueError, match="another training set"):
        RoICache(cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE, expected_index(cfg, records))


def copy_of(made, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in made[2].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_an_incomplete_cache_is_refused_with_the_command(made, configure, tmp_path):
    copy = copy_of(made, tmp_path)
    (copy / shard_name(2)).unlink()
    with pytest.raises(ValueError, match=r"1 of 4 files .* --output \S+ --epochs 2$"):
        open_cache(configure("MODEL.DISALIGN.ROI_FEATURE_CACHE", str(copy)))
    command = "longtail cache-roi-features"
    with pytest.raises(FileNotFoundError, match=rf"no cache of RoI features.*{command}"):
        open_cache(configure("MODEL.DISALIGN.ROI_FEATURE_CACHE", str(tmp_path / "none")))


def damages(content):
    """Every kind of damage to a file; the middle of a shard is in its features."""
    middle = len(content) // 4
    flipped = bytes([content[middle] ^ 1])
    return {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "other": b"no cache at all",
        "bit": content[:middle] + flipped + content[middle + 1 :],
    }


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "bit"])
def test_a_damaged_shard_is_one_line(made, configure, tmp_path, damage):
    copy = copy_of(made, tmp_path)
    shard = copy / shard_name(1)
    shard.write_bytes(damages(shard.read_bytes())[damage])
    cache = open_cache(configure("MODEL.DISALIGN.ROI_FEATURE_CACHE", str(copy)))
    cache.read(0, 3)
    with pytest.raises(
        ValueError, match=r"shard_000001\.pt is damaged \(.*delete this file"
    ) as info:
        for image in (4, 5):
            cache.read(0, image)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"version": 1}'])
def test_a_damaged_index_is_one_line(made, configure, tmp_path, content):
    copy = copy_of(made, tmp_path)
    (copy / "cache.json").write_text(content)
    with pytest.raises(ValueError, match=r"cache\.json is damaged \(\w+\): delete") as info:
        open_cache(configure("MODEL.DISALIGN.ROI_FEATURE_CACHE", str(copy)))
    assert "\n" not in str(info.value)


def test_a_config_that_is_no_second_stage_or_has_no_weights_is_refused(configure):
    with pytest.raises(ValueError, match="RetrainedRCNN or ScaledRCNN, got GeneralizedRCNN"):
        open_cache(configure("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"))
    with pytest.raises(ValueError, match=r"set MODEL\.WEIGHTS"):
        open_cache(configure("MODEL.WEIGHTS", ""))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist"):
        open_cache(configure("MODEL.WEIGHTS", "nowhere.pth"))


def test_no_code_in_a_shard_is_run(made, configure, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    copy = copy_of(made, tmp_path)
    torch.save({"features": Evil()}, copy / shard_name(0))
    cache = open_cache(configure("MODEL.DISALIGN.ROI_FEATURE_CACHE", str(copy)))
    with pytest.raises(ValueError, match="damaged"):
        cache.read(0, 0)
    assert not (tmp_path / "run").exists()


def test_the_index_holds_what_was_asked_for(made):
    content = json.loads((made[2] / "cache.json").read_text())
    assert (content["num_images"], content["images_per_shard"], content["epochs"]) == (6, 4, 2)
    assert content["config"]["DATASETS.TRAIN"] == ["tiny_roi_cache_train"]
    own = {key: value for key, value in content["config"].items() if "DISALIGN" in key}
    assert own == {"MODEL.DISALIGN.ROI_FEATURE_DTYPE": "float32"}
    assert not [key for key in content["config"] if "TEST" in key]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images_per_shard", 0),
        ("images_per_shard", -4),
        ("epochs", 10**18),
        ("epochs", 1e18),
        ("epochs", 0),
        ("epochs", True),
        ("num_images", 10**18),
        ("num_images", "six"),
        ("config", []),
        ("weights", 5),
    ],
)
def test_numbers_that_no_index_has(made, tmp_path, name, value):
    """They are divided by, and counted up to: one hung for as long as anybody waited."""
    folder = shutil.copytree(made[2], tmp_path / "copy")
    path = folder / "cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with raises_naming(ValueError, str(path), name, str(value)):
        read_index(folder)


def test_an_index_that_is_nested_too_deeply(made, tmp_path):
    folder = shutil.copytree(made[2], tmp_path / "copy")
    (folder / "cache.json").write_text("[" * 100_000)
    with raises_naming(ValueError, str(folder / "cache.json"), "RecursionError"):
        read_index(folder)


def test_more_epochs_than_files_can_be_numbered(configure):
    with raises_naming(ValueError, "--epochs 1000000000", "1000000"):
        expected_index(configure(), training_records(configure()), 10**9)
