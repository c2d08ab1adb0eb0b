"""SCPSeg and its benchmark suite: accuracy against peak memory for ultra-high-resolution segmentation."""

import os

IGNORE_INDEX = 255
"""Label of pixels that are neither trained on nor scored."""
SPINS = "10000"
"""Turns that a waiting OpenMP thread takes before it sleeps. GNU's default, 300,000, costs several times the work's
time if other processes want the cores; without any, short loops pay for waking threads."""

# Read when torch loads OpenMP, so every process of the suite imports this package first. A user's own choice is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
