"""Streaming whole-image inference and the one confusion matrix."""
