"""How a model learns: one loop, one optimizer step, schedules, optimizers, checkpoints and what is logged."""
