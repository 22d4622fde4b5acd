# SPDX-License-Identifier: Apache-2.0
"""Evaluation on LVIS and data sets in its format."""
