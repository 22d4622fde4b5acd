# SPDX-License-Identifier: Apache-2.0
"""Runs belong to the packaged config that theirs equals, whatever their folders are called."""

import json

import pytest

from longtail.analysis.matching import match_runs
from longtail.analysis.recipes import IGNORED, first_stage, read_recipe
from longtail.analysis.runs import find_runs
from longtail.config.tables import read_leaves
from tests.finished_runs import recorded, write_classification, write_run
from tests.messages import assert_names

BASE, RR = "CamVid/deeplabv3plus_lite0.yaml", "CamVid/deeplabv3plus_lite0_rr.yaml"
VAL = "camvid_sem_seg_val"
SHORT, LONG = (f"iNaturalist2018/R_50_{epochs}_disalign.yaml" for epochs in ("90e", "200e"))


def run_of(folder, config=BASE, *overrides, dataset=VAL, iteration=400, **more):
    return write_run(
        folder,
        {},
        config=recorded(config, *overrides),
        dataset=dataset,
        iteration=iteration,
        **more,
    )


def names(matching, config=BASE):
    return [run.name for run in matching.runs[config]]


def test_the_folder_does_not_matter(tmp_path):
    run_of(tmp_path / "deeplabv3plus_lite0", RR, "SEED", 1)
    run_of(tmp_path / "x", BASE, "SEED", 2)
    found = match_runs(find_runs([tmp_path]), [BASE, RR])
    assert (names(found), names(found, RR), found.remarks) == (["x"], ["deeplabv3plus_lite0"], [])


@pytest.mark.parametrize(
    "overrides",
    [
        ("OUTPUT_DIR", "x", "SEED", 3, "DATALOADER.NUM_WORKERS", 7, "MODEL.DEVICE", "cuda"),
        ("SOLVER.CHECKPOINT_PERIOD", 7, "SOLVER.CHECKPOINT_KEEP", 1, "TEST.EVAL_PERIOD", 9),
        ("MODEL.COMPILE", True, "MODEL.CHANNELS_LAST", True, "MODEL.TIMM.CHECKPOINTING", True),
        ("TEST.AUG.ENABLED", True, "VIS_PERIOD", 3, "SOLVER.REFERENCE_WORLD_SIZE", 4),
        ("DATASETS.TEST", f"('{VAL}', 'synthetic_sem_seg_val')"),
        # These alone: of a run that was not tested with several scales.
        ("TEST.AUG.SCALES", "[1.0]", "TEST.AUG.FLIP", False),
    ],
)
def test_what_changes_no_recipe(tmp_path, overrides):
    run_of(tmp_path, BASE, *overrides)
    assert len(match_runs(find_runs([tmp_path]), [BASE]).runs[BASE]) == 1


@pytest.mark.parametrize(
    ("key", "value", "packaged"),
    [
        ("SOLVER.MAX_ITER", 100, "400"),
        ("SOLVER.AMP.ENABLED", True, "False"),
        ("SOLVER.ACCUMULATION_STEPS", 2, "1"),
        ("MODEL.SYNC_BN", False, "True"),
        ("DATASETS.TRAIN", "('camvid_sem_seg_val',)", "['camvid_sem_seg_train']"),
    ],
)
def test_what_changes_the_recipe_is_named(tmp_path, key, value, packaged):
    run_of(tmp_path / "x", BASE, key, value)
    found = match_runs(find_runs([tmp_path]), [BASE, RR])
    assert names(found) == names(found, RR) == []
    [remark] = found.remarks
    assert_names(remark, f"{tmp_path / 'x'}: 1 key", BASE, key)
    assert f"({packaged})" in remark


def test_many_differing_keys(tmp_path):
    """Of the nearest, in the order of their names, four at most: here 6."""
    run_of(tmp_path / "x", RR, "SOLVER.MAX_ITER", 9, "SOLVER.BASE_LR", 1.0, "SOLVER.GAMMA", 0.5,
           "SOLVER.MOMENTUM", 0.5, "SOLVER.NESTEROV", True, "SOLVER.WARMUP_ITERS", 3)  # fmt: skip
    [remark] = match_runs(find_runs([tmp_path]), [BASE, RR]).remarks
    assert_names(remark, "6 keys", RR, "SOLVER.BASE_LR 1.0", "SOLVER.MAX_ITER 9", "and 2 more")
    assert "WARMUP_ITERS" not in remark


def test_scales_matter_to_several_scales(tmp_path):
    scales = ("TEST.AUG.SCALES", "[1.0]", "TEST.AUG.ENABLED", True)
    run_of(tmp_path, BASE, *scales)
    run_of(tmp_path, BASE, *scales, multi_scale=True)
    [remark] = match_runs(find_runs([tmp_path]), [BASE]).remarks
    assert_names(remark, "1 key", "TEST.AUG.SCALES [1.0]")


def test_a_key_that_an_older_version_lacks_has_its_default(tmp_path):
    config = recorded(BASE)
    del config["SOLVER"]["HANG_MINUTES"], config["MODEL"]["CLASS_LOSS"]
    write_run(tmp_path, {}, config=config, dataset=VAL, iteration=400)
    assert len(match_runs(find_runs([tmp_path]), [BASE]).runs[BASE]) == 1


def test_unfinished_runs_and_other_test_sets(tmp_path):
    run_of(tmp_path / "half", iteration=200)
    run_of(tmp_path / "later", iteration=None)
    run_of(tmp_path / "train", dataset="camvid_sem_seg_train")
    found = match_runs(find_runs([tmp_path]), [BASE])
    assert names(found) == ["later"]
    half, train = found.remarks
    assert_names(half, str(tmp_path / "half"), "200", "400", "--resume")
    assert_names(train, str(tmp_path / "train"), "camvid_sem_seg_train")


def test_of_two_runs_with_one_seed_the_newer_counts(tmp_path):
    for name, seed, year in (("a", 1, 2027), ("b", 1, 2026), ("c", 0, 2026), ("d", 1, 2025)):
        run_of(tmp_path / name, BASE, "SEED", seed)
        path = tmp_path / name / "inference" / VAL / "sem_seg_evaluation.json"
        path.write_text(path.read_text().replace("2026-01", f"{year}-01"))
    found = match_runs(find_runs([tmp_path]), [BASE])
    assert names(found) == ["c", "a"]
    assert len(found.remarks) == 2
    assert_names(found.remarks[0], f"{tmp_path / 'd'}: the seed 1", str(tmp_path / "b"))
    assert_names(found.remarks[1], f"{tmp_path / 'b'}: the seed 1", str(tmp_path / "a"))


def test_without_seed_all_count(tmp_path):
    for name in "ab":
        run_of(tmp_path / name, BASE, "SEED", -1)
    assert names(match_runs(find_runs([tmp_path]), [BASE])) == ["a", "b"]


def test_runs_of_other_rows_and_other_ground_truth(tmp_path):
    run_of(tmp_path / "a", BASE, "SEED", 0)
    run_of(tmp_path / "b", BASE, "SEED", 1, fingerprint="0" * 64)
    run_of(tmp_path / "rr", RR)
    found = match_runs(find_runs([tmp_path]), [BASE], [RR])
    assert names(found) == ["a", "b"]
    versions, elsewhere = found.remarks
    assert_names(versions, VAL, str(tmp_path / "a"), str(tmp_path / "b"))
    assert_names(elsewhere, str(tmp_path / "rr"), "no row")


# Second stages of 90 and 200 epochs have the same config but for MODEL.WEIGHTS.


def second_stage(folder, weights, *, iteration=49040, config=SHORT):
    values = recorded(config, "MODEL.WEIGHTS", weights, "SEED", 0)
    values["OUTPUT_DIR"] = str(folder)
    iteration = values["SOLVER"]["MAX_ITER"] if iteration else None
    return write_classification(
        folder, 50.0, dataset="inaturalist2018_val", config=values, iteration=iteration
    )


def matched(tmp_path):
    found = match_runs(find_runs([tmp_path]), [SHORT, LONG])
    return {config: names(found, config) for config in (SHORT, LONG)}, found.remarks


def test_weights_tell_second_stages_apart(tmp_path):
    second_stage(tmp_path / "x", "output/iNaturalist2018/R_50_200e/model_final.pth")
    second_stage(tmp_path / "y", "/somewhere/R_50_90e/seed3/model_final.pth")
    assert matched(tmp_path) == ({SHORT: ["y"], LONG: ["x"]}, [])


@pytest.mark.parametrize("folder", ["baseline", "deeplabv3plus_lite0"])
def test_a_folder_may_be_named_as_the_config_or_its_output(tmp_path, folder):
    """Which differ in the quick start."""
    config = "quickstart/deeplabv3plus_lite0_disalign.yaml"
    weights = ("MODEL.WEIGHTS", f"/elsewhere/{folder}/seed0/model_final.pth")
    run_of(tmp_path, config, *weights, dataset="synthetic_sem_seg_val", iteration=10**7)
    assert len(match_runs(find_runs([tmp_path]), [config]).runs[config]) == 1


def test_other_weights_are_another_recipe(tmp_path):
    second_stage(tmp_path / "x", "/somewhere/R_50_90e_cosine/model_final.pth")
    found, [remark] = matched(tmp_path)
    assert found == {SHORT: [], LONG: []}
    assert_names(remark, "1 key", "MODEL.WEIGHTS")
    assert "R_50_90e_cosine/model_final.pth' ('output/iNaturalist2018/R_50_90e/" in remark


@pytest.mark.parametrize(("overrides", "expected"), [((), ["x"]), (("SOLVER.MAX_ITER", 9), [])])
def test_the_first_stage_is_looked_at_if_it_is_there(tmp_path, overrides, expected):
    """Its folder says nothing: it is a run of 90 epochs, or one of no packaged config."""
    base, config = tmp_path / "mine", "iNaturalist2018/R_50_90e.yaml"
    values = recorded(config, *overrides)
    write_classification(base, 40.0, dataset="inaturalist2018_val", config=values, iteration=10**7)
    second_stage(tmp_path / "x", str(base / "model_final.pth"))
    found, remarks = matched(tmp_path)
    assert found == {SHORT: expected, LONG: []}
    assert str(base) in remarks[-1]


def test_evaluated_apart_nothing_but_the_name_tells(tmp_path):
    second_stage(tmp_path / "x", "x/model_final.pth", iteration=None)
    second_stage(tmp_path / "R_50_200e_disalign", "x/model_final.pth", iteration=None)
    found, [remark] = matched(tmp_path)
    assert found == {SHORT: [], LONG: ["R_50_200e_disalign"]}
    assert_names(remark, str(tmp_path / "x"), SHORT, LONG, "MODEL.WEIGHTS")


def test_pretrained_weights_are_known_by_their_file(tmp_path):
    config = "ADE20K/fcn_R_50c_160k.yaml"
    for name, weights in (("x", "/mine/resnet50c_imagenet.pth"), ("y", "other.pth"), ("z", "")):
        run_of(tmp_path / name, config, "MODEL.WEIGHTS", weights, dataset="ade20k_sem_seg_val",
               iteration=160000)  # fmt: skip
    found = match_runs(find_runs([tmp_path]), [config])
    assert names(found, config) == ["x"]
    assert ["MODEL.WEIGHTS" in remark for remark in found.remarks] == [True, True]


def test_no_two_runs_are_taken_for_each_other(tmp_path):
    """A run of each, all in folders without meaning, is one of that config alone."""
    configs = [config for config in read_leaves() if config.startswith("quickstart/")]
    assert len(configs) == 4
    for index, config in enumerate(configs):
        test_set = read_recipe(config).test_set
        run_of(tmp_path / str(index), config, dataset=test_set, iteration=10**7)
    found = match_runs(find_runs([tmp_path]), configs)
    assert [names(found, config) for config in configs] == [["0"], ["1"], ["2"], ["3"]]
    assert found.remarks == []


@pytest.mark.parametrize("prefix", ["iNaturalist2018/R_50_", "LVISv0.5/mask_rcnn_R_50_"])
def test_no_two_configs_are_the_same_recipe(prefix):
    """By what is compared: all keys that matter, and the file or the first stage of weights."""
    found = {}
    for config in (config for config in read_leaves() if config.startswith(prefix)):
        values = dict(read_recipe(config).values)
        first, weights = first_stage(read_recipe(config)), values.pop("MODEL.WEIGHTS")
        key = [value for name, value in sorted(values.items()) if name not in IGNORED]
        key.append(first.config if first else weights.rpartition("/")[2])
        found.setdefault(json.dumps(key), []).append(config)
    assert [same for same in found.values() if len(same) > 1] == []
    assert len(found) > 10


def test_first_stages():
    """What a config starts from by its weights; OUTPUT_DIR of the quick start has other names."""
    for config, expected in {
        "quickstart/deeplabv3plus_lite0_rr_disalign.yaml": "quickstart/deeplabv3plus_lite0_rr.yaml",
        "ImageNet-LT/ablations/magnitude.yaml": "ImageNet-LT/R_50.yaml",
        "CamVid/deeplabv3plus_lite0.yaml": None,
        "LVISv0.5/mask_rcnn_R_50_FPN.yaml": None,
    }.items():
        first = first_stage(read_recipe(config))
        assert (first and first.config) == expected


def test_what_is_ignored_is_a_key():
    values = read_recipe(BASE).values
    assert set(IGNORED) <= set(values)
