# SPDX-License-Identifier: Apache-2.0
"""Evaluation of semantic segmentation."""
