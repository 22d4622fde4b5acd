# SPDX-License-Identifier: Apache-2.0
"""Per-class results that others have published, with the counts that they belong to.

``configs/tables/classes.csv`` lists them: the file of each, beside it, has a line for every class
in the order of the data set, and of each run the columns ``RUN IoU`` and ``RUN Acc``, in percent.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.config.tables import TABLES


@dataclass(frozen=True, eq=False)
class ClassResults:
    """Published per-class results of several runs.

    Attributes:
        subject: what they are of.
        trained_on: the registered training set.
        source: where they were published.
        class_names: K names, as published, in the order of the data set.
        runs: by the name of a run its (K,) metrics in percent, ``IoU`` and ``Acc``.
    """

    subject: str
    trained_on: str
    source: str
    class_names: tuple[str, ...]
    runs: dict[str, dict[str, np.ndarray]]


def read_class_results(folder: Path = TABLES) -> list[ClassResults]:
    """Read all published per-class results.

    Args:
        folder: with ``classes.csv`` and the files that it names.
    """
    results = []
    for line in _lines(folder / "classes.csv"):
        rows = _lines(folder / f"{line.pop('table')}.csv")
        names = tuple(row.pop("class") for row in rows)
        runs: dict[str, dict[str, np.ndarray]] = {}
        for column in rows[0]:
            run, metric = column.rsplit(" ", 1)
            runs.setdefault(run, {})[metric] = np.array([float(row[column]) for row in rows])
        results.append(ClassResults(class_names=names, runs=runs, **line))
    return results


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
