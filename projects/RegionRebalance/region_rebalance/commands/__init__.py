"""Commands of Region Rebalance."""
