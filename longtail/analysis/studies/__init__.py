# SPDX-License-Identifier: Apache-2.0
"""The analyses of ``longtail analyze``, one a module: table, picture and values."""
