# SPDX-License-Identifier: Apache-2.0
"""The published metrics of a run whose config is that of a row of a paper's table."""

import functools
import os
import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from longtail.analysis.methods import IGNORED
from longtail.analysis.runs import Run, flat_config
from longtail.config import load_config
from longtail.config.loading import CONFIGS
from longtail.config.tables import read_leaves, read_tables, rows_of


def published(run: Run) -> dict[str, str]:
    """Find what a paper prints of a run's config.

    Args:
        run: any.

    Returns:
        By metric the printed number, with its digits; where tables repeat a row, that of the first
        one. Empty if the config is that of no row.
    """
    data = run.config.get("DATASETS.TEST")
    if not data:
        return {}
    leaves = read_leaves()
    for config, rows in rows_of(leaves, read_tables()).items():
        metrics = [row.metrics for _, row in rows if row.metrics]
        # Loading a config takes longer than looking into its file.
        if metrics and _mentions(config, data[0]) and _is_of(run, _packaged(config)):
            return {
                name: str(value) for found in reversed(metrics) for name, value in found.items()
            }
    return {}


def _mentions(config: str, data: str) -> bool:
    path = CONFIGS / config
    text = path.read_text(encoding="utf-8")
    if data in text:
        return True
    # A base is named relative to the config; several are a list.
    line = re.search(r"^_BASE_:.*", text, re.MULTILINE)
    bases = re.findall(r"[\w./-]+\.yaml", line[0]) if line else []
    folder = PurePosixPath(config).parent
    return any(_mentions(os.path.normpath(folder / base), data) for base in bases)


@functools.cache
def _packaged(config: str) -> dict[str, Any]:
    return flat_config(yaml.safe_load(load_config(config).dump()))


def _is_of(run: Run, values: dict[str, Any]) -> bool:
    keys = (run.config.keys() | values.keys()) - set(IGNORED)
    return all(run.config.get(key) == values.get(key) for key in keys)
