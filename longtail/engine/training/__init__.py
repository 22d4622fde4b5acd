# SPDX-License-Identifier: Apache-2.0
"""Training: the trainer, its step, solver, stages and what it checks before it starts."""
