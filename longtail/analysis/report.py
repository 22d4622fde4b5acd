# SPDX-License-Identifier: Apache-2.0
"""A page of everything that finished runs tell, in one HTML file that needs nothing else.

Shapes: K classes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import longtail
from longtail.analysis import report_figures
from longtail.analysis.compare import (
    Comparison,
    Values,
    class_correlations,
    compare_methods,
    interval,
)
from longtail.analysis.compare_tables import changed_classes, difference_text, value_text
from longtail.analysis.confusion import confused_pairs
from longtail.analysis.methods import Method, differing_keys
from longtail.analysis.published_rows import published
from longtail.analysis.report_figures import Drawing
from longtail.analysis.report_media import (
    FIGURES,
    MOST_PICTURES,
    PICTURES,
    read_class_figures,
    read_pictures,
)
from longtail.analysis.runs import Run
from longtail.analysis.study import FREQUENCIES
from longtail.config import installed_projects
from longtail.utils.io import atomic_write

# Confused pairs of a method, and classes that gained and lost most.
PAIRS, CHANGES = 12, 8


def write_report(
    methods: Sequence[Method],
    path: str | os.PathLike,
    *,
    dataset: str = "",
    pictures: Sequence[str | os.PathLike] = (),
) -> None:
    """Write the page.

    Args:
        methods: of :func:`~longtail.analysis.methods.find_methods`; the others are compared with
            the first.
        path: the HTML file.
        dataset: the test set; by default the only one, or the first of the first run.
        pictures: folders of PNG files to show besides the runs' own.

    Raises:
        ValueError: runs are of different test sets, or a file of theirs is damaged.
        FileNotFoundError: a folder of pictures does not exist.
        OSError: the file cannot be written.
    """
    for folder in pictures:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"the folder of pictures {folder} does not exist")
    comparison = compare_methods(methods, dataset)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("longtail.analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # Its parts are escaped where they are made, see longtail.visualization.hover.
    environment.filters["svg"] = lambda drawing: Markup(drawing.svg)
    page = environment.get_template("report.html").render(_content(comparison, pictures))
    with atomic_write(path) as file:
        file.write(page)


def _content(comparison: Comparison, pictures: Sequence[str | os.PathLike]) -> dict[str, Any]:
    runs = [run for method in comparison.methods for run in method.runs]
    origins = _origins(comparison)
    versions = {origin["versions"] for origin in origins}
    return {
        # First what others wrote, and may be damaged.
        "figures_of_runs": _figures(runs),
        "pictures": _pictures(runs, pictures),
        "version": longtail.__version__,
        "comparison": comparison,
        "counted": FREQUENCIES[comparison.frequency][1] if comparison.frequency else "",
        "labels": [method.label for method in comparison.methods],
        "summary": _summary(comparison),
        "correlations": _correlations(comparison),
        "curves": report_figures.curves(comparison),
        "groups": report_figures.group_bars(comparison),
        "classes": report_figures.class_figures(comparison),
        "changes": _changes(comparison),
        "class_tables": _class_tables(comparison),
        "confusion": _confusion(comparison),
        "figure_commands": _figure_commands(),
        "most_pictures": MOST_PICTURES,
        "differing": _differing(comparison),
        "runs": origins,
        # Once, if they are the same.
        "versions": versions.pop() if len(versions) == 1 else "",
    }


def _summary(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of every metric, those of groups after the others."""
    printed = [published(method.runs[0]) for method in comparison.methods]
    rows = [
        {
            "name": name,
            "is_group": bool(comparison.group_of_metric(name)),
            "published": [found.get(name, "") for found in printed],
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


def _correlations(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{metric}, {FREQUENCIES[frequency][1]}",
            "values": [
                f"{v['pearson']:.1f} / {v['spearman']:.1f}".replace("nan", "-") for v in found
            ],
        }
        for (metric, frequency), found in class_correlations(comparison).items()
    ]


def _changes(comparison: Comparison) -> list[dict[str, Any]]:
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
                for index in _both(changed_classes(comparison, metric, position, CHANGES))
            ],
        }
        for metric, values in comparison.classes.items()
        for position, method in enumerate(comparison.methods[1:])
    ]


def _both(changed: tuple[list[int], list[int]]) -> list[int]:
    """From the largest gain to the largest loss."""
    gained, lost = changed
    return [*gained, *reversed(lost)]


def _class_tables(comparison: Comparison) -> list[dict[str, Any]]:
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


def _confusion(comparison: Comparison) -> list[dict[str, Any]]:
    """The confusion of every method, summed over its runs."""
    found = []
    names = comparison.evaluation.class_names
    for position, (method, evaluations) in enumerate(
        zip(comparison.methods, comparison.evaluations, strict=True)
    ):
        matrices = [evaluation.confusion() for evaluation in evaluations]
        if any(matrix is None for matrix in matrices):
            continue
        counts = np.sum(matrices, axis=0)
        drawing: Drawing | None = None
        if len(names) <= report_figures.MOST_CLASSES:
            drawing = report_figures.heat_map(
                comparison, counts, f"confusion{position}", method.label
            )
        pairs = [
            {**pair, "truth": names[pair["truth"]], "predicted": names[pair["predicted"]]}
            for pair in confused_pairs(counts, PAIRS)
        ]
        found.append({"label": method.label, "pairs": pairs, "drawing": drawing})
    return found


def _figures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = []
    for number, run in enumerate(runs):
        folder = run.folder / FIGURES
        drawings = read_class_figures(folder, f"figure{number}")
        images = read_pictures(folder)
        if drawings or images:
            found.append({"folder": str(folder), "drawings": drawings, "images": images})
    return found


def _figure_commands() -> list[str]:
    """Commands of the installed projects that draw figures of a run."""
    names = (name for project in installed_projects() for name in project.commands)
    return ["analyze", *sorted(name for name in names if name.startswith(("analyze-", "plot-")))]


def _pictures(runs: Sequence[Run], folders: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    places = [*map(Path, folders), *(run.folder / PICTURES for run in runs)]
    found = [
        {"folder": str(folder), "drawings": [], "images": read_pictures(folder)}
        for folder in places
    ]
    return [entry for entry in found if entry["images"]]


def _differing(comparison: Comparison) -> list[dict[str, Any]]:
    firsts = [method.runs[0] for method in comparison.methods]
    return [
        {"name": key, "values": [_shown(run.config.get(key, "")) for run in firsts]}
        for key in differing_keys(firsts)
    ]


def _shown(value: Any) -> str:
    return '""' if value == "" else str(value)


def _origins(comparison: Comparison) -> list[dict[str, Any]]:
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
