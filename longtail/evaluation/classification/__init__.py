"""Evaluation of image classification."""
