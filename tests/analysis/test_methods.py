# SPDX-License-Identifier: Apache-2.0
"""Runs whose configs differ in nothing but the seed are one method."""

import pytest

from longtail.analysis.methods import find_methods
from tests.finished_runs import write_run
from tests.messages import raises_naming


def write(folder, seed, head="A", **others):
    write_run(folder, {}, seed=seed, config={"MODEL": {"HEAD": head, **others}})


def found(*arguments):
    return [(m.label, m.seeds) for m in find_methods(map(str, arguments))]


def test_seeds_weights_and_machines_make_no_other_method(tmp_path):
    write(tmp_path / "b_seed1", 1, WEIGHTS="b", DEVICE="cuda")
    write(tmp_path / "b_seed0", 0, WEIGHTS="a", DEVICE="cpu")
    write(tmp_path / "a_0", 0, "B")
    assert found(tmp_path) == [("a_0", (0,)), ("b", (0, 1))]
    # In the order in which they are named.
    assert found(tmp_path / "b_seed1", tmp_path / "a_0") == [("b_seed1", (1,)), ("a_0", (0,))]


def test_a_key_that_an_older_version_lacks_has_its_default(tmp_path):
    write(tmp_path / "a_0", 0)
    write(tmp_path / "a_1", 1, MASK_ON=False)
    write(tmp_path / "b", 2, MASK_ON=True)
    assert found(tmp_path) == [("a", (0, 1)), ("b", (2,))]


def test_the_folder_above_names_seeds(tmp_path):
    for name, head in (("mine", "A"), ("theirs", "B")):
        for seed in (0, 1):
            write(tmp_path / name / f"seed{seed}", seed, head)
    assert found(tmp_path) == [("mine", (0, 1)), ("theirs", (0, 1))]


def test_folders_that_are_called_the_same_are_told_apart(tmp_path):
    write(tmp_path / "x" / "run", 0, "A")
    write(tmp_path / "y" / "run", 0, "B")
    assert found(tmp_path) == [("x/run", (0,)), ("y/run", (0,))]


def test_a_name_makes_a_method_of_whatever_is_there(tmp_path):
    write(tmp_path / "a_0", 0, "A")
    write(tmp_path / "a_1", 1, "B")
    write(tmp_path / "c", 0, "C")
    [mine, other] = find_methods([f"mine={tmp_path}/a_*", f"{tmp_path}/c"])
    assert (mine.label, mine.seeds, mine.differing_keys) == ("mine", (0, 1), ("MODEL.HEAD",))
    assert (other.label, other.differing_keys) == ("c", ())


def test_a_folder_may_have_the_form_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lr=0.1", 0)
    assert found("lr=0.1") == [("lr=0.1", (0,))]


def test_runs_without_a_config_are_of_nothing_known(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, 0)
        report = tmp_path / name / "inference" / "toy_val" / "sem_seg_evaluation.json"
        text = report.read_text()
        start = text.index('"config": "') + len('"config": "')
        report.write_text(text[:start] + text[text.index('", "seed"', start) :])
    assert found(tmp_path) == [("a", (-1,)), ("b", (-1,))]


def test_wrong_arguments(tmp_path):
    write(tmp_path / "a", 0)
    # Above it and itself: once.
    assert found(tmp_path, tmp_path / "a") == [("a", (0,))]
    with raises_naming(ValueError, str(tmp_path / "a"), "mine"):
        find_methods([str(tmp_path / "a"), f"mine={tmp_path}"])
    with raises_naming(ValueError, "=a", "NAME=FOLDER"):
        find_methods(["=a"])
    with raises_naming(FileNotFoundError, "gone"):
        find_methods([f"mine={tmp_path}/gone"])
    with pytest.raises(ValueError):
        find_methods([])
