"""Training: the trainer, its step, solver, stages and what it checks before it starts."""
