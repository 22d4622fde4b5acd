# SPDX-License-Identifier: Apache-2.0
"""Run a command: ``python -m longtail NAME ...``, the same as ``longtail NAME ...``."""

from longtail.commands import main

if __name__ == "__main__":
    main()
