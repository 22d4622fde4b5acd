"""Helpers without a domain: files that are written whole, errors, names, command lines."""
