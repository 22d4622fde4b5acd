"""Commands of DisAlign."""
