# SPDX-License-Identifier: Apache-2.0
"""Inference: whole images, sliding windows, multi-scale testing."""
