# SPDX-License-Identifier: Apache-2.0
"""Region Rebalance for Long-Tailed Semantic Segmentation: a train-only region branch.

Nothing is imported here, so that the commands answer at once.
"""
