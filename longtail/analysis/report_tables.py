# SPDX-License-Identifier: Apache-2.0
"""The tables of a report, row by row, as texts.

Shapes: K classes.
"""

from typing import Any

from longtail.analysis.compare import Comparison, Values, interval
from longtail.analysis.compare_tables import (
    changed_classes,
    correlation_rows,
    difference_text,
)
from longtail.analysis.methods import differing_keys
from longtail.analysis.published_rows import published
from longtail.analysis.statistics import value_text

# Classes that gained, and that lost most.
CHANGES = 8


def summary(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of every metric, those of groups after the others."""
    rows = published([run for method in comparison.methods for run in method.runs])
    printed = [
        next((rows[run.folder] for run in method.runs if run.folder in rows), {})
        for method in comparison.methods
    ]
    rows = [
        {
            "name": name,
            "is_group": bool(comparison.group_of_metric(name)),
            "published": [of_method.get(name, "") for of_method in printed],
            **_cells(values),
        }
        for name, values in comparison.metrics.items()
    ]
    families = [comparison.family_of_metric(row["name"]) for row in rows if row["is_group"]]
    return sorted(
        rows,
        key=lambda row: (
            families.index(comparison.family_of_metric(row["name"])) if row["is_group"] else -1
        ),
    )


def _cells(values: Values, index: int | tuple[()] = ()) -> dict[str, Any]:
    """The texts of a row: of the methods, and of the differences with what is clear of them."""
    return {
        "values": [value_text(found, index) for found in values.spreads],
        "differences": [
            {"text": difference_text(found, index), "is_clear": _is_clear(interval(found, index))}
            for found in values.differences
        ],
    }


def _is_clear(bounds: tuple[float, float] | None) -> bool:
    """Whether a confidence interval leaves out 0; one of no width says nothing."""
    return bounds is not None and bounds[0] < bounds[1] and not bounds[0] <= 0 <= bounds[1]


def correlations(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of every metric of classes and every frequency."""
    return [{"name": name, "values": values} for name, *values in correlation_rows(comparison)]


def changes(comparison: Comparison) -> list[dict[str, Any]]:
    """Of every metric of classes and every further method, who gained and lost most."""
    return [
        {
            "title": f"{metric}: {method.label} - {comparison.methods[0].label}",
            "labels": [comparison.methods[0].label, method.label],
            "rows": [
                {
                    **_class_row(comparison, index),
                    "values": [value_text(values.spreads[i], index) for i in (0, position + 1)],
                    "differences": [_cells(values, index)["differences"][position]],
                }
                for index in changed_classes(comparison, metric, position, CHANGES)
            ],
        }
        for metric, values in comparison.classes.items()
        for position, method in enumerate(comparison.methods[1:])
    ]


def class_tables(comparison: Comparison) -> list[dict[str, Any]]:
    """Of every metric of classes a row of every class, the most frequent first."""
    return [
        {
            "title": metric,
            "rows": [
                {**_class_row(comparison, index), **_cells(values, index)}
                for index in comparison.order.tolist()
            ],
        }
        for metric, values in comparison.classes.items()
    ]


def _class_row(comparison: Comparison, index: int) -> dict[str, Any]:
    counts = comparison.counts
    return {
        "name": comparison.evaluation.class_names[index],
        "group": comparison.group_of(index),
        "count": "" if counts is None else f"{counts[index]:,}",
    }


def differing(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of every key that the methods' configs differ in."""
    firsts = [method.runs[0] for method in comparison.methods]
    return [
        {"name": key, "values": [_shown(run.config.get(key, "")) for run in firsts]}
        for key in differing_keys(firsts)
    ]


def _shown(value: Any) -> str:
    return '""' if value == "" else str(value)


def origins(comparison: Comparison) -> list[dict[str, Any]]:
    """Where every run comes from."""
    found = []
    for method, evaluations in zip(comparison.methods, comparison.evaluations, strict=True):
        for run, seed, evaluation in zip(method.runs, method.seeds, evaluations, strict=True):
            origin = evaluation.provenance
            found.append(
                {
                    "method": method.label,
                    "folder": str(run.folder),
                    "seed": "not known" if seed < 0 else seed,
                    "iteration": origin["iteration"] or "not known",
                    "weights": origin.get("weights") or "none",
                    "device": origin.get("device", ""),
                    "commit": _short_commit(origin.get("commit") or "no checkout"),
                    "time": str(origin.get("time", "")).replace("T", " "),
                    "versions": ", ".join(
                        f"{name} {version}" for name, version in origin.get("versions", {}).items()
                    ),
                }
            )
    return found


def _short_commit(name: str) -> str:
    """The first digits of a commit, and whether files differed from it."""
    digits, *dirty = name.split("-")
    return "-".join([digits[:12], *dirty])
