"""What the methods in projects/ share: data, class statistics, models, evaluation, engine."""
