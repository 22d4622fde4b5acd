# SPDX-License-Identifier: Apache-2.0
"""Commands, one a module: ``longtail NAME ...`` runs ``main`` of the module NAME.

A module's docstring opens with the line that the overview shows. Parse first, import later: at its
head a command imports no more than its parser needs, the standard library and the light modules of
longtail; its functions import what they work with. So help and a wrong option are answered at once,
and ``longtail install-detectron2`` runs where nothing else does.

A project adds commands as entry points of the group ``longtail.commands``, functions that take the
arguments::

    entry_points={"longtail.commands": ["mine = mine.commands.mine:main"]}

The command's module follows the same rule, and so do the ``__init__`` of the packages it is in.
"""

import ast
import difflib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint
from pathlib import Path

import longtail
from longtail.utils.command_line import GROUP, project_commands
from longtail.utils.errors import ending_in_one_line

# The one command that does without detectron2.
INSTALL = "install-detectron2"


def own_commands() -> dict[str, EntryPoint]:
    """Every command of this package, by its name."""
    modules = (path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    names = {module.replace("_", "-"): module for module in modules}
    return {n: EntryPoint(n, f"{__name__}.{module}:main", GROUP) for n, module in names.items()}


def all_commands() -> dict[str, EntryPoint]:
    """Every command of this package and of the installed projects, by its name.

    Raises:
        ValueError: two commands have the same name.
    """
    commands = own_commands()
    for command in project_commands():
        name = command.name
        if name in commands:
            raise ValueError(
                f"{command.value} adds the command {name}, which {commands[name].value} is "
                "already: rename or uninstall one of them"
            )
        commands[name] = command
    return commands


def summary(command: EntryPoint) -> str:
    """Return the first line of the docstring of a command's module, which is not imported.

    Raises:
        ValueError: there is no such module.
    """
    package, *parts = command.module.split(".")
    spec = importlib.util.find_spec(package)
    for part in parts:
        # Of a dotted name, importlib.util.find_spec would import the packages.
        places = spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(f"{spec.name}.{part}", places) if places else None
    if spec is None:
        raise ValueError(_broken(command, f"there is no module {command.module}"))
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (text or "").partition("\n")[0].removesuffix(".")


def _broken(command: EntryPoint, why: str) -> str:
    return (
        f"the command {command.name} ({command.value}) cannot be imported: {why}; repair or "
        f"uninstall the package {command.module.partition('.')[0]}"
    )


def _load(command: EntryPoint) -> Callable[[Sequence[str]], None]:
    try:
        return command.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(_broken(command, str(error))) from error


def overview(commands: Mapping[str, EntryPoint]) -> str:
    """Describe the program and list the commands.

    Args:
        commands: by their names.
    """
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {summary(commands[name])}" for name in sorted(commands)]
    return "\n".join(
        ["usage: longtail NAME ...", "", *lines, "", "longtail NAME --help explains a command."]
    )


def require_detectron2() -> None:
    """End the program with one line where there is no detectron2."""
    if importlib.util.find_spec("detectron2") is None:
        raise SystemExit(
            f"error: detectron2 is not installed for {sys.executable}: run 'longtail {INSTALL}', "
            "or activate the environment that has it"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the others.

    Args:
        arguments: of the command line, by default those of the process.
    """
    # Before torch is imported, which reads it once. Threads that wait actively for each other take
    # the time of the very threads that they wait for where other programs run on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with ending_in_one_line():
        _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])


def _run(arguments: list[str]) -> None:
    name, *rest = arguments
    if name == "--version":
        print(longtail.__version__)
        return
    if name in ("-h", "--help"):
        print(overview(all_commands()), flush=True)
        require_detectron2()
        return
    if name != INSTALL:
        require_detectron2()
    commands = own_commands()
    if name not in commands:
        commands = all_commands()
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(sorted(commands))
        raise ValueError(f"no command {name!r}, {hint}expected one of {listed}")
    _load(commands[name])(rest)
