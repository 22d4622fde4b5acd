"""Pictures of label maps: painting them, comparing them, laying the pictures out."""
