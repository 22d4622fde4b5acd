"""Evaluation of semantic segmentation."""
