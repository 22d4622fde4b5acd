# SPDX-License-Identifier: Apache-2.0
"""Frequencies of classes: counting, statistics, and groups of classes."""
