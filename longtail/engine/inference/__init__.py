"""Inference: whole images, sliding windows, multi-scale testing."""
