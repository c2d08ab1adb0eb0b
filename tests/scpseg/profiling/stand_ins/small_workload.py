"""A fresh process that measures a small method with `extra` MiB more live at its peak: -m small_workload ANSWER.

The steps are those of `scpseg.profiling.workload.measure` without timing and counting.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scpseg.contract import Labels, Method, Needs, Views
from scpseg.evaluation.streaming import segment
from scpseg.profiling.meters import RssMeter
from scpseg.profiling.workload import random_image


class Small(Method):
    def __init__(self, extra: int) -> None:
        super().__init__()
        self.needs = Needs(patch=128, context=128)
        self.extra = extra
        self.first, self.last = nn.Conv2d(3, 128, 3, padding=1), nn.Conv2d(128, 5, 3, padding=1)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        held = torch.ones(self.extra * 2**20, dtype=torch.uint8)
        logits: Tensor = self.last(self.first(views.context.float()).relu())
        del held
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        raise AssertionError


if __name__ == "__main__":
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    meter = RssMeter()
    meter.prepare()
    image = random_image(256, 256)
    method = Small(request["extra"]).eval()
    for number in range(3):
        if number == 1:
            meter.begin()
        segment(method, image, 5, torch.device("cpu"))
    Path(sys.argv[1]).write_text(json.dumps(meter.finish()))
    meter.close()
