# SPDX-License-Identifier: Apache-2.0
"""Data sets and how they are read; importing this package registers the data sets."""

import longtail.data.datasets  # noqa: F401  (registers)
