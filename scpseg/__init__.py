"""SCPSeg and the bench that measures it: accuracy against peak memory on ultra-high-resolution images."""

IGNORE_INDEX = 255
"""Label value that is neither trained on nor counted."""
