"""Mappers: from a data set's record to a model's input."""
