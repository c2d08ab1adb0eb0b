"""The training loop, schedule, optimiser step and checkpoints."""
