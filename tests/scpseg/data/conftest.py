"""A tiny DeepGlobe in a folder, for tests of what lies between archives and the store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scpseg.benchmarks import BENCHMARKS

Write = Callable[..., dict[str, tuple[np.ndarray, np.ndarray]]]


@pytest.fixture
def write_pairs() -> Write:
    """write_pairs(folder, ids, height, width): pairs as upstream names them; returns decoded images and label ids."""

    def write(folder: Path, ids: list[str], height: int = 20, width: int = 16) -> dict[str, tuple]:
        folder.mkdir(parents=True, exist_ok=True)
        palette = np.array([cls.colour for cls in BENCHMARKS["deepglobe"].classes], np.uint8)
        made = {}
        for id in ids:
            chance = np.random.default_rng(int(id))
            label = chance.integers(0, 7, (height, width), dtype=np.uint8)
            image = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{id}_sat.jpg", quality=95)
            Image.fromarray(palette[label]).save(folder / f"{id}_mask.png")
            with Image.open(folder / f"{id}_sat.jpg") as picture:
                made[id] = (np.asarray(picture), label)
        return made

    return write
