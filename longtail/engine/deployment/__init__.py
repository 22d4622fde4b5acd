# SPDX-License-Identifier: Apache-2.0
"""Deployment: post hoc methods, folding and export."""
