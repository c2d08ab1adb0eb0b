"""What the README shows works."""

import re
from pathlib import Path
from types import ModuleType

import torch

from scpseg.benchmarks import BENCHMARKS
from scpseg.contract import Labels, Setting, Views
from scpseg.params import Params, SegmenterParams

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_method_trains_and_predicts() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    module = ModuleType("mean_colour")
    exec(compile(code, "mean_colour", "exec", dont_inherit=True), module.__dict__)
    params = Params({**Params.load(ROOT / "params.yaml").values, "mean_colour": {"context": 2}}, Path("params.yaml"))
    module.check(params, "potsdam")
    method = module.build(Setting(6, 64, params.section("segmenter", SegmenterParams), params))
    views = Views(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), torch.rand(2, 4))
    labels = Labels(torch.randint(0, 6, (2, 128, 128), dtype=torch.uint8))
    sum(method.losses(views, labels, 0.0).values()).backward()
    assert method.bias.weight.grad.abs().sum() > 0
    assert method.eval()(views).shape == (2, len(BENCHMARKS["potsdam"].classes), 64, 64)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists() or target.startswith("reports/"), target
