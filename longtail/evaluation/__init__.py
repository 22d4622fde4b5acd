# SPDX-License-Identifier: Apache-2.0
"""Evaluators and the pure metric functions that they use."""

from longtail.evaluation.build import build_evaluator
from longtail.evaluation.classification.evaluator import ClassificationEvaluator
from longtail.evaluation.lvis.evaluator import LVISEvaluator
from longtail.evaluation.lvis.inference import UnpastedInference
from longtail.evaluation.sem_seg.evaluator import SemSegEvaluator

__all__ = [
    "ClassificationEvaluator",
    "LVISEvaluator",
    "SemSegEvaluator",
    "UnpastedInference",
    "build_evaluator",
]
