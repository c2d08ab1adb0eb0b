"""Synthetic aerial scenes, and miniatures of the benchmarks in the layout of their archives."""

NOTE = (
    "The synthetic scenes favour methods that see context. About a fifth of their pixels are surfaces that look the "
    "same in two classes (a flat roof and a paved yard, a field and a meadow); only what surrounds them tells the "
    "class. A patch of 64 pixels holds such a surface with its surroundings for 2 to 6 % of these pixels, a window of "
    "128 pixels for 36 to 68 %, depending on the benchmark. How much of the real benchmarks is like this is not known."
)
"""A statement for readers of scores on synthetic scenes; `make soak` measures its figures."""
