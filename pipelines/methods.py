"""All methods by name. A new method is a file, a line here and its section in params.yaml."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from scpseg.benchmarks import get_benchmark
from scpseg.errors import UserError
from scpseg.params import Params, SegmenterParams
from scpseg.validation import nearest

if TYPE_CHECKING:
    from scpseg.contract import Method

METHODS: dict[str, str] = {
    "scpseg": "scpseg.method.scpseg",
    "patch": "baselines.patch",
    "downscale": "baselines.downscale",
    "resize": "baselines.resize",
    "large": "baselines.large",
    "glnet": "baselines.glnet",
    "fctl": "baselines.fctl",
    "isdnet": "baselines.isdnet",
    "wiconet": "baselines.wiconet",
    "magnet": "baselines.magnet",
    "rue": "baselines.rue",
    "caswit_like": "baselines.caswit_like",
}
"""Method name -> module with `SECTIONS`, `check(params, benchmark)` and `build(setting)`; imported on first use."""


def module_of(name: str) -> ModuleType:
    """The module of a method.

    Raises:
        UserError: unknown method.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    return importlib.import_module(METHODS[name])


def build_method(params: Params, benchmark: str, name: str) -> Method:
    """Build the method `name` for a benchmark, initialised from torch's current random state.

    Raises:
        UserError: the method or benchmark is unknown, or one of its parameters is not valid.
    """
    from scpseg.contract import Setting  # imports torch, which callers that only need names do not

    module = module_of(name)
    module.check(params, benchmark)
    setting = Setting(
        classes=len(get_benchmark(benchmark).classes),
        patch=params.benchmark(benchmark).patch,
        segmenter=params.section("segmenter", SegmenterParams),
        params=params,
        benchmark=benchmark,
    )
    method: Method = module.build(setting)
    return method


def source_files(name: str, common: Sequence[str]) -> list[Path]:
    """Files with the code of a method, and those in the files and folders `common`."""
    module = Path(METHODS[name].replace(".", "/") + ".py")
    # SCPSeg is a folder; a rival is a file, and parts that rivals share.
    own = [module.parent] if module.parts[0] == "scpseg" else [module, Path("baselines/parts")]
    return [path for root in (*map(Path, common), *own) for path in ([root] if root.is_file() else root.rglob("*.py"))]
