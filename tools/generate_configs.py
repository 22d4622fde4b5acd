# SPDX-License-Identifier: Apache-2.0
"""Write the leaves of configs/ and configs/README.md from the papers' tables.

    python tools/generate_configs.py
    python tools/generate_configs.py --check    # write nothing; exit 1 if a file differs

A leaf is a config that can be run: bases, which are written by hand, and a method. To add one:

1. Give it a line in configs/tables/leaves.csv: its path, its bases, its method, notes of notes.csv,
   and a title if no table prints it.
2. If a table prints it, name it in the table's line: configs/tables/NAME.csv. A new table has a
   line in tables.csv.
3. If its method is new, say in tools/config_settings.yaml what it adds to a base.
4. Run this command, and commit what it writes.

What was measured goes into measured_*.csv, with its source.
"""

import argparse
import itertools
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from longtail.config import tables
from longtail.config.tables import Leaf
from longtail.utils.io import atomic_write

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SETTINGS = Path(__file__).with_name("config_settings.yaml")
INTRODUCTION = Path(__file__).with_name("config_index.md")
STAGES = {"second_stage": "Stage 2", "post_hoc": "Post hoc"}
# What the index shows of a row.
MAIN = ("mIoU", "mIoU (m.s.)", "box AP", "mask AP", "average", "many", "medium", "few")
NO_BREAK = "\u00a0"


def merge(first: dict, second: dict) -> dict:
    """Return nested dicts as one; the second's values win."""
    merged = dict(first)
    for key, value in second.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def lookup(values: dict, key: str, where: str) -> Any:
    """Return ``values[key]``.

    Raises:
        ValueError: there is none; ``where`` says what was looked at, and for whom.
    """
    if key not in values:
        raise ValueError(f"{where} lacks {key!r}, expected one of {', '.join(values)}")
    return values[key]


def to_yaml(settings: dict, indent: str = "") -> str:
    """Write nested settings as YAML, lists in one line."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{key}:\n{to_yaml(value, indent + '  ')}")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]
            lines.append(f"{indent}{key}: {value if isinstance(value, bool) else text}\n")
    return "".join(lines)


def format_metrics(metrics: dict[str, Any]) -> str:
    """Write metrics as ``mIoU 43.95, mIoU (m.s.) 44.93``, to be broken at commas alone."""
    texts = (f"{metric} {value}".replace(" ", NO_BREAK) for metric, value in metrics.items())
    return ", ".join(texts)


def as_comment(lines: Sequence[str]) -> str:
    """Write lines as a YAML comment; long ones are broken and keep their indentation."""
    wrapped = []
    for line in lines:
        indent = "  " if line.startswith("  ") else ""
        options = {"break_long_words": False, "break_on_hyphens": False}
        wrapped += textwrap.wrap(line, 98, subsequent_indent=indent, **options)
    return "".join(f"# {line}\n".replace(NO_BREAK, " ") for line in wrapped)


class Configs:
    """All leaves, and what they are made of.

    Args:
        folder: ``configs``, with ``tables`` and the bases that are written by hand.

    Raises:
        ValueError: the tables are not of the form that they should be.
    """

    def __init__(self, folder: Path) -> None:
        """Read the tables, the notes and the settings of ``folder``."""
        self.folder = folder
        self.leaves = tables.read_leaves(folder / "tables")
        self.rows = tables.rows_of(self.leaves, tables.read_tables(folder / "tables"))
        self.notes = tables.read_notes(folder / "tables")
        self.settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
        self._resolved: dict[str, dict] = {}

    def resolve(self, name: str) -> dict:
        """Return all settings of a config, with those of its bases."""
        if name not in self._resolved:
            if name in self.leaves:
                own, bases = self.added(self.leaves[name]), self.leaves[name].bases
            else:
                own = yaml.safe_load((self.folder / name).read_text(encoding="utf-8"))
                bases = own.pop("_BASE_", [])
                bases = [bases] if isinstance(bases, str) else bases
            self._resolved[name] = merge(self.inherited(name, bases), own)
        return self._resolved[name]

    def inherited(self, name: str, bases: Sequence[str]) -> dict:
        """Return the settings of a config's bases, of which the later win."""
        settings: dict = {}
        for base in bases:
            settings = merge(settings, self.resolve(base_path(name, base)))
        return settings

    def folder_of(self, leaf: Leaf) -> dict:
        """Return the settings of a leaf's first folder."""
        where = f"{leaf.config}: 'folders' of {SETTINGS.name}"
        return lookup(self.settings["folders"], leaf.config.split("/")[0], where)

    def method_of(self, leaf: Leaf) -> tuple[str, dict]:
        """Return the stage of a leaf's method, such as ``second_stage``, and what it adds."""
        task = self.folder_of(leaf)["task"]
        stages = self.settings[task]
        methods = {method: stage for stage, of_stage in stages.items() for method in of_stage}
        if not leaf.method:
            return "first_stage", {}
        stage = lookup(methods, leaf.method, f"{leaf.config}: {task!r} of {SETTINGS.name}")
        return stage, stages[stage][leaf.method]

    def added(self, leaf: Leaf) -> dict:
        """Return what a leaf adds to its bases: method, second stage, its own, output folder."""
        stage, settings = self.method_of(leaf)
        if stage == "second_stage":
            for start, more in self.settings["second_stages"].items():
                settings = merge(settings, more if leaf.config.startswith(start) else {})
        settings = merge(settings, self.settings["leaves"].get(leaf.config, {}))
        folder, _, name = leaf.config.removesuffix(".yaml").partition("/")
        output = self.folder_of(leaf).get("output", f"output/{folder}")
        output_dir = settings.pop("OUTPUT_DIR", f"{output}/{name}")
        bases = self.inherited(leaf.config, leaf.bases)
        return {**fill(settings, bases, leaf.config), "OUTPUT_DIR": output_dir}

    def first_of(self, leaf: Leaf) -> tuple[str, str] | None:
        """Return the stage that a leaf adds to another, and that leaf; None for a first stage."""
        base = self.leaves.get(base_path(leaf.config, leaf.bases[0]))
        stage, _ = self.method_of(leaf)
        if stage in STAGES:
            return STAGES[stage], base.config
        return self.first_of(base) if base else None

    def header(self, leaf: Leaf) -> str:
        """Return the comment at the head of a leaf: its rows, their metrics, its command."""
        lines, rows = [], self.rows[leaf.config]
        for table, row in rows:
            lines.append(f"{table.paper}, {table.number} ({table.subject}): {row.label}.")
            lines.append(f"  {format_metrics(row.metrics) or 'No number is printed'}.")
        if not rows:
            lines.append(f"{leaf.title}. In neither paper.")
        if any("(m.s.)" in metric for _, row in rows for metric in row.metrics):
            lines.append("(m.s.): multi-scale, with TEST.AUG.ENABLED True.")
        first = self.first_of(leaf)
        if first:
            lines.append(f"{first[0]}, after {Path(first[1]).name}.")
        lines += [lookup(self.notes, note, f"{leaf.config}: notes.csv") for note in leaf.notes]
        measured = f"{format_metrics(leaf.measured)} ({leaf.source})" if leaf.source else "not yet"
        options = " --eval-only" if self.method_of(leaf)[0] == "post_hoc" else ""
        options += f" --num-gpus {gpus}" if (gpus := self.folder_of(leaf).get("gpus")) else ""
        command = f"#   longtail train --config-file {leaf.config}{options}\n"
        return as_comment([*lines, f"Measured here: {measured}."]) + command

    def text(self, leaf: Leaf) -> str:
        """Return the text of a leaf."""
        bases = leaf.bases[0] if len(leaf.bases) == 1 else f"[{', '.join(leaf.bases)}]"
        return f"{self.header(leaf)}_BASE_: {bases}\n{to_yaml(self.added(leaf))}"

    def index(self) -> str:
        """Return the text of configs/README.md."""
        parts = [INTRODUCTION.read_text(encoding="utf-8"), "\n## Notes\n\n| note | |\n|---|---|\n"]
        parts += [f"| {note} | {text} |\n" for note, text in self.notes.items()]
        leaves = self.leaves.values()
        for folder, group in itertools.groupby(leaves, lambda leaf: os.path.dirname(leaf.config)):
            parts.append(f"\n## {folder}\n\n")
            parts.append("| config | printed in | published | measured here | notes |\n")
            parts.append("|---|---|---|---|---|\n")
            parts += [self._index_line(leaf) for leaf in group]
        return "".join(parts)

    def _index_line(self, leaf: Leaf) -> str:
        printed, published = [], []
        for paper in dict.fromkeys(table.paper for table, _ in self.rows[leaf.config]):
            own = [(t.number, row.metrics) for t, row in self.rows[leaf.config] if t.paper == paper]
            printed.append(f"{paper}: {', '.join(dict.fromkeys(number for number, _ in own))}")
            # Of several tables the first one's.
            metrics = {key: value for _, row in reversed(own) for key, value in row.items()}
            published.append(" / ".join(str(metrics[m]) for m in MAIN if m in metrics) or "a plot")
        measured = " / ".join(str(leaf.measured[m]) for m in MAIN if m in leaf.measured)
        cells = [
            f"[`{Path(leaf.config).stem}`]({leaf.config})",
            "; ".join(printed) or f"in neither paper; {leaf.title}",
            "; ".join(published),
            f"{measured} ({leaf.source})" if measured else "",
            ", ".join(leaf.notes),
        ]
        return f"| {' | '.join(cells)} |\n"


def base_path(name: str, base: str) -> str:
    """Return the path below ``configs`` of a base that a config names relative to itself."""
    return os.path.normpath(os.path.join(os.path.dirname(name), base)).replace(os.sep, "/")


def fill(value: Any, bases: dict, name: str) -> Any:
    """Replace each ``{KEY}`` in settings by the value that KEY has in the bases."""
    if isinstance(value, dict):
        return {key: fill(item, bases, name) for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def found(match: re.Match) -> str:
        node: Any = bases
        for key in match[1].split("."):
            node = lookup(node, key, f"{name}: a base, for {match[0]},")
        return node

    return re.sub(r"\{([A-Z_.]+)\}", found, value)


def generate(folder: Path) -> dict[Path, str]:
    """Return the text of every generated file by its path.

    Args:
        folder: the folder ``configs``.

    Raises:
        ValueError: the data do not fit together, or a config of the tree is not among them.
    """
    configs = Configs(folder)
    texts = {folder / name: configs.text(leaf) for name, leaf in configs.leaves.items()}
    others = set(folder.glob("*/**/*.yaml")) - set(folder.glob("models/*")) - texts.keys()
    strays = sorted(path for path in others if not path.name.startswith("Base-"))
    if strays:
        raise ValueError(f"{strays[0]}: is in no line of leaves.csv; add one, or delete it")
    return {**texts, folder / "README.md": configs.index()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS, metavar="DIR", help="the folder configs"
    )
    options = parser.parse_args(arguments)
    try:
        texts = generate(options.configs)
        differing = [
            path
            for path, text in texts.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text
        ]
        if options.check and differing:
            raise ValueError(
                f"{len(differing)} files differ from configs/tables, the first is {differing[0]}: "
                "run python tools/generate_configs.py"
            )
        for path in differing:
            with atomic_write(path) as file:
                file.write(texts[path])
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
