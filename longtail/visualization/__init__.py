# SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions: painting and comparing them, saved ones, laying pictures out."""
