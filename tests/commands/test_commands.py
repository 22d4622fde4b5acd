# SPDX-License-Identifier: Apache-2.0
"""Commands have the same form, and the program finds them by their names."""

import importlib

import pytest

import longtail.config
from longtail import commands
from longtail.config import Project

NAMES = sorted(commands.all_commands())


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_the_same_form(name, capsys):
    """A parser by its name that opens with the docstring's line, and main(arguments)."""
    module = importlib.import_module(commands.all_commands()[name])
    summary = commands.summary(module.__name__)
    assert module.__doc__.startswith(f"{summary}.\n") and summary[0].isupper()
    parser = module.build_parser()
    assert parser.prog == f"longtail {name}"
    assert parser.description.startswith(summary)
    with pytest.raises(SystemExit) as info:
        commands.main([name, "--help"])
    assert info.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: longtail {name} ")
    with pytest.raises(SystemExit) as info:
        module.main(["--no-such-option"])
    assert info.value.code == 2
    # Every option says what it is for.
    assert all(action.help for action in parser._actions)


def test_modules_of_commands_are_found_by_their_names():
    assert commands.own_commands()["class-statistics"] == "longtail.commands.class_statistics"
    assert commands.all_commands()["quickstart"] == "region_rebalance.commands.quickstart"


def install(monkeypatch, *projects: Project) -> None:
    monkeypatch.setattr(longtail.config, "installed_projects", lambda: projects)


def test_a_name_that_is_taken(monkeypatch, capsys):
    mine = Project("Mine", lambda cfg: None, commands={"train": "mine.train"})
    install(monkeypatch, mine)
    with pytest.raises(SystemExit) as info:
        commands.main([])
    assert "Mine adds the command train, which longtail.commands.train" in info.value.code
    # The command itself runs all the same.
    with pytest.raises(SystemExit) as info:
        commands.main(["train", "--help"])
    assert info.value.code == 0


def test_a_command_that_does_not_exist(monkeypatch):
    install(monkeypatch)
    with pytest.raises(SystemExit) as info:
        commands.main(["quickstart"])
    assert info.value.code.startswith(
        "error: no command 'quickstart', expected one of analyze, browse, ch"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_overview_lists_every_command(arguments, capsys):
    commands.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == NAMES
