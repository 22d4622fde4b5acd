# SPDX-License-Identifier: Apache-2.0
"""Commands have the same form, and the program finds them by their names."""

import importlib
from importlib.metadata import EntryPoint

import pytest

from longtail import commands

NAMES = sorted(commands.all_commands())


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_the_same_form(name, capsys):
    """A parser by its name that opens with the docstring's line, and main(arguments)."""
    command = commands.all_commands()[name]
    module = importlib.import_module(command.module)
    assert command.load() is module.main
    summary = commands.summary(command)
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
    own, found = commands.own_commands(), commands.all_commands()
    assert own["class-statistics"].value == "longtail.commands.class_statistics:main"
    assert found["quickstart"].value == "region_rebalance.commands.quickstart:main"


def install(monkeypatch, **values: str) -> None:
    """Projects have these commands alone."""
    points = [EntryPoint(name, value, "longtail.commands") for name, value in values.items()]
    monkeypatch.setattr(commands, "project_commands", lambda: points)


def one_line(*arguments: str) -> str:
    with pytest.raises(SystemExit) as info:
        commands.main(arguments)
    assert "\n" not in info.value.code
    return info.value.code


@pytest.mark.parametrize("value", ["mine", "mine.no.such", "longtail.commands.train.part"])
def test_a_module_that_is_not_there(value, monkeypatch):
    install(monkeypatch, extra=f"{value}:main")
    start = f"error: the command extra ({value}:main) cannot be imported: "
    assert one_line("--help").startswith(f"{start}there is no module {value}; repair or uninstall")
    assert one_line("extra").startswith(start)


def test_a_function_that_is_not_there(monkeypatch):
    install(monkeypatch, extra="longtail.commands.train:other")
    assert one_line("extra").startswith(
        "error: the command extra (longtail.commands.train:other) cannot be imported: "
    )


def test_a_name_that_is_taken(monkeypatch, capsys):
    install(monkeypatch, train="mine.train:main")
    assert (
        "mine.train:main adds the command train, which longtail.commands.train:main is already"
        in one_line()
    )
    # The command itself runs all the same.
    with pytest.raises(SystemExit) as info:
        commands.main(["train", "--help"])
    assert info.value.code == 0


def test_a_command_that_does_not_exist(monkeypatch):
    install(monkeypatch)
    with pytest.raises(SystemExit) as info:
        commands.main(["quickstart"])
    assert info.value.code.startswith(
        "error: no command 'quickstart', expected one of analyze, browse, ca"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_overview_lists_every_command(arguments, capsys):
    commands.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == NAMES
