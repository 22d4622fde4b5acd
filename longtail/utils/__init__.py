"""What has no domain of its own: files that are written whole."""
