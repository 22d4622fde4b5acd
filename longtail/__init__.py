"""What Region Rebalance and DisAlign share: data, class statistics, models, evaluation, engine."""
