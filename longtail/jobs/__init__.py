# SPDX-License-Identifier: Apache-2.0
"""Training runs and evaluations of whole tables, on this machine or as SLURM's array jobs."""

from .plan import Job, Plan, Row, make_plan
from .run import add_run_arguments, run_rows

__all__ = ["Job", "Plan", "Row", "add_run_arguments", "make_plan", "run_rows"]
