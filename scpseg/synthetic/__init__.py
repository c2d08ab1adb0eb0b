"""Synthetic aerial scenes, and miniatures of the benchmarks in the layout of their archives."""
