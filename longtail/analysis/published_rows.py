# SPDX-License-Identifier: Apache-2.0
"""The published metrics of runs whose config is that of a row of a paper's table."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from longtail.analysis.matching import match_runs
from longtail.analysis.runs import Run
from longtail.config.loading import CONFIGS
from longtail.config.tables import read_leaves, read_tables, rows_of


def published(runs: Sequence[Run]) -> dict[Path, dict[str, str]]:
    """Find what the papers print of runs' configs.

    Args:
        runs: all that are looked at; a second stage is known by the run that it starts from.

    Returns:
        By folder and metric the printed number, with its digits; where tables repeat a row, that of
        the first one. Runs of no row are not there.
    """
    printed = {
        config: [row.metrics for _, row in rows if row.metrics]
        for config, rows in rows_of(read_leaves(), read_tables()).items()
    }
    test_sets = {test_set for run in runs for test_set in run.test_sets}
    # Loading a config takes longer than looking into its file.
    configs = [c for c, rows in printed.items() if rows and _mentions(c, test_sets)]
    return {
        run.folder: {
            name: str(value) for row in reversed(printed[config]) for name, value in row.items()
        }
        for config, found in (match_runs(runs, configs).runs.items() if configs else ())
        for run in found
    }


def _mentions(config: str, test_sets: set[str]) -> bool:
    """Whether a config or one that it is based on names one of some test sets."""
    text = (CONFIGS / config).read_text(encoding="utf-8")
    if any(test_set in text for test_set in test_sets):
        return True
    # A base is named relative to the config; several are a list.
    line = re.search(r"^_BASE_:.*", text, re.MULTILINE)
    bases = re.findall(r"[\w./-]+\.yaml", line[0]) if line else []
    folder = PurePosixPath(config).parent
    return any(_mentions(os.path.normpath(folder / base), test_sets) for base in bases)
