"""SCPSeg and its benchmark suite: accuracy against peak memory for ultra-high-resolution segmentation."""

IGNORE_INDEX = 255
"""Label of pixels that are neither trained on nor scored."""
