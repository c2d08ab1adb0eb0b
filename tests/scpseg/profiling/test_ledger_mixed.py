"""CUDA's rules on `meta` tensors against the real ones, which act on fake CUDA tensors too, forward only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from pipelines.memory import with_section, with_segmenter
from pipelines.methods import build_method
from scpseg.contract import Labels, Method, Views
from scpseg.params import Params
from scpseg.profiling.computed import _Undrawn
from scpseg.profiling.ledger import Ledger, cuda_rules
from scpseg.segmenters.build import KINDS

PARAMS = Params.load(Path(__file__).parents[3] / "params.yaml")
PATCH = 128
USUAL = [(segmenter, torch.float16) for segmenter in ("deeplabv3plus", "segformer")]
"""A network of convolutions and one of attention; the others have the same operations."""


@contextmanager
def real_autocast(kind: torch.dtype | None) -> Iterator[None]:
    """What `torch.autocast("cuda")` does, which switches itself off where there is no GPU."""
    if kind is None:
        yield
        return
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", kind)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def on(device: str, method: Method) -> None:
    """Put a method's tensors on a device that holds no values."""
    for module in method.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = nn.Parameter(torch.empty(parameter.shape, device=device))
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def losses(method: Method, device: str) -> Tensor:
    side = method.needs.context
    views = Views(
        torch.empty(2, 3, side, side, dtype=torch.uint8, device=device), torch.tensor([[0.0, 0, 0.5, 0.5]] * 2)
    )
    labels = Labels(torch.empty(2, side, side, dtype=torch.uint8, device=device))
    return torch.stack(list(method.losses(views, labels, 0.0).values())).sum()


def made(segmenter: str, name: str) -> Method:
    params = with_section(with_segmenter(PARAMS, segmenter), "segmenter", weights="random")
    params = with_section(params, "lfa", window=4)  # divides the maps, so that no place of the grid is drawn
    with _Undrawn():
        return build_method(with_section(params, "inria", patch=PATCH), "inria", name).train()


@pytest.mark.parametrize(
    ("segmenter", "kind"),
    [
        pytest.param(segmenter, kind, marks=[pytest.mark.soak] * (kind is not None and (segmenter, kind) not in USUAL))
        for segmenter in KINDS
        for kind in (None, torch.float16, torch.bfloat16)
    ],
)
def test_what_waits_for_the_backward_pass(segmenter: str, kind: torch.dtype | None) -> None:
    """Bytes alive after the losses and at the peak before, within 1 %: cuDNN's batch norm keeps a little more."""
    name = "scpseg" if kind else "patch"
    method = made(segmenter, name)
    with FakeTensorMode(), Ledger("cuda") as real:
        on("cuda", method)
        with real_autocast(kind):
            total = losses(method, "cuda")
        wanted = (real.live, real.peak().size)
        del total
    method = made(segmenter, name)
    with cuda_rules() as rules, Ledger() as ledger:
        on("meta", method)
        with rules.autocast(kind):
            total = losses(method, "meta")
        found = (ledger.live, ledger.peak().size)
        del total
    assert found == pytest.approx(wanted, rel=0.01)


def test_functions_and_methods_by_their_rules() -> None:
    with cuda_rules(), torch.autocast("meta", dtype=torch.bfloat16):
        x, y = torch.empty(1, 4, 8, 8, device="meta"), torch.empty(1, 4, 8, 8, device="meta", dtype=torch.bfloat16)
        assert (x @ x).dtype == torch.einsum("bcij,bcjk->bcik", x, x).dtype == torch.bfloat16
        assert F.conv2d(x, torch.empty(2, 4, 1, 1, device="meta")).dtype == torch.bfloat16
        assert y.softmax(1).dtype == F.layer_norm(y, (8,)).dtype == F.interpolate(y, (4, 4)).dtype == torch.float32
        assert (y**2).dtype == y.sum().dtype == F.cross_entropy(y, y.argmax(1)).dtype == torch.float32
        assert (y + 1).dtype == y.relu().dtype == torch.bfloat16
        with torch.autocast("meta", enabled=False):
            assert (x @ x).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32  # in host memory
    with pytest.raises(RuntimeError):
        torch.autocast("meta")


def test_a_weight_is_cast_once_while_autocast_lasts() -> None:
    layer = nn.Linear(512, 512, bias=False).to("meta")

    def run(many: int) -> int:
        with cuda_rules() as rules, Ledger() as ledger, rules.autocast(torch.float16):
            x: Any = torch.empty(1, 512, device="meta", dtype=torch.float16)
            for _ in range(many):
                x = layer(x)
        return ledger.peak().by_kind()["activations"]

    assert run(3) - run(1) == 2 * 1024  # two more results, no more weights


def test_dropout_keeps_a_byte_for_each_value() -> None:
    with cuda_rules(), Ledger() as ledger:
        x = torch.empty(2**18, device="meta", requires_grad=True)
        kept = F.dropout(x, 0.5)
        assert ledger.live == 2 * 2**20 + 2**18
        assert F.dropout(x, 0.5, training=False) is x
        assert nn.Dropout(0.1, inplace=True)(x.detach()).shape == kept.shape
