"""Base segmenters by name, behind one interface."""
