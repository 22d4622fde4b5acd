# SPDX-License-Identifier: Apache-2.0
"""The metrics of methods beside each other, over seeds, and their differences to the first one.

Shapes: K classes, n runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.correlation import frequency_correlation
from longtail.analysis.evaluations import Evaluation
from longtail.analysis.gain import frequency_order
from longtail.analysis.methods import Method
from longtail.analysis.metric_names import MULTI_SCALE_ENDING
from longtail.analysis.statistics import (
    Difference,
    Spread,
    common_metrics,
    difference,
    spread,
)
from longtail.analysis.study import (
    choose_evaluations,
    known_frequencies,
    ordered_groups,
)
from longtail.evaluation.report import group_of_classes


@dataclass(frozen=True, eq=False)
class Values:
    """A metric, or a metric of all classes, of every method.

    Attributes:
        spreads: of each method over its runs.
        differences: of each method but the first to the first.
    """

    spreads: tuple[Spread, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on a test set.

    Attributes:
        methods: one or more; the first is what the others are compared with.
        evaluations: those of the runs of each method.
        metrics: in percent, those that all runs have, by name.
        classes: (K,) values, by the name of a metric of classes.
        notes: a sentence each on what limits the comparison.
    """

    methods: tuple[Method, ...]
    evaluations: tuple[tuple[Evaluation, ...], ...]
    metrics: dict[str, Values]
    classes: dict[str, Values]
    notes: tuple[str, ...]

    @property
    def evaluation(self) -> Evaluation:
        """The first one: for classes, groups and counts, which all have in common."""
        return self.evaluations[0][0]

    @cached_property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Class indices by group, the most frequent group first."""
        return ordered_groups(self.evaluation)

    @property
    def frequency(self) -> str:
        """What classes are sorted by, a key of ``FREQUENCIES``; "" if no count is known."""
        return next(iter(known_frequencies(self.evaluation)), "")

    @cached_property
    def counts(self) -> np.ndarray | None:
        """(K,) training counts of :attr:`frequency`."""
        name = self.frequency
        return self.evaluation.train_counts[FREQUENCIES[name][0]] if name else None

    @property
    def order(self) -> np.ndarray:
        """Class indices, the most frequent first; as they are where no count is known."""
        counts = self.counts
        if counts is None:
            return np.arange(len(self.evaluation.class_names))
        return frequency_order(counts)

    def group_of(self, index: int) -> str:
        """The group of a class, "" if it is in none."""
        return self._groups_of_classes[index] or ""

    @cached_property
    def _groups_of_classes(self) -> list[str | None]:
        return group_of_classes(self.groups, len(self.evaluation.class_names))

    def group_of_metric(self, name: str) -> str:
        """The group that a metric is the mean over: mIoU head, many, box APr; "" if none."""
        word = name.removesuffix(MULTI_SCALE_ENDING).split()[-1]
        return next((group for group in self.groups if word in (group, f"AP{group}")), "")

    def family_of_metric(self, name: str) -> str:
        """A metric of a group without the group: mIoU, box AP; "" of an accuracy."""
        base = name.removesuffix(MULTI_SCALE_ENDING)
        ending = name[len(base) :]
        return base.removesuffix(self.group_of_metric(name)).strip() + ending


def compare_methods(methods: Sequence[Method], dataset: str = "") -> Comparison:
    """Compare methods on a test set.

    The difference of two methods is that of their means. Runs are paired where both methods have
    the same seeds, each once; the differences' own deviation then gives the confidence interval.
    With one run on a side there is none.

    Args:
        methods: one or more, the first is what the others are compared with.
        dataset: the test set; by default the first that all runs were evaluated on.

    Raises:
        ValueError: a run was not evaluated on it, or two runs on different images or classes.
    """
    runs = [run for method in methods for run in method.runs]
    for run in runs:
        if not dataset and not set(runs[0].test_sets) & set(run.test_sets):
            one, other = (", ".join(r.test_sets) for r in (runs[0], run))
            raise ValueError(
                f"{runs[0].folder} was evaluated on {one}, but {run.folder} on {other}: evaluate "
                "both on the same test set"
            )
    everything = choose_evaluations(runs, dataset)
    dataset = everything[0].dataset
    remaining = iter(everything)
    evaluations = tuple(tuple(next(remaining) for _ in method.runs) for method in methods)
    metrics = [[run.metrics(dataset) for run in method.runs] for method in methods]
    shared = common_metrics([values for of_method in metrics for values in of_method])
    per_class = common_metrics([evaluation.per_class for evaluation in everything])
    paired = [are_paired(methods[0], method) for method in methods]
    return Comparison(
        methods=tuple(methods),
        evaluations=evaluations,
        metrics={
            name: _values([[run[name] for run in of_method] for of_method in metrics], paired)
            for name in shared
        },
        classes={
            name: _values([[e.per_class[name] for e in found] for found in evaluations], paired)
            for name in per_class
        },
        notes=tuple(_notes(methods, evaluations)),
    )


def are_paired(one: Method, other: Method) -> bool:
    """Whether two methods have the same seeds, each once, so that runs of a seed are a pair."""
    seeds = set(one.seeds)
    return (
        -1 not in seeds
        and sorted(one.seeds) == sorted(other.seeds)
        and len(seeds) == len(one.seeds)
    )


def class_correlations(comparison: Comparison) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Correlate the mean over runs of metrics of classes with their frequency.

    Args:
        comparison: of :func:`compare_methods`.

    Returns:
        By metric and frequency, what
        :func:`~longtail.analysis.correlation.frequency_correlation` gives for each method.
    """
    counts = comparison.evaluation.train_counts
    return {
        (metric, frequency): [
            frequency_correlation(of_method.mean, counts[FREQUENCIES[frequency][0]])
            for of_method in values.spreads
        ]
        for metric, values in comparison.classes.items()
        for frequency in known_frequencies(comparison.evaluation)
    }


def interval(found: Difference, index: int | tuple[()] = ()) -> tuple[float, float] | None:
    """The confidence interval of a difference, or of that of a class; None if there is none."""
    low, high = float(found.low[index]), float(found.high[index])
    return None if np.isnan(low) else (low, high)


def _values(of_methods: Sequence[Sequence], paired: Sequence[bool]) -> Values:
    first, *others = of_methods
    return Values(
        tuple(spread(runs) for runs in of_methods),
        tuple(
            difference(runs, first, paired=pairs)
            for runs, pairs in zip(others, paired[1:], strict=True)
        ),
    )


def _notes(methods: Sequence[Method], evaluations: Sequence[Sequence[Evaluation]]) -> list[str]:
    notes = []
    base = methods[0]
    for method in methods[1:]:
        if len(method.runs) == 1 or len(base.runs) == 1:
            how = "no confidence interval, which takes two runs or more of both"
        elif are_paired(base, method):
            how = f"over {len(base.runs)} pairs of runs with the same seed"
        else:
            how = "unpaired (Welch), since the seeds are not the same, each once"
        notes.append(f"{method.label} minus {base.label}: {how}.")
    for method, found in zip(methods, evaluations, strict=True):
        if method.differing_keys:
            notes.append(
                f"The runs of {method.label} have different configs: "
                f"{', '.join(method.differing_keys)}."
            )
        if len(set(method.seeds)) < len(method.seeds) and -1 not in method.seeds:
            notes.append(
                f"{method.label} has a seed more than once: a run may be there twice, or the runs "
                "start from other weights (NAME=FOLDER tells them apart)."
            )
        for run, evaluation in zip(method.runs, found, strict=True):
            if not evaluation.is_final:
                iteration = evaluation.provenance["iteration"]
                notes.append(
                    f"{run.folder} was evaluated after {iteration} of "
                    f"{evaluation.config['SOLVER.MAX_ITER']} iterations."
                )
    return notes
