"""Procedural aerial scenes, and miniatures of the benchmarks in their upstream archives."""
