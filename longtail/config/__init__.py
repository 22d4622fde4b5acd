# SPDX-License-Identifier: Apache-2.0
"""Configs: the declared keys, loading, what is left for inference, and the installed projects."""

from longtail.config.keys import add_longtail_config
from longtail.config.loading import (
    deployed_config,
    find_config_file,
    flat_config,
    get_cfg,
    get_config_file,
    load_config,
    say_if_there_is_no_gpu,
)
from longtail.config.projects import (
    Folding,
    Method,
    Project,
    deployed_state,
    get_value,
    installed_projects,
    set_value,
)

__all__ = [
    "Folding",
    "Method",
    "Project",
    "add_longtail_config",
    "deployed_config",
    "deployed_state",
    "find_config_file",
    "flat_config",
    "get_cfg",
    "get_config_file",
    "get_value",
    "installed_projects",
    "load_config",
    "say_if_there_is_no_gpu",
    "set_value",
]
