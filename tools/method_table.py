# SPDX-License-Identifier: Apache-2.0
"""Write the table of all methods into docs/methods.md.

    python tools/method_table.py
    python tools/method_table.py --check    # write nothing; exit 1 if the page differs

Names, tasks and keys are those of ``longtail methods``, differences those of
benchmarks/results/method_parity.json, and sources those of tools/method_sources.yaml. A new method
needs a line there and a comparison in benchmarks/method_parity.py.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from longtail.config import Method
from longtail.engine.methods import FIRST_STAGE, all_methods
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
PARITY = ROOT / "benchmarks" / "results" / "method_parity.json"
SOURCES = Path(__file__).with_name("method_sources.yaml")
BEGIN, END = "<!-- begin: tools/method_table.py -->", "<!-- end: tools/method_table.py -->"
HEADER = ("name", "tasks", "key", "source", "exactness")
LETTERS = {"images": "I", "pixels": "P", "boxes": "B"}
TITLES = {
    "loss": "losses",
    "sampler": "samplers",
    "training branch": "training branches",
    "post hoc": "post hoc",
    "second stage": "second stages",
}
# Said in the text above the table.
ASSUMED = ("transcription", "")
SUFFIXES = (f", {FIRST_STAGE}", ", with --eval-only")


def key_cell(methods: Sequence[Method]) -> str:
    """The keys of one method on its tasks: of losses their last parts, which tell the task."""
    settings = {}
    for method in methods:
        text = method.settings
        for suffix in SUFFIXES:
            text = text.removesuffix(suffix)
        settings.setdefault(text, []).append(LETTERS[method.task])
    parts = [text.removeprefix("MODEL.").split(", ") for text in settings]
    if all(len(part) == 1 and part[0].endswith(f" {methods[0].name}") for part in parts):
        keys = [part[0].split()[0] for part in parts]
        if methods[0].kind == "loss":
            keys = [key.rpartition(".")[2] for key in keys]
        return " ".join(f"`{key}`" for key in keys)
    cells = []
    for part, letters in zip(parts, settings.values(), strict=True):
        text = ", ".join(f"`{key.removeprefix('MODEL.')}`" for key in part)
        cells.append(text if len(parts) == 1 else f"{' '.join(letters)} {text}")
    return "; ".join(cells)


def exactness_cell(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Largest differences of values and of gradients, by what they are compared with."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in comparisons:
        groups.setdefault((row["against"], row["limit"]), []).append(row)
    cells = []
    for labels, rows in groups.items():
        figures = [max(row["value"] for row in rows)]
        figures += [max(row["gradient"] for row in rows)] if rows[0]["gradient"] is not None else []
        text = ", ".join("0" if figure == 0 else f"{figure:.0e}" for figure in figures)
        said = [label for label in labels if label not in ASSUMED]
        letters = [LETTERS[row["task"]] for row in rows] if len(groups) > 1 else []
        cells.append(" ".join([*letters, text, *([f"({', '.join(said)})"] if said else [])]))
    return "; ".join(cells)


def table(
    methods: Iterable[Method],
    comparisons: Sequence[Mapping[str, Any]],
    sources: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """The lines of the table.

    Args:
        methods: all, by kind.
        comparisons: of the JSON file.
        sources: by kind and name.

    Raises:
        ValueError: a method has no source, or was not compared on one of its tasks; or one of
            either that is no method.
    """
    by_name: dict[tuple[str, str], list[Method]] = {}
    for method in methods:
        by_name.setdefault((method.kind, method.name), []).append(method)
    listed = {(kind, name): text for kind, names in sources.items() for name, text in names.items()}
    measured = {(row["kind"], row["method"], row["task"]): row for row in comparisons}
    expected = {(*pair, method.task) for pair, found in by_name.items() for method in found}
    for what, one, other in (
        (SOURCES.name, listed.keys(), by_name.keys()),
        (f"{PARITY.name}, which benchmarks/method_parity.py writes,", measured.keys(), expected),
    ):
        for text, names in (("lacks", other - one), ("has, and no method is,", one - other)):
            if names:
                raise ValueError(f"{what} {text} {', '.join(map(' '.join, sorted(names)))}")
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    for kind, pairs in itertools.groupby(by_name, lambda pair: pair[0]):
        lines.append(f"| **{TITLES[kind]}** | | | | |")
        for pair in pairs:
            found = by_name[pair]
            # A task may have several models.
            tasks = list(dict.fromkeys(method.task for method in found))
            cells = [
                f"`{pair[1]}`" if " " in key_of(found[0]) else pair[1],
                " ".join(LETTERS[task] for task in tasks),
                key_cell(found),
                listed[pair],
                exactness_cell([measured[(*pair, task)] for task in tasks]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def key_of(method: Method) -> str:
    """The first key and value of a method that its name is; empty for one named as in papers."""
    first = method.settings.split(", ")[0]
    return first if first.endswith(f" {method.name}") else ""


def page(text: str, lines: Sequence[str]) -> str:
    """A page with the lines between its two markers.

    Raises:
        ValueError: it does not have each of them once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{PAGE.name} must have the lines {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    return "\n".join([before + BEGIN, "", *lines, "", END + rest.split(END)[1]])


def generate() -> str:
    """What docs/methods.md should be.

    Raises:
        ValueError: see :func:`table` and :func:`page`.
    """
    comparisons = json.loads(PARITY.read_text(encoding="utf-8"))["figures"]["comparisons"]
    sources = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
    return page(PAGE.read_text(encoding="utf-8"), table(all_methods(), comparisons, sources))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    options = parser.parse_args(arguments)
    with ending_in_one_line():
        expected = generate()
        if not options.check:
            with atomic_write(PAGE) as file:
                file.write(expected)
        elif expected != PAGE.read_text(encoding="utf-8"):
            raise ValueError("docs/methods.md differs: run python tools/method_table.py")


if __name__ == "__main__":
    main()
