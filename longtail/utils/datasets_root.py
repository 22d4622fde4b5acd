# SPDX-License-Identifier: Apache-2.0
"""The folder of all data sets."""

import os


def datasets_root() -> str:
    """Name the folder of all data sets: ``$DETECTRON2_DATASETS``, or ``datasets`` without it."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
