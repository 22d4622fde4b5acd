"""File formats: the one reader and writer of each."""
