"""Small helpers without a domain: atomic files and processes."""
