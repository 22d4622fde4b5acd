# SPDX-License-Identifier: Apache-2.0
"""The commands of projects, the parser of a command, and running one command from another."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

# The entry-point group of commands.
GROUP = "longtail.commands"
ANALYSIS_OUTPUT = "output/analysis"


def project_commands() -> list[EntryPoint]:
    """The commands of the installed projects, in the order of their names; none is imported."""
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def command_parser(
    name: str, doc: str, formatter: type = argparse.RawDescriptionHelpFormatter
) -> argparse.ArgumentParser:
    """The parser of a command, without arguments yet.

    Args:
        name: of the command, for the usage line.
        doc: docstring of the command's module, which becomes the description as it stands.
        formatter: of the help text; it must leave the lines of the description alone.
    """
    return argparse.ArgumentParser(
        prog=f"longtail {name}", description=doc, formatter_class=formatter
    )


def add_config_arguments(parser: argparse.ArgumentParser, what: str = "the model") -> None:
    """Add ``--config-file``, and ``KEY VALUE`` pairs as the last arguments.

    Args:
        parser: of a command.
        what: whose config it is, in the help text.
    """
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help=f"config of {what}: a file, or the name of a packaged one",
    )
    add_import_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="replaced config values")


def add_import_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--import``, modules of one's own that a config may need.

    Args:
        parser: of a command that reads a config, or a group of its arguments.
    """
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module of this folder, or an installed one, that registers heads, losses, "
        "backbones or mappers; may be repeated",
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``, files that declare data sets.

    Args:
        parser: of a command that takes the name of a data set.
    """
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML file that declares data sets of your own (docs/own_data.md); may be repeated",
    )


def add_analysis_arguments(parser: argparse.ArgumentParser, *, of_runs: bool = True) -> None:
    """Add ``--output``, where an analysis writes, and ``--dataset``, the test set of its runs.

    Args:
        parser: of a command.
        of_runs: whether it analyses runs.
    """
    if of_runs:
        _add_dataset(parser)
    parser.add_argument(
        "--output",
        default=ANALYSIS_OUTPUT,
        metavar="DIR",
        help=f"folder of the files (default: {ANALYSIS_OUTPUT})",
    )


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs to compare, see :func:`~longtail.analysis.methods.find_methods`.

    Args:
        parser: of a command.
    """
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, or above several; NAME=FOLDER makes all runs there the method NAME",
    )
    _add_dataset(parser)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        default="",
        metavar="NAME",
        help="the test set (default: the first that all runs were tested on)",
    )


def check_output_folder(path: str | os.PathLike) -> None:
    """Refuse an ``--output`` that can be no folder, before any work is done.

    Raises:
        ValueError: it is a file.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"--output {path} is a file: name a folder")


def check_output_file(path: str | os.PathLike) -> None:
    """Refuse an ``--output`` that can be no file, before any work is done.

    Raises:
        ValueError: it is a folder, a device or a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"--output {path} is a folder, or no regular file: name a file")


def run_command(
    name: str, options: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Print ``longtail NAME OPTIONS`` and run it in a process of its own.

    Args:
        name: of the command.
        options: its arguments.
        environment: of the process; by default this one's.

    Raises:
        SystemExit: the command has failed, and has said why.
    """
    print(f"\n$ longtail {shlex.join([name, *options])}", flush=True)
    command = [sys.executable, "-m", "longtail", name, *options]
    code = subprocess.run(command, env=environment).returncode
    if code:
        raise SystemExit(f"error: longtail {name} ended with exit code {code}, see above")
