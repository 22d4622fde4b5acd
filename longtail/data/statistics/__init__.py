"""Frequencies of classes: counting, statistics, and groups of classes."""
