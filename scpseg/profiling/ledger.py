"""Record the creation and release of every storage while code runs on `meta` tensors: exact live bytes, no device.

Memory that no tensor owns is not seen: workspaces in kernels, the CUDA context, fragmentation.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GRANULE = 512
"""Granularity in bytes: PyTorch's CUDA allocator rounds every block up to a multiple of it."""
ACTIVATIONS = "activations"


@dataclass(eq=False, slots=True)
class Block:
    """A storage on the device.

    Attributes:
        size: bytes, rounded up to the granularity.
        shape: shape of the tensor for which it was created.
        dtype: of that tensor, such as 'float32'.
        operation: ATen's name of the operation that created it.
        module: path of the module that created it, or the function outside all modules; in a backward pass, of the
            forward operation that is differentiated.
        kind: purpose; ACTIVATIONS unless set otherwise.
    """

    size: int
    shape: tuple[int, ...]
    dtype: str
    operation: str
    module: str
    kind: str = ACTIVATIONS


@dataclass(frozen=True)
class Peak:
    """The moment with the most live bytes: their number, and the live blocks, largest first."""

    size: int
    blocks: tuple[Block, ...]

    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind of block."""
        sums: dict[str, int] = defaultdict(int)
        for block in self.blocks:
            sums[block.kind] += block.size
        return dict(sums)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the creation and release of storages on one type of device while it is active.

    Attributes:
        events: (block, created) in order; a block has one True and later one False.
        live: current number of bytes.
        flops: operations of the convolutions and matrix products so far, by torch's counter.
    """

    def __init__(self, device: str = "meta", granule: int = GRANULE) -> None:
        """Watch storages on `device`: 'meta', or 'cpu' to compare with a real allocator."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.granule = device, granule
        self.events: list[tuple[Block, bool]] = []
        self.live = 0
        self.flops = 0
        self._known: dict[int, tuple[weakref.ref[Any], Block]] = {}
        self._modules: list[str] = []
        self._origin: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and record new storages in its results."""
        kwargs = kwargs or {}
        if _composite(func):  # arrives undivided in inference mode; its parts allocate
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if self.device == "meta" and _to_host(func, args, kwargs):
            return _host_result(func, args, kwargs)
        out, flops = self._run(func, args, kwargs)
        self.flops += flops
        where = self._where()
        for tensor in _tensors(out):
            if tensor.device.type == self.device:
                self._see(tensor, func, where)
        return out

    @contextmanager
    def naming(self, model: nn.Module) -> Iterator[None]:
        """Register the modules of `model` with their paths."""
        names = {module: name for name, module in model.named_modules()}

        def enter(module: nn.Module, inputs: Any) -> None:
            self._modules.append(names.get(module) or (self._modules[-1] if self._modules else ""))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._modules.pop()

        handles = [
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._modules.clear()
            self._origin.clear()

    def label(self, tensors: Iterable[tuple[str, Tensor | None]], kind: str) -> None:
        """Set the kind and the names of tensors' storages; tensors on other devices are ignored."""
        for name, tensor in tensors:
            known = None if tensor is None else self._known.get(tensor.untyped_storage()._cdata)
            if known:
                known[1].kind, known[1].module = kind, name

    def label_live(self, kind: str) -> None:
        """Set the kind of all live activations."""
        for _, block in self._known.values():
            if block.kind == ACTIVATIONS:
                block.kind = kind

    def peak(self, first: int = 0, last: int | None = None) -> Peak:
        """The peak among events `first` to `last` - 1; the earliest if there are several."""
        alive: dict[Block, None] = {}
        size, highest = 0, -1
        stop = len(self.events) if last is None else last
        where = first
        for index, (block, born) in enumerate(self.events[:stop]):
            size += block.size if born else -block.size
            if index >= first - 1 and size > highest:
                highest, where = size, index + 1
        for block, born in self.events[:where]:
            if born:
                alive[block] = None
            else:
                del alive[block]
        return Peak(max(highest, 0), tuple(sorted(alive, key=lambda block: -block.size)))

    def _run(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, int]:
        """Results and flops; on `meta`, only sizes matter, so known results are not computed again."""
        key = (func, _signature(args), _signature(kwargs)) if self.device == "meta" and _functional(func) else None
        if key in _KNOWN:
            layout, flops = _KNOWN[key]
            return _made(layout), flops
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **kwargs, out_val=out) if count else 0
        if key is not None:
            shared = {tensor.untyped_storage()._cdata for tensor in _tensors([*args, *kwargs.values()])}
            results = list(_tensors(out))
            if results and all(one.is_meta and one.untyped_storage()._cdata not in shared for one in results):
                _KNOWN[key] = (_layout(out), flops)
        return out, flops

    def _where(self) -> str:
        node = torch._C._current_autograd_node()
        if node is not None and not self._modules:
            return self._origin.get(node._sequence_nr(), "")
        where = (self._modules[-1] if self._modules else "") or _function()
        if node is None and torch.is_grad_enabled():
            # The autograd node of this operation has just received its number.
            self._origin[torch._C._autograd._get_sequence_nr() - 1] = where
        return where

    def _see(self, tensor: Tensor, func: Any, module: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        size = -(-storage.nbytes() // self.granule) * self.granule
        known = self._known.get(key)
        if known:
            if known[1].size == size:
                return
            self._die(key)  # resized in place: the old bytes are freed after the new ones are allocated
        if not size:
            return
        dtype, name = str(tensor.dtype).removeprefix("torch."), func._overloadpacket._qualified_op_name
        block = Block(size, tuple(tensor.shape), dtype, name.replace("::", "."), module)
        self._known[key] = (weakref.ref(storage, lambda _: self._die(key)), block)
        self.events.append((block, True))
        self.live += size

    def _die(self, key: int) -> None:
        known = self._known.pop(key, None)
        if known:
            self.events.append((known[1], False))
            self.live -= known[1].size


_LIBRARY = (os.path.dirname(torch.__file__), os.path.dirname(__file__), contextlib.__file__)


def _function() -> str:
    """Name of the innermost function outside torch and this package; does not touch local variables."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    return f"{frame.f_code.co_qualname}()"


_KNOWN: dict[Any, tuple[Any, int]] = {}
"""(operation, sizes of its inputs) -> sizes of its results, flops."""


@cache
def _functional(func: Any) -> bool:
    """Whether an operation returns only new tensors and writes to none."""
    schema = func._schema
    returns = [str(one.type) for one in schema.returns]
    return not schema.is_mutable and all(one.alias_info is None for one in schema.returns) and "Tensor" in str(returns)


def _signature(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype, value.device.type)
    if isinstance(value, (tuple, list)):
        return tuple(map(_signature, value))
    if isinstance(value, dict):
        return tuple((key, _signature(part)) for key, part in value.items())
    return (type(value), value)


def _layout(out: Any) -> Any:
    if isinstance(out, Tensor):
        return (tuple(out.shape), out.stride(), out.dtype)
    return None if out is None else [_layout(part) for part in out]


def _made(layout: Any) -> Any:
    if isinstance(layout, tuple):
        shape, stride, dtype = layout
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return None if layout is None else [_made(part) for part in layout]


@cache
def _composite(func: Any) -> bool:
    if func.namespace == "prim":  # a query to a tensor subclass, such as its device
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for part in out:
            yield from _tensors(part)


def _to_host(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation reads values from the device; meta tensors have none."""
    if func is torch.ops.aten._to_copy.default:
        device = kwargs.get("device")
        return device is not None and torch.device(device).type == "cpu" and args[0].is_meta
    if func is torch.ops.aten.copy_.default:
        return bool(args[1].is_meta and not args[0].is_meta)
    return func is torch.ops.aten._local_scalar_dense.default and bool(args[0].is_meta)


def _host_result(func: Any, args: Any, kwargs: Any) -> Any:
    """Zeros in host memory. Methods whose graph depends on tensor values cannot be computed this way."""
    source = args[0]
    if func is torch.ops.aten.copy_.default:
        return source.zero_()
    zero = torch.zeros((), dtype=kwargs.get("dtype") or source.dtype)
    if func is torch.ops.aten._local_scalar_dense.default:
        return zero.item()
    return zero.expand(source.shape)
