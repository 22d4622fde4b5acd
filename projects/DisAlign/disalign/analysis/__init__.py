# SPDX-License-Identifier: Apache-2.0
"""What the second stage has learned, as values and figures."""
