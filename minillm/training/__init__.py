"""Training: one loop, one optimizer step, schedules, optimizers, checkpoints and logs."""
