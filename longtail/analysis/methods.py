# SPDX-License-Identifier: Apache-2.0
"""Finished runs, grouped into methods: runs whose configs differ in nothing but the seed."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.analysis import recipes
from longtail.analysis.recipes import unequal_keys
from longtail.analysis.runs import Run, find_runs

# Runs of one method differ in these; a second stage starts from the weights of its own seed.
IGNORED = {*recipes.IGNORED, recipes.WEIGHTS}
# What the folders of one method's runs end with: linear_0, linear-seed1, seed2.
_SEED = re.compile(r"[-_. ]?(seed)?[-_. ]?\d+$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Method:
    """Runs that are seeds of the same thing.

    Attributes:
        label: what it is called in tables.
        runs: one or more, by seed.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs; -1 for one that nobody knows."""
        return tuple(run.seed for run in self.runs)

    @property
    def differing_keys(self) -> tuple[str, ...]:
        """The keys that the runs of a folder that the user named do not have in common."""
        return differing_keys(self.runs)


def differing_keys(runs: Sequence[Run]) -> tuple[str, ...]:
    """The keys that configs differ in, by name, without those that runs of a method differ in.

    Args:
        runs: one or more.
    """
    first, *others = (run.config for run in runs)
    return tuple(sorted({key for config in others for key in unequal_keys(first, config, IGNORED)}))


def find_methods(arguments: Iterable[str]) -> list[Method]:
    """Read runs and group them.

    Args:
        arguments: folders, each the ``OUTPUT_DIR`` of a run or above several, or ``NAME=FOLDER``:
            all runs of that name are one method; a shell leaves a pattern such as
            ``NAME=output/*`` to us. The others are of one method if their configs are equal but
            for :data:`IGNORED`.

    Returns:
        The methods in the order in which they are first named.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder holds no run, a run is damaged, or belongs to two methods.
    """
    groups: dict[Any, list[Run]] = {}
    names: dict[Path, str] = {}
    for argument in arguments:
        name, folder = _parse(argument)
        folders = [] if os.path.isdir(folder) else sorted(glob.glob(folder))
        for run in find_runs(folders or [folder]):
            place = run.folder.resolve()
            if place in names:
                if names[place] == name:
                    continue
                raise ValueError(
                    f"the run {run.folder} is named twice, as {names[place] or 'a folder'} and as "
                    f"{name or 'a folder'}: name it once"
                )
            names[place] = name
            groups.setdefault(name or _signature(run), []).append(run)
    if not groups:
        raise ValueError("no run is named: name folders of finished runs")
    methods = [tuple(sorted(runs, key=lambda run: run.seed)) for runs in groups.values()]
    given = [key if isinstance(key, str) else "" for key in groups]
    return [
        Method(label, runs) for label, runs in zip(_labels(given, methods), methods, strict=True)
    ]


def _parse(argument: str) -> tuple[str, str]:
    name, separator, folder = argument.partition("=")
    # lr=0.1 may be a folder, and so may be a part of its path.
    if not separator or os.path.isdir(argument) or os.sep in name:
        return "", argument
    if not name or not folder:
        raise ValueError(f"{argument!r}: expected FOLDER or NAME=FOLDER")
    return name, folder


def _signature(run: Run) -> tuple[Any, ...]:
    # Without a config nobody knows what a run is of.
    if not run.config:
        return (run.folder.resolve(),)
    values = {**recipes.defaults(), **run.config}
    return (str(sorted((key, value) for key, value in values.items() if key not in IGNORED)),)


def _labels(given: Sequence[str], methods: Sequence[tuple[Run, ...]]) -> list[str]:
    """The names that were given, else those of the folders, else their paths."""
    labels = [name or _common_name(runs) for name, runs in zip(given, methods, strict=True)]
    for longer in (
        lambda run: f"{run.folder.resolve().parent.name}/{run.name}",
        lambda run: str(run.folder),
    ):
        repeated = {label for label, count in Counter(labels).items() if count > 1}
        labels = [
            longer(runs[0]) if label in repeated and not name else label
            for name, label, runs in zip(given, labels, methods, strict=True)
        ]
    return labels


def _common_name(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    stems = {_SEED.sub("", name) for name in names}
    if stems == {""}:
        return runs[0].folder.resolve().parent.name
    if len(runs) == 1:
        return names[0]
    return stems.pop() if len(stems) == 1 else names[0]
