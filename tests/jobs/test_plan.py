# SPDX-License-Identifier: Apache-2.0
"""Which jobs rows need: first stages once, in order, with the options of each."""

import json
import re

import pytest
import yaml

from longtail.config import load_config
from longtail.config.loading import CONFIGS
from longtail.config.tables import read_leaves
from longtail.jobs.plan import Row, config_name, first_stage, make_plan
from longtail.jobs.state import check_startable, is_done
from tests.jobs.small_rows import finish, write_configs
from tests.messages import raises_naming


@pytest.fixture
def configs(tmp_path):
    return write_configs(tmp_path / "configs")


def options_of(job):
    return dict(zip(job.options[::2], job.options[1::2], strict=True))


def test_a_first_stage_is_one_job_that_all_share(configs, tmp_path):
    rows = [Row(configs["post_hoc"]), Row(configs["second"]), Row(configs["first"])]
    plan = make_plan([*rows, rows[0]], (0, 3), tmp_path / "out")
    assert [job.name for job in plan.jobs] == [
        *("first/seed0", "first/seed3"),
        *("post_hoc/seed0", "second/seed0", "post_hoc/seed3", "second/seed3"),
    ]
    assert [job.stage for job in plan.jobs] == [0, 0, 1, 1, 1, 1]
    for row in rows[:2]:
        assert [job.first for job in plan.by_row[row]] == list(plan.by_row[rows[2]])
    later = plan.by_row[rows[1]][1]
    assert options_of(later)["MODEL.WEIGHTS"] == str(tmp_path / "out/first/seed3/model_final.pth")
    assert options_of(later)["SEED"] == "3"
    # One seed's expectation is none of another's.
    assert options_of(later)["TEST.EXPECTED_RESULTS"] == "[]"


def test_commands(configs, tmp_path):
    plan = make_plan([Row(configs["post_hoc"])], (0,), tmp_path)
    first, post_hoc = plan.jobs
    assert first.arguments(8)[:6] == [
        *("train", "--config-file", configs["first"], "--resume", "--num-gpus", "8")
    ]
    assert first.arguments(0)[-2:] == ["OUTPUT_DIR", str(tmp_path / "first/seed0")]
    assert "--eval-only" in post_hoc.arguments(0) and "--resume" not in post_hoc.arguments(0)
    assert "--num-gpus" not in post_hoc.arguments(0)


def test_options_of_a_row_are_its_own_and_common_ones_of_all(configs, tmp_path):
    rows = [Row(configs["second"], ("SOLVER.MAX_ITER", str(n)), f"n={n}") for n in (5, 6)]
    plan = make_plan(
        rows, (0,), tmp_path, options=("SOLVER.BASE_LR", "0.5"), datasets=lambda seed: f"d{seed}"
    )
    assert [job.name for job in plan.jobs] == [
        "first/seed0",
        "second/n=5/seed0",
        "second/n=6/seed0",
    ]
    assert [job.settings["SOLVER.MAX_ITER"] for job in plan.jobs] == [10, 5, 6]
    assert {job.settings["SOLVER.BASE_LR"] for job in plan.jobs} == {0.5}
    assert {job.environment["DETECTRON2_DATASETS"] for job in plan.jobs} == {"d0"}


def test_named_weights_stay(configs, tmp_path):
    row = Row(configs["second"], ("MODEL.WEIGHTS", "mine.pth"))
    (job,) = make_plan([row], (0,), tmp_path).jobs
    assert job.first is None and job.settings["MODEL.WEIGHTS"] == "mine.pth"


@pytest.mark.parametrize("weights", ["", "detectron2://x/model_final.pth", "output/x/model_9.pth"])
def test_weights_of_no_config(configs, weights):
    assert first_stage(configs["second"], weights) is None


def test_every_packaged_second_stage_finds_its_first_one():
    found = 0
    for config, leaf in read_leaves().items():
        text = (CONFIGS / config).read_text()
        for output in re.findall(r"^  WEIGHTS: (output/.+)/model_final.pth$", text, re.MULTILINE):
            first = first_stage(config, f"{output}/model_final.pth")
            assert f"\nOUTPUT_DIR: {output}\n" in (CONFIGS / first).read_text(), leaf
            assert f"after {first.split('/')[-1]}" in " ".join(text.replace("#", "").split())
            found += 1
    assert found > 100


def test_names(configs):
    assert config_name("digits-LT/linear.yaml") == "digits-LT/linear"
    assert config_name(str(CONFIGS / "digits-LT" / "linear.yaml")) == "digits-LT/linear"
    assert config_name(configs["second"]) == "second"


def test_two_configs_of_one_folder_are_refused(configs, tmp_path):
    other = write_configs(tmp_path / "other")["first"]
    with raises_naming(ValueError, other, "first.yaml"):
        make_plan([Row(configs["first"]), Row(other)], (0,), tmp_path)
    rows = [Row(configs["first"]), Row(configs["first"], ("SOLVER.MAX_ITER", "5"))]
    with raises_naming(ValueError, str(tmp_path / "first" / "seed0")):
        make_plan(rows, (0,), tmp_path)


def test_bad_rows(configs, tmp_path):
    with raises_naming(FileNotFoundError, "no/such.yaml"):
        make_plan([Row("no/such.yaml")], (0,), tmp_path)
    with raises_naming(ValueError, "SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"):
        make_plan([Row(configs["first"], ("SOLVER.MAX_ITERS", "5"))], (0,), tmp_path)
    with raises_naming(ValueError, "KEY VALUE", "SOLVER.MAX_ITER"):
        make_plan([Row(configs["first"], ("SOLVER.MAX_ITER",))], (0,), tmp_path)
    with raises_naming(ValueError, "MODEL.WEIGHTS"):
        options = ("MODEL.POST_HOC.METHOD", "tau_norm")
        make_plan([Row(configs["first"], options)], (0,), tmp_path)


def test_done_is_a_final_evaluation_of_the_same_config(configs, tmp_path):
    (job,) = make_plan([Row(configs["first"])], (0,), tmp_path).jobs
    assert not is_done(job)
    finish(job, iteration=5)
    assert not is_done(job)
    finish(job)
    assert is_done(job)
    (other,) = make_plan([Row(configs["first"], ("SOLVER.MAX_ITER", "20"))], (0,), tmp_path).jobs
    with raises_naming(ValueError, str(job.folder), "SOLVER.MAX_ITER", "10", "20", "--output"):
        is_done(other)


def test_evaluating_it_again_in_its_folder_leaves_it_done(configs, tmp_path):
    (job,) = make_plan([Row(configs["first"])], (0,), tmp_path).jobs
    path = job.folder / "inference" / "toy_val" / "sem_seg_evaluation.json"
    for weights, same in ((job.checkpoint, True), (tmp_path / "model_final.pth", False)):
        finish(job)
        report = json.loads(path.read_text())
        config = yaml.safe_load(report["provenance"]["config"])
        config["MODEL"]["WEIGHTS"] = str(weights)
        report["provenance"]["config"] = yaml.safe_dump(config)
        path.write_text(json.dumps(report))
        if same:
            assert is_done(job)
        else:
            with raises_naming(ValueError, "MODEL.WEIGHTS", str(weights)):
                is_done(job)


def test_one_that_was_begun_is_not_done_and_not_of_another_config(configs, tmp_path):
    (job,) = make_plan([Row(configs["first"])], (0,), tmp_path).jobs
    job.folder.mkdir(parents=True)
    config = job.folder / "config.yaml"
    config.write_text(load_config(job.config, job.options).dump())
    assert not is_done(job)
    config.write_text(load_config(job.config, [*job.options, "SOLVER.BASE_LR", "3.5"]).dump())
    with raises_naming(ValueError, "SOLVER.BASE_LR", "3.5"):
        is_done(job)


def test_multi_scale_and_every_test_set_belong_to_it(configs, tmp_path):
    options = ("TEST.AUG.ENABLED", "True")
    (job,) = make_plan([Row(configs["first"], options)], (0,), tmp_path).jobs
    finish(job)
    assert not is_done(job)
    finish(job, multi_scale=True)
    assert is_done(job)
    options = ("DATASETS.TEST", "('toy_val', 'toy_test')")
    (job,) = make_plan([Row(configs["first"], options)], (0,), tmp_path / "two").jobs
    finish(job)
    assert not is_done(job)
    finish(job, dataset="toy_test")
    assert is_done(job)


def test_a_damaged_evaluation_is_made_again(configs, tmp_path):
    (job,) = make_plan([Row(configs["first"])], (0,), tmp_path).jobs
    finish(job)
    (job.folder / "inference/toy_val/sem_seg_evaluation.json").write_text("{")
    assert not is_done(job)


def test_a_first_stage_without_its_weights_is_refused(configs, tmp_path):
    plan = make_plan([Row(configs["second"])], (0,), tmp_path)
    first, second = plan.jobs
    finish(first)
    check_startable(plan.jobs, {first})
    first.checkpoint.unlink()
    with raises_naming(ValueError, str(first.folder), "model_final.pth", second.name):
        check_startable(plan.jobs, {first})
    check_startable(plan.jobs, {first, second})
