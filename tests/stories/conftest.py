# SPDX-License-Identifier: Apache-2.0
"""A plain installation, as the tests of the packaging have it."""

from tests.packaging.conftest import installed, new_environment, wheel

__all__ = ["installed", "new_environment", "wheel"]
