# SPDX-License-Identifier: Apache-2.0
"""What is computed from finished runs: comparisons, correlations, confusion and their figures."""
