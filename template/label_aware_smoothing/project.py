# SPDX-License-Identifier: Apache-2.0
"""The project, as longtail finds it by the entry point in pyproject.toml."""

from longtail.config import Project

from . import loss  # noqa: F401  (registers)
from .config import add_label_aware_smoothing_config

PROJECT = Project(name="label-aware smoothing", add_config=add_label_aware_smoothing_config)
