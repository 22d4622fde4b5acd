# SPDX-License-Identifier: Apache-2.0
"""Commands, one a module: ``longtail NAME ...`` runs ``main`` of the module NAME.

A module's docstring opens with the line that the overview shows. Projects add commands of their
own, see :class:`longtail.config.Project`. Nothing is imported here before a command is chosen, so
that ``longtail install-detectron2`` runs where nothing else does.
"""

import ast
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import longtail
from longtail.utils.errors import ending_in_one_line

# The one command that does without detectron2.
INSTALL = "install-detectron2"


def own_commands() -> dict[str, str]:
    """The module of every command of this package, by the command's name."""
    names = (path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return {name.replace("_", "-"): f"{__name__}.{name}" for name in names}


def all_commands() -> dict[str, str]:
    """The module of every command of this package and of the installed projects, by its name.

    Raises:
        ValueError: a project cannot be imported, or two commands have the same name.
    """
    from longtail.config import installed_projects

    modules = own_commands()
    for project in installed_projects():
        for name in modules.keys() & project.commands:
            raise ValueError(
                f"the project {project.name} adds the command {name}, which {modules[name]} is "
                "already: rename or uninstall one of them"
            )
        modules.update(project.commands)
    return modules


def summary(module: str) -> str:
    """Return the first line of a module's docstring, without importing the module itself."""
    source = importlib.util.find_spec(module).origin
    text = ast.get_docstring(ast.parse(Path(source).read_text(encoding="utf-8")))
    return text.splitlines()[0].removesuffix(".")


def overview(modules: dict[str, str]) -> str:
    """Describe the program and list the commands.

    Args:
        modules: the module of every command, by the command's name.
    """
    width = max(map(len, modules))
    lines = [f"  {name:<{width}}  {summary(modules[name])}" for name in sorted(modules)]
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
    modules = own_commands()
    if name == "--version":
        print(longtail.__version__)
        return
    if name in ("-h", "--help"):
        if importlib.util.find_spec("detectron2") is not None:
            modules = all_commands()
        print(overview(modules), flush=True)
        require_detectron2()
        return
    if name != INSTALL:
        require_detectron2()
    if name not in modules:
        modules = all_commands()
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no command {name!r}, {hint}expected one of {', '.join(sorted(modules))}")
    importlib.import_module(modules[name]).main(rest)
