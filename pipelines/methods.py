"""Every method by name. A new one is a file, a line here and its section in params.yaml."""

from __future__ import annotations

import importlib
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
"""Method name -> module with `SECTIONS`, `check(params, benchmark)` and `build(setting)`; imported when used."""


def module_of(name: str) -> ModuleType:
    """The module of a method.

    Raises:
        UserError: there is no such method.
    """
    if name not in METHODS:
        raise UserError(f"{name!r} is no method; {nearest(name, METHODS)}")
    return importlib.import_module(METHODS[name])


def build_method(params: Params, benchmark: str, name: str) -> Method:
    """The method `name` for a benchmark, initialised from torch's current random state.

    Raises:
        UserError: the method or benchmark is not known, or a parameter of it is not valid.
    """
    from scpseg.contract import Setting  # torch: whoever only asks for names needs none

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
