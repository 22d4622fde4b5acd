"""Commands, one a module: ``longtail NAME ...`` runs ``main`` of the module NAME.

A module's docstring opens with the line that the overview shows. Projects add commands of their
own, see :class:`longtail.config.Project`. Nothing is imported here before a command is chosen, so
that ``longtail install-detectron2`` runs where nothing else does.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

NEEDS_NOTHING = "install-detectron2"


def command_modules() -> dict[str, str]:
    """The module of every command, by the command's name."""
    own = (path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    modules = {name.replace("_", "-"): f"{__name__}.{name}" for name in own}
    if importlib.util.find_spec("detectron2") is not None:
        from longtail.config import installed_projects

        for project in installed_projects():
            modules.update(project.commands)
    return dict(sorted(modules.items()))


def summary(module: str) -> str:
    """Return the first line of a module's docstring, without importing the module itself."""
    source = importlib.util.find_spec(module).origin
    text = ast.get_docstring(ast.parse(Path(source).read_text(encoding="utf-8")))
    return text.splitlines()[0].removesuffix(".")


def overview() -> str:
    """Describe the program and list the commands."""
    modules = command_modules()
    width = max(map(len, modules))
    lines = [f"  {name:<{width}}  {summary(module)}" for name, module in modules.items()]
    return "\n".join(
        ["usage: longtail NAME ...", "", *lines, "", "longtail NAME --help tells more."]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the others.

    Args:
        arguments: of the command line, by default those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    if arguments[0] == "--version":
        import longtail

        print(longtail.__version__)
        return
    name, *rest = arguments
    if name != NEEDS_NOTHING and importlib.util.find_spec("detectron2") is None:
        raise SystemExit(
            f"error: detectron2 is not installed for {sys.executable}: run "
            f"'longtail {NEEDS_NOTHING}', or activate the environment that has it"
        )
    modules = command_modules()
    if name not in modules:
        raise SystemExit(f"error: no command {name!r}, expected one of {', '.join(modules)}")
    importlib.import_module(modules[name]).main(rest)
