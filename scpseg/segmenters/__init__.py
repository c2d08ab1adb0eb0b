"""Base segmenters by name, with a common interface."""
