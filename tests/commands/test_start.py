# SPDX-License-Identifier: Apache-2.0
"""Parse first, import later: what a command loads before it works, and what its parser repeats."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import subprocess
import sys

import pytest
from detectron2.engine import default_argument_parser

from longtail.commands import all_commands, generate, prepare, train
from longtail.data.datasets.digit_scenes import NAME as DIGIT_SCENES
from longtail.data.datasets.lvis import HUED, SYNTHETIC
from longtail.data.datasets.synthetic import LT_NAME, NAME
from longtail.data.prepare import NAMES, RECIPES
from longtail.data.synthetic import (
    LVIS_CONFIG,
    ClassificationConfig,
    DigitScenesConfig,
    HuedConfig,
    SyntheticConfig,
)

# Of each call: what it prints, its exit code, and the packages of others that were loaded by then.
PROGRAM = """
import contextlib, io, json, sys
before = set(sys.modules)
from longtail.commands import main

done = {}
for call in json.load(sys.stdin):
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(call.split())
        except SystemExit as end:
            code = end.code
    packages = {name.partition(".")[0] for name in set(sys.modules) - before}
    done[call] = [printed.getvalue(), code, sorted(packages - set(sys.stdlib_module_names))]
print(json.dumps(done))
"""
COMMANDS = sorted(all_commands())
ANALYSES = ("gain", "correlation", "confusion", "calibration", "bound", "frequencies", "iou")
HELP = [
    *(f"{name} --help" for name in COMMANDS),
    *(f"analyze {name} --help" for name in ANALYSES),
    *("generate --lvis --help", "generate --classification --help"),
    *("generate --digits --help", "generate --hued --help"),
]
WRONG = [
    *(f"{name} --no-such-option" for name in COMMANDS),
    *("compare", "export --weights model.pth", "prepare ade99", "table --seeds none", "analyze"),
]


@pytest.fixture(scope="module")
def answers() -> dict[str, list]:
    calls = ["--version", "--help", *HELP, *WRONG, "no-such-command"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(calls), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_answers_load_no_package_of_others(answers):
    own = {"longtail", "disalign", "region_rebalance"}
    assert {
        call: extra for call, (*_, loaded) in answers.items() if (extra := {*loaded} - own)
    } == {}
    # The projects' commands are among them.
    assert {*answers["no-such-command"][2]} == own


def test_answers(answers):
    assert answers["--help"][0].startswith("usage: longtail NAME ...")
    for call in HELP:
        text, code, _ = answers[call]
        name = call.removesuffix(" --help").partition(" --")[0]
        assert code == 0 and text.startswith(f"usage: longtail {name} "), call
    for call in WRONG:
        text, code, _ = answers[call]
        assert code == 2 and f"longtail {call.split()[0]}" in text.splitlines()[-1], call
    assert "no command 'no-such-command'" in answers["no-such-command"][1]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_functions_import_is_there(name):
    """No parser has tried it."""
    module = importlib.import_module(all_commands()[name].module)
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            source = importlib.import_module(node.module)
            assert [a.name for a in node.names if not hasattr(source, a.name)] == []


# --- what parsers say without importing it ---


def options(parser: argparse.ArgumentParser) -> dict[str, tuple]:
    return {
        action.dest: (
            type(action),
            action.option_strings,
            action.default,
            action.const,
            action.type,
            action.nargs,
            action.choices,
            action.required,
        )
        for action in parser._actions
    }


def test_options_of_training_are_those_of_detectron2():
    own = options(train.build_parser())
    assert own.pop("overwrite")[1] == ["--overwrite"]
    assert own.pop("imports")[1] == ["--import"]
    expected = options(default_argument_parser())
    assert own == expected and list(own) == list(expected)
    # KEY VALUE pairs may begin with dashes: nothing of ours comes after them.
    last = train.build_parser()._actions[-1]
    assert last.dest == "opts" and last.nargs == argparse.REMAINDER


def test_data_sets_that_can_be_prepared():
    (names,) = (a.choices for a in prepare.build_parser()._actions if a.dest == "name")
    assert names == NAMES
    sources = {recipe.name: f"{recipe.source}, {recipe.archive}" for recipe in RECIPES.values()}
    assert sources == prepare.SOURCES


@pytest.mark.parametrize(
    ("own", "name", "config"),
    [(generate.SEM_SEG, NAME, SyntheticConfig()), (generate.LVIS, SYNTHETIC, LVIS_CONFIG)],
    ids=["sem_seg", "lvis"],
)
def test_defaults_of_generated_scenes(own, name, config):
    values = dataclasses.asdict(own)
    # What the library has no default for.
    del values["num_train"], values["num_val"]
    assert values == {
        "name": name,
        "size": config.image_size[0],
        "classes": config.num_classes,
        "stuff": config.num_stuff,
        "region_imbalance": config.region_imbalance,
        "pixel_imbalance": config.pixel_imbalance,
    }
    assert config.image_size[0] == config.image_size[1] and config.seed == 0


def test_defaults_of_scenes_with_hues():
    config = HuedConfig()
    values = dataclasses.asdict(generate.HUED)
    del values["num_train"], values["num_val"]
    assert values == {
        "name": HUED,
        "size": config.image_size[0],
        "classes": config.num_categories,
        "imbalance": config.imbalance,
    }
    assert config.image_size[0] == config.image_size[1] and config.seed == 0


def test_defaults_of_scenes_of_digits():
    config = DigitScenesConfig()
    assert dataclasses.asdict(generate.DIGITS) == {
        "name": DIGIT_SCENES,
        "images": config.num_train,
        "imbalance": config.imbalance,
    }
    assert config.seed == 0


def test_defaults_of_generated_images():
    config = ClassificationConfig()
    assert dataclasses.asdict(generate.CLASSIFICATION) == {
        "name": LT_NAME,
        "classes": config.num_classes,
        "images": config.max_images,
        "imbalance": config.imbalance,
    }
    assert config.seed == 0
