"""One training step and its parts: losses, optimizers, schedules, stopping."""
