# SPDX-License-Identifier: Apache-2.0
"""From formats of annotation tools to the ones that are read here."""
