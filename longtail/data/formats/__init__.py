# SPDX-License-Identifier: Apache-2.0
"""File formats: the one reader and writer of each."""
