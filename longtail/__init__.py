# SPDX-License-Identifier: Apache-2.0
"""Long-tailed recognition on detectron2: data, losses, models, evaluation, engine and commands."""

__version__ = "0.1.0"
