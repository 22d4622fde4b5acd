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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longtail.config.tables import Leaf, Row, Table, read_leaves, read_notes, read_tables
from longtail.utils.io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Path(__file__).with_name("config_settings.yaml")
INTRODUCTION = Path(__file__).with_name("config_index.md")
NO_BREAK = "\u00a0"
STAGES = {"second_stage": "Stage 2", "post_hoc": "Post hoc"}
# What the index shows of a row.
MAIN = ("mIoU", "mIoU (m.s.)", "box AP", "mask AP", "average", "many", "medium", "few")


@dataclass
class Configs:
    """What all leaves are made of.

    Attributes:
        folder: the folder ``configs``.
        settings: of ``config_settings.yaml``.
        leaves: by path below ``folder``.
        notes: sentences by name.
        rows: by config, the rows that it runs with their tables.
    """

    folder: Path
    settings: dict[str, Any]
    leaves: dict[str, Leaf]
    notes: dict[str, str]
    rows: dict[str, list[tuple[Table, Row]]]


def read_configs(folder: Path) -> Configs:
    """Read everything.

    Args:
        folder: ``configs``, with ``tables`` and the bases that are written by hand.

    Raises:
        ValueError: a table's row names a config that is no leaf.
    """
    tables = folder / "tables"
    leaves = read_leaves(tables)
    rows: dict[str, list[tuple[Table, Row]]] = {config: [] for config in leaves}
    for table in read_tables(tables).values():
        for row in table.rows:
            if row.config and row.config not in leaves:
                raise ValueError(
                    f"{table.name}.csv: leaves.csv lacks {row.config}, which {row.label!r} names"
                )
            if row.config:
                rows[row.config].append((table, row))
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    return Configs(folder, settings, leaves, read_notes(tables), rows)


def merge(first: dict, second: dict) -> dict:
    """Return nested dicts as one; the second's values win."""
    merged = dict(first)
    for key, value in second.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def base_of(leaf: Leaf, base: str) -> str:
    """Return the path of a base below ``configs``."""
    return os.path.normpath(Path(leaf.config).parent / base).replace(os.sep, "/")


def resolve(configs: Configs, name: str) -> dict:
    """Return all settings of a config, with those of its bases."""
    if name in configs.leaves:
        leaf = configs.leaves[name]
        return merge(_inherited(configs, leaf), leaf_settings(configs, leaf))
    own = yaml.safe_load((configs.folder / name).read_text(encoding="utf-8"))
    bases = own.pop("_BASE_", [])
    folder = os.path.dirname(name)
    settings: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        settings = merge(settings, resolve(configs, os.path.normpath(os.path.join(folder, base))))
    return merge(settings, own)


def _inherited(configs: Configs, leaf: Leaf) -> dict:
    settings: dict = {}
    for base in leaf.bases:
        settings = merge(settings, resolve(configs, base_of(leaf, base)))
    return settings


def stage_of(configs: Configs, leaf: Leaf) -> str:
    """Return ``first_stage``, ``second_stage`` or ``post_hoc``, that of the leaf's method.

    Raises:
        ValueError: the settings do not have its method.
    """
    task = configs.settings["folders"][leaf.config.split("/")[0]]["task"]
    if not leaf.method:
        return "first_stage"
    for stage, methods in configs.settings[task].items():
        if leaf.method in methods:
            return stage
    raise ValueError(f"{leaf.config}: {SETTINGS.name} lacks the method {leaf.method!r} of {task}")


def leaf_settings(configs: Configs, leaf: Leaf) -> dict:
    """Return what a leaf adds to its bases: method, second stage, its own, its output folder."""
    folder = configs.settings["folders"][leaf.config.split("/")[0]]
    stage = stage_of(configs, leaf)
    added = configs.settings[folder["task"]][stage][leaf.method] if leaf.method else {}
    if stage == "second_stage":
        for start, settings in configs.settings["second_stages"].items():
            added = merge(added, settings if leaf.config.startswith(start) else {})
    added = merge(added, configs.settings["leaves"].get(leaf.config, {}))
    name = leaf.config.removesuffix(".yaml")
    output = folder.get("output", f"output/{name.split('/')[0]}")
    default = f"{output}/{name.partition('/')[2]}"
    output_dir = added.pop("OUTPUT_DIR", default)
    return {**_fill(added, _inherited(configs, leaf)), "OUTPUT_DIR": output_dir}


def _fill(value: Any, inherited: dict) -> Any:
    """Replace each ``{KEY}`` by the value that KEY has in the bases."""
    if isinstance(value, dict):
        return {key: _fill(item, inherited) for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match) -> str:
        found: Any = inherited
        for key in match[1].split("."):
            found = found[key]
        return found

    return re.sub(r"\{([A-Z_.]+)\}", lookup, value)


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


def first_of(configs: Configs, leaf: Leaf) -> tuple[str, str] | None:
    """Return the stage that a leaf adds to another, and that leaf; None for a first stage."""
    base = configs.leaves.get(base_of(leaf, leaf.bases[0]))
    stage = stage_of(configs, leaf)
    if stage in STAGES:
        return STAGES[stage], base.config
    return first_of(configs, base) if base else None


def format_metrics(metrics: dict[str, Any]) -> str:
    """Write metrics as ``mIoU 43.95, mIoU (m.s.) 44.93``, to be broken at commas alone."""
    return ", ".join(f"{metric} {value}".replace(" ", NO_BREAK) for metric, value in metrics.items())


def header(configs: Configs, leaf: Leaf) -> str:
    """Return the comment at the head of a leaf: its rows, their metrics, its command."""
    lines = []
    rows = configs.rows[leaf.config]
    for table, row in rows:
        lines.append(f"{table.paper}, {table.number} ({table.subject}): {row.label}.")
        lines.append(f"  {format_metrics(row.metrics) or 'No number is printed'}.")
    if not rows:
        lines.append(f"{leaf.title}. In neither paper.")
    if any("(m.s.)" in metric for _, row in rows for metric in row.metrics):
        lines.append("(m.s.): multi-scale, with TEST.AUG.ENABLED True.")
    first = first_of(configs, leaf)
    if first:
        lines.append(f"{first[0]}, after {Path(first[1]).name}.")
    lines += [configs.notes[note] for note in leaf.notes]
    measured = f"{format_metrics(leaf.measured)} ({leaf.source})" if leaf.measured else "not yet"
    lines.append(f"Measured here: {measured}.")
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(
            line,
            width=98,
            subsequent_indent="  " if line.startswith("  ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
    wrapped.append(f"  {command(configs, leaf)}")
    return "".join(f"# {line}\n".replace(NO_BREAK, " ") for line in wrapped)


def command(configs: Configs, leaf: Leaf) -> str:
    """Return the command that runs a leaf."""
    gpus = configs.settings["folders"][leaf.config.split("/")[0]].get("gpus")
    parts = [f"longtail train --config-file {leaf.config}"]
    parts += ["--eval-only"] if stage_of(configs, leaf) == "post_hoc" else []
    parts += [f"--num-gpus {gpus}"] if gpus else []
    return " ".join(parts)


def leaf_text(configs: Configs, leaf: Leaf) -> str:
    """Return the text of a leaf."""
    bases = leaf.bases[0] if len(leaf.bases) == 1 else f"[{', '.join(leaf.bases)}]"
    body = to_yaml(leaf_settings(configs, leaf))
    return f"{header(configs, leaf)}_BASE_: {bases}\n{body}"


def index(configs: Configs) -> str:
    """Return the text of configs/README.md."""
    parts = [INTRODUCTION.read_text(encoding="utf-8"), "\n## Notes\n\n| note | |\n|---|---|\n"]
    parts += [f"| {note} | {text} |\n" for note, text in configs.notes.items()]
    leaves = configs.leaves.values()
    for folder, group in itertools.groupby(leaves, key=lambda leaf: os.path.dirname(leaf.config)):
        parts.append(f"\n## {folder}\n\n| config | printed in | published | measured here | notes |\n")
        parts.append("|---|---|---|---|---|\n")
        parts += [_index_line(configs, leaf) for leaf in group]
    return "".join(parts)


def _index_line(configs: Configs, leaf: Leaf) -> str:
    rows = configs.rows[leaf.config]
    papers = list(dict.fromkeys(table.paper for table, _ in rows))
    printed, published = [], []
    for paper in papers:
        own = [(table, row) for table, row in rows if table.paper == paper]
        printed.append(f"{paper}: {', '.join(dict.fromkeys(table.number for table, _ in own))}")
        published.append(
            " / ".join(
                # Two tables of a paper may differ in a digit.
                " or ".join(dict.fromkeys(str(row.metrics[m]) for _, row in own if m in row.metrics))
                for m in MAIN
                if any(m in row.metrics for _, row in own)
            )
        )
    name = Path(leaf.config).stem
    measured = " / ".join(str(leaf.measured[metric]) for metric in MAIN if metric in leaf.measured)
    cells = [
        f"[`{name}`]({leaf.config})",
        "; ".join(printed) or f"in neither paper; {leaf.title}",
        "; ".join(text or "a plot" for text in published),
        f"{measured} ({leaf.source})" if measured else "",
        ", ".join(leaf.notes),
    ]
    return f"| {' | '.join(cells)} |\n"


def generate(folder: Path) -> dict[Path, str]:
    """Return the text of every generated file by its path.

    Args:
        folder: the folder ``configs``.

    Raises:
        ValueError: the data do not fit together.
    """
    configs = read_configs(folder)
    texts = {folder / name: leaf_text(configs, leaf) for name, leaf in configs.leaves.items()}
    return {**texts, folder / "README.md": index(configs)}


def strays(folder: Path, texts: dict[Path, str]) -> list[Path]:
    """Return the configs of the tree that are neither generated nor a base nor a model."""
    paths = folder.glob("*/**/*.yaml")
    bases = (folder / "models", folder / "tables")
    return sorted(
        path
        for path in paths
        if path not in texts
        and not path.name.startswith("Base-")
        and not any(base in path.parents for base in bases)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    parser.add_argument(
        "--configs", type=Path, default=ROOT / "configs", metavar="DIR", help="the folder configs"
    )
    options = parser.parse_args(arguments)
    try:
        texts = generate(options.configs)
        unknown = strays(options.configs, texts)
        if unknown:
            raise ValueError(f"{unknown[0]}: is in no line of leaves.csv; add one, or delete it")
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
