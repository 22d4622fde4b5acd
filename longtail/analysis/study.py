# SPDX-License-Identifier: Apache-2.0
"""An analysis of finished runs: a table, a picture, and all values; and which results enter it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.evaluations import Evaluation
from longtail.analysis.runs import Run
from longtail.utils.command_line import check_output_folder
from longtail.utils.io import write_json
from longtail.visualization.figures import GROUP_COLORS, save_figure


@dataclass(frozen=True, eq=False)
class Study:
    """The outcome of an analysis.

    Attributes:
        name: of its files.
        values: all that the picture shows, for JSON; arrays are allowed.
        text: the table.
        figure: the picture.
    """

    name: str
    values: Mapping[str, Any]
    text: str
    figure: Figure

    def report(self, folder: str | os.PathLike) -> None:
        """Print the table, and :meth:`write` the files.

        Args:
            folder: made if it is missing.

        Raises:
            ValueError: it is a file.
            OSError: it cannot be written.
        """
        print(self.text)
        print(f"\nwritten: {', '.join(map(str, self.write(folder)))}")

    def write(self, folder: str | os.PathLike) -> list[Path]:
        """Write ``NAME.png``, ``NAME.svg`` and ``NAME.json``.

        Args:
            folder: made if it is missing.

        Returns:
            The three files.

        Raises:
            ValueError: it is a file.
            OSError: it cannot be written.
        """
        folder = Path(folder)
        check_output_folder(folder)
        png, svg, values = (folder / f"{self.name}.{end}" for end in ("png", "svg", "json"))
        save_figure(self.figure, png)
        save_figure(self.figure, svg)
        write_json(values, plain(self.values))
        return [png, svg, values]


def plain(value: Any) -> Any:
    """Nested values with lists and numbers of Python in place of numpy's."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    # JSON knows no infinity either.
    return None if isinstance(value, float) and not np.isfinite(value) else value


def choose_evaluation(run: Run, dataset: str = "") -> Evaluation:
    """The single-scale evaluation of a run.

    Args:
        run: a finished run.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: there is none.
    """
    found = run.evaluation(dataset)
    if found is None:
        names = ", ".join(e.dataset for e in run.evaluations if not e.multi_scale) or "no test set"
        raise ValueError(
            f"{run.folder} has single-scale evaluations of {names}, not of "
            f"{dataset or run.test_sets[0]}: name one of them by --dataset, or evaluate the run "
            "with longtail train --eval-only"
        )
    return found


def choose_evaluations(runs: Sequence[Run], dataset: str = "") -> list[Evaluation]:
    """The single-scale evaluations of runs on one test set.

    Args:
        runs: one or more.
        dataset: the test set; by default the first that all runs have been tested on.

    Raises:
        ValueError: a run has none, or two are of different images or classes.
    """
    if not dataset:
        shared = (name for name in runs[0].test_sets if all(run.evaluation(name) for run in runs))
        dataset = next(shared, "")
    evaluations = [choose_evaluation(run, dataset) for run in runs]
    check_same_test_set(evaluations)
    return evaluations


def check_same_test_set(evaluations: Sequence[Evaluation]) -> None:
    """Refuse to compare what was measured on different images or classes.

    Args:
        evaluations: one or more.

    Raises:
        ValueError: two differ; the message names them.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        if what := _unlike(first, other):
            raise ValueError(
                f"{first.path} ({first.dataset}) and {other.path} ({other.dataset}) are of {what}: "
                "evaluate both runs on the same test set"
            )


def _unlike(first: Evaluation, other: Evaluation) -> str:
    """What is not the same of two test sets, "" if they are the same."""
    one, two = first.class_names, other.class_names
    if first.task != other.task:
        return f"other tasks ({first.task}, {other.task})"
    if len(one) != len(two):
        return f"other classes ({len(one)} and {len(two)})"
    for index, (name, wanted) in enumerate(zip(one, two, strict=True)):
        if name != wanted:
            return f"other classes (class {index} is {name!r} and {wanted!r})"
    if first.num_images != other.num_images:
        return f"other images ({first.num_images} and {other.num_images})"
    return "other images or labels" if first.fingerprint != other.fingerprint else ""


def class_counts(evaluation: Evaluation, frequency: str) -> np.ndarray:
    """How often each class occurs in training.

    Args:
        evaluation: of a run.
        frequency: a key of :data:`~longtail.analysis.choices.FREQUENCIES`.

    Returns:
        (K,) int64.

    Raises:
        ValueError: the report does not have such counts.
    """
    key, _ = FREQUENCIES[frequency]
    if key not in evaluation.train_counts:
        known = [name for name, (k, _) in FREQUENCIES.items() if k in evaluation.train_counts]
        raise ValueError(
            f"{evaluation.path} has no training counts of {frequency}, only of "
            f"{', '.join(known) or 'nothing'}"
        )
    return evaluation.train_counts[key]


def known_frequencies(evaluation: Evaluation) -> list[str]:
    """The frequencies that a report has, each counts' own name: segmentation has regions.

    Args:
        evaluation: of a run.
    """
    images = "regions" if evaluation.task == "sem_seg" else "images"
    return [
        name
        for name, (key, _) in FREQUENCIES.items()
        if key in evaluation.train_counts and (key != "images" or name == images)
    ]


def ordered_groups(evaluation: Evaluation) -> dict[str, tuple[int, ...]]:
    """The groups of classes, the most frequent first; a report has them in the order of classes.

    Args:
        evaluation: of a run.
    """
    names = list(GROUP_COLORS)
    rank = {name: names.index(name) if name in names else len(names) for name in evaluation.groups}
    return {name: evaluation.groups[name] for name in sorted(evaluation.groups, key=rank.get)}


def run_labels(runs: Sequence[Run]) -> list[str]:
    """What runs are called in tables and legends: by name, with folders where names repeat."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.name} ({run.folder})" for run in runs]


def run_values(runs: Sequence[Run], evaluation: Evaluation) -> dict[str, Any]:
    """What a study's JSON begins with: runs and test set.

    Args:
        runs: all that enter.
        evaluation: of the first of them.
    """
    return {
        "runs": [
            {"name": label, "folder": str(run.folder), "seed": run.seed}
            for label, run in zip(run_labels(runs), runs, strict=True)
        ],
        "task": evaluation.task,
        "dataset": evaluation.dataset,
        "fingerprint": evaluation.fingerprint,
    }
