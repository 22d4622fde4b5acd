# SPDX-License-Identifier: Apache-2.0
"""Finished runs: folders with the evaluations of a model and what its training logged."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.analysis.evaluations import (
    MULTI_SCALE,
    SINGLE_SCALE,
    Evaluation,
    read_evaluation,
)

REPORTS = ("sem_seg", "classification", "lvis")


@dataclass(frozen=True, eq=False)
class Run:
    """A folder (``OUTPUT_DIR``) with the evaluations of one model.

    Attributes:
        folder: the folder.
        evaluations: one or more.
    """

    folder: Path
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """Values of the config by full key."""
        return self.evaluations[0].config

    @property
    def seed(self) -> int:
        """``SEED``; -1 for one that nobody knows."""
        return self.config.get("SEED", -1)

    @property
    def test_sets(self) -> tuple[str, ...]:
        """The registered names of the test sets."""
        return tuple(dict.fromkeys(e.dataset for e in self.evaluations))

    def evaluation(self, dataset: str = "", *, multi_scale: bool = False) -> Evaluation | None:
        """Find the evaluation on a test set.

        Args:
            dataset: its name; by default the only one, or the first.
            multi_scale: whether multi-scale testing is wanted.

        Returns:
            None if there is none.
        """
        dataset = dataset or self.test_sets[0]
        wanted = (dataset, multi_scale)
        return next((e for e in self.evaluations if (e.dataset, e.multi_scale) == wanted), None)

    def metrics(self, dataset: str = "") -> dict[str, float]:
        """Collect the metrics on a test set, of one and of several scales.

        Args:
            dataset: its name; by default the only one, or the first.
        """
        dataset = dataset or self.test_sets[0]
        found = {}
        for evaluation in self.evaluations:
            if evaluation.dataset == dataset:
                found.update(evaluation.metrics)
        return found

    def history(self) -> list[dict[str, float]]:
        """Read what the training run logged, a dict for each line of ``metrics.json``.

        A line that was cut short, by a kill, is left out. Empty if there was no training here.
        """
        path = self.folder / "metrics.json"
        if not path.is_file():
            return []
        lines = []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("iteration"), int):
                lines.append(line)
        return lines


def read_run(folder: str | os.PathLike) -> Run:
    """Read the evaluations of one run.

    Args:
        folder: its ``OUTPUT_DIR``.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no evaluation, or a damaged one.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"the run {folder} does not exist: name the OUTPUT_DIR of a run")
    evaluations = tuple(_evaluations(path))
    if not evaluations:
        raise ValueError(
            f"{folder} has no evaluation ({SINGLE_SCALE}/<data set>/*_evaluation.json): name the "
            f"OUTPUT_DIR of a finished run, or evaluate it with longtail train --eval-only"
        )
    return Run(path, evaluations)


def find_runs(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """Read every run in some folders or below them.

    Args:
        folders: each the ``OUTPUT_DIR`` of a run, or above several.

    Returns:
        Runs in the order of their folders' names, each once.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder holds no run, or an evaluation is damaged.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        path = Path(folder)
        if not path.is_dir():
            raise FileNotFoundError(f"the folder {folder} does not exist: name folders of runs")
        # Named as the user named them.
        inside = {
            inference.parent
            for name in (SINGLE_SCALE, MULTI_SCALE)
            for inference in path.rglob(name)
            if any(_reports(inference))
        }
        if not inside:
            raise ValueError(
                f"{folder} holds no run with an evaluation: name the OUTPUT_DIR of finished runs, "
                "or a folder above them"
            )
        for run_folder in sorted(inside):
            found.setdefault(run_folder.resolve(), Run(run_folder, tuple(_evaluations(run_folder))))
    return list(found.values())


def _reports(inference: Path) -> Iterator[Path]:
    for task in REPORTS:
        yield from sorted(inference.glob(f"*/{task}_evaluation.json"))


def _evaluations(folder: Path) -> Iterator[Evaluation]:
    for name in (SINGLE_SCALE, MULTI_SCALE):
        for path in _reports(folder / name):
            yield read_evaluation(path)
