# SPDX-License-Identifier: Apache-2.0
"""Training runs and evaluations of whole tables, on this machine or as SLURM's array jobs."""
