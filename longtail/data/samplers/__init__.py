"""Samplers: in which order training images are drawn."""
