"""How often classes occur: counting, statistics, and groups of classes."""
