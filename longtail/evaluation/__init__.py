"""Evaluators and the pure metric functions that they use."""

from longtail.evaluation.build import build_evaluator
from longtail.evaluation.sem_seg_evaluator import SemSegEvaluator

__all__ = ["SemSegEvaluator", "build_evaluator"]
