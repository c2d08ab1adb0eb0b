"""Live bytes of small graphs against what a person counts, on `meta` tensors of 1 MiB."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scpseg.profiling.ledger import Ledger

MIB = 2**20
SIDE = 512  # 512 x 512 float32 are 1 MiB


def mib(device: str = "meta", many: int = 1) -> Tensor:
    return torch.empty(many, SIDE, SIDE, device=device)


def test_a_chain_without_gradients_keeps_two_maps() -> None:
    with Ledger() as ledger, torch.no_grad():
        x = mib()
        for _ in range(5):
            x = x + 1
    assert ledger.peak().size == 2 * MIB and ledger.live == MIB


def test_a_chain_with_gradients_keeps_what_backward_needs() -> None:
    with Ledger() as ledger:
        x = mib().requires_grad_()
        y = x.exp().exp().exp()  # each keeps its result
        assert ledger.live == 4 * MIB
        # The sum and its gradient are one number each; beside the four maps one gradient, and the next made from it.
        y.sum().backward()
        assert ledger.peak().size == 4 * MIB + 2 * MIB + 1024
        del y
        assert ledger.live == 2 * MIB  # x and its gradient


def test_a_skip_connection_keeps_the_map_that_waits() -> None:
    with Ledger() as ledger, torch.no_grad():
        x = mib()
        y = x + 1
        y = y + 1
        y = x + y
        del x
    assert ledger.peak().size == 3 * MIB and ledger.live == MIB


def test_views_and_in_place_operations_take_nothing() -> None:
    with Ledger() as ledger, torch.no_grad():
        x = mib()
        part = x[0, :8].view(-1).unsqueeze(0)
        x.add_(1).relu_()
        F.relu(x, inplace=True)
        x.zero_()
        assert ledger.live == ledger.peak().size == MIB
        del x
        assert ledger.live == MIB  # the view holds the whole storage
        del part
    assert ledger.live == 0


def test_sizes_are_rounded_as_the_allocator_does() -> None:
    with Ledger() as ledger:
        tensors = [torch.empty(n, dtype=torch.uint8, device="meta") for n in (0, 1, 512, 513)]
        assert ledger.live == 0 + 512 + 512 + 1024
        assert len(tensors) == 4


def test_a_checkpoint_keeps_its_input_alone_and_computes_again() -> None:
    def part(x: Tensor) -> Tensor:
        return x.exp().exp().exp()

    def run(whole: Any) -> tuple[int, int]:
        with Ledger() as ledger:
            x = mib().requires_grad_()
            y = whole(x)
            kept = ledger.live
            y.sum().backward()
        return kept, ledger.peak().size

    plain = run(lambda x: part(part(x)))
    again = run(lambda x: checkpoint(part, checkpoint(part, x, use_reentrant=False), use_reentrant=False))
    assert plain == (7 * MIB, 7 * MIB + 2 * MIB + 1024)
    # x, the map between the parts, the result; the three maps of a part computed again, and the first gradient.
    assert again == (3 * MIB, 3 * MIB + 3 * MIB + MIB + 1024)


class Square(torch.autograd.Function):
    """Keeps its input for the backward pass and forms a map that it drops."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        dropped = x + 1
        return x * dropped

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * outputs[0]


def test_a_custom_function_keeps_what_it_saves() -> None:
    with Ledger() as ledger:
        x = mib().requires_grad_()
        y: Tensor = Square.apply(x)
        assert ledger.peak().size == 3 * MIB and ledger.live == 2 * MIB
        z: Tensor = Square.apply(y)
        del y
        assert ledger.live == 3 * MIB  # y is kept for the backward pass
        z.sum().backward()
        del z
        assert ledger.live == 2 * MIB


def test_weights_gradients_and_optimiser_state() -> None:
    model = nn.Linear(SIDE, SIDE, bias=False)
    with Ledger() as ledger:
        model.to("meta")
        ledger.label(model.named_parameters(), "weights")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.empty(1, SIDE, device="meta")).sum().backward()
            optimizer.step()
        state = optimizer.state[model.weight]["momentum_buffer"]
        ledger.label([("momentum", state), ("weight", model.weight.grad)], "kept")
        kinds = ledger.peak().by_kind()
    assert kinds["weights"] == MIB and kinds["kept"] == 2 * MIB
    assert ledger.live == 3 * MIB


def test_a_block_knows_its_module_forward_and_backward() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Sequential(nn.Sigmoid()))
    with Ledger() as ledger, ledger.naming(model):
        model.to("meta")
        model(torch.empty(1, 1, 64, 64, device="meta")).sum().backward()
    made = {(block.operation, block.module) for block, _ in ledger.events}
    assert {("aten.convolution", "0"), ("aten.sigmoid", "1.0"), ("aten.sigmoid_backward", "1.0")} <= made
    assert ("aten.convolution_backward", "0") in made
    assert ledger.flops == 2 * 64 * 64 * 4 * 2  # forward, and backward to the weights alone


def test_outside_of_modules_the_function_is_named() -> None:
    with Ledger() as ledger:
        mib()
    assert ledger.events[0][0].module == "mib()"


def test_a_storage_that_grows_in_place() -> None:
    with Ledger() as ledger, torch.no_grad():
        x = mib()
        x.resize_(3, SIDE, SIDE)
        assert ledger.live == 3 * MIB
        del x
    assert ledger.live == 0


def test_a_stretch_has_its_own_peak() -> None:
    with Ledger() as ledger:
        x = mib(many=4)
        del x
        first = len(ledger.events)
        y = mib()
        assert ledger.peak().size == 4 * MIB
        assert ledger.peak(first).size == ledger.peak(first, first + 1).size == MIB
        assert [block.shape for block in ledger.peak(first).blocks] == [(1, SIDE, SIDE)]
        del y


def test_values_read_back_are_zeros_in_host_memory() -> None:
    with Ledger() as ledger:
        x = torch.empty(2, 3, dtype=torch.float16, device="meta")
        host = x.cpu()
        assert host.device.type == "cpu" and host.dtype == torch.float16 and not host.any()
        assert x.sum().item() == 0
        assert ledger.live == 512
        with torch.inference_mode():  # where operations arrive whole
            assert x.float().cpu().shape == (2, 3)


def test_work_in_host_memory_does_not_count() -> None:
    with Ledger() as ledger:
        assert float((torch.ones(3) + 1).sum()) == 6
    assert ledger.events == []


def test_inference_mode_counts_the_same() -> None:
    """Composite operations such as enlargement must not be replaced by decompositions with memory of their own."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)).eval().to("meta")

    def peak(mode: Any) -> int:
        with Ledger() as ledger, mode:
            x = model(torch.empty(1, 3, 64, 64, device="meta"))
            F.interpolate(x, scale_factor=2.0, mode="bilinear").softmax(1)
        return ledger.peak().size

    assert peak(torch.inference_mode()) == peak(torch.no_grad())


@pytest.mark.parametrize("what", ["nonzero", "masked"])
def test_sizes_that_hang_on_values_cannot_be_computed(what: str) -> None:
    with Ledger(), pytest.raises(RuntimeError):
        x = mib()
        x.nonzero() if what == "nonzero" else x[x > 0]


def test_remembered_layouts_are_the_real_ones() -> None:
    """The second of two equal operations is answered from memory."""

    def maps() -> list[Tensor]:
        x = torch.empty(2, 3, 8, 8, device="meta").to(memory_format=torch.channels_last)
        pooled, index = F.max_pool2d(x, 2, return_indices=True)
        return [pooled, index, x.permute(0, 2, 3, 1) @ torch.empty(3, 5, device="meta", dtype=torch.float32), x.sum(1)]

    with Ledger():
        first, second = maps(), maps()
    for one, other in zip(first, second, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
