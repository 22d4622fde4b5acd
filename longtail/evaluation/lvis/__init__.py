"""Evaluation on LVIS and data sets in its format."""
