# SPDX-License-Identifier: Apache-2.0
"""Helpers without a domain: files that are written whole, errors, names, command lines."""
