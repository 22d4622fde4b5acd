"""Evaluators and the pure metric functions that they use."""

from longtail.evaluation.build import build_evaluator
from longtail.evaluation.classification_evaluator import ClassificationEvaluator
from longtail.evaluation.lvis_evaluator import LVISEvaluator
from longtail.evaluation.lvis_inference import UnpastedInference
from longtail.evaluation.sem_seg_evaluator import SemSegEvaluator

__all__ = [
    "ClassificationEvaluator",
    "LVISEvaluator",
    "SemSegEvaluator",
    "UnpastedInference",
    "build_evaluator",
]
