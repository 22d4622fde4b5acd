# SPDX-License-Identifier: Apache-2.0
"""Tables, comparisons and figures, computed from finished runs: no model is needed."""
