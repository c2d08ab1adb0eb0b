"""SCPSeg and its benchmark suite: accuracy against peak memory for ultra-high-resolution segmentation."""

import os

IGNORE_INDEX = 255
"""Label of pixels that are neither trained on nor scored."""
SPINS = "3000"
"""Turns that a waiting OpenMP thread takes before it sleeps: 3,000 cost nothing on a quiet machine (1,000 cost up to a
tenth, none a half). GNU's default, 300,000, takes up to four times as long if other processes want the cores."""

# Read when torch loads OpenMP, so every process of the suite imports this package first. A user's own choice is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
