"""The training loop and what it needs: losses, schedule, checkpoint."""
