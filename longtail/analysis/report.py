# SPDX-License-Identifier: Apache-2.0
"""A page of everything that finished runs tell, in one HTML file that needs nothing else.

Shapes: K classes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import longtail
from longtail.analysis import report_figures, report_tables
from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.compare import Comparison, compare_methods
from longtail.analysis.confusion import confused_pairs
from longtail.analysis.methods import Method
from longtail.analysis.report_drawing import Drawing
from longtail.analysis.report_media import (
    FIGURES,
    PICTURES,
    read_class_figures,
    read_pictures,
)
from longtail.analysis.runs import Run
from longtail.utils.command_line import project_commands
from longtail.utils.io import atomic_write

# Confused pairs of a method.
PAIRS = 12


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
        dataset: the test set; by default the first that all runs were evaluated on.
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
    origins = report_tables.origins(comparison)
    versions = {origin["versions"] for origin in origins}
    return {
        # First what others wrote, and may be damaged.
        "figures_of_runs": _figures(runs),
        "pictures": _pictures(runs, pictures),
        "version": longtail.__version__,
        "comparison": comparison,
        "counted": FREQUENCIES[comparison.frequency][1] if comparison.frequency else "",
        "labels": [method.label for method in comparison.methods],
        "summary": report_tables.summary(comparison),
        "correlations": report_tables.correlations(comparison),
        "curves": report_figures.curves(comparison),
        "groups": report_figures.group_bars(comparison),
        "classes": report_figures.class_figures(comparison),
        "changes": report_tables.changes(comparison),
        "class_tables": report_tables.class_tables(comparison),
        "confusion": _confusion(comparison),
        "figure_commands": _figure_commands(),
        "differing": report_tables.differing(comparison),
        "runs": origins,
        # Once, if they are the same.
        "versions": versions.pop() if len(versions) == 1 else "",
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
        counts = sum(matrices[1:], matrices[0])
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
    names = (point.name for point in project_commands())
    return ["analyze", *sorted(name for name in names if name.startswith(("analyze-", "plot-")))]


def _pictures(runs: Sequence[Run], folders: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    places = [*map(Path, folders), *(run.folder / PICTURES for run in runs)]
    found = [
        {"folder": str(folder), "drawings": [], "images": read_pictures(folder)}
        for folder in places
    ]
    return [entry for entry in found if entry["images"]]
