"""Code on `meta` tensors, which have no values, as on CUDA: exact live bytes, mixed precision and dropout; no device.

Memory that no tensor owns is not seen: workspaces of cuDNN and cuBLAS, the CUDA context, what the allocator loses
between blocks. Code in which sizes of tensors depend on values of tensors cannot run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import flop_registry

GRANULE = 512  # bytes: PyTorch's CUDA allocator rounds every block up to a multiple of it
ACTIVATIONS = "activations"
_HALF = """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc prelu linear matmul
__matmul__ __rmatmul__ mm mv bmm addmm addmv addr addbmm baddbmm einsum chain_matmul multi_dot
scaled_dot_product_attention"""
_FULL = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus
layer_norm group_norm norm vector_norm matrix_norm nuclear_norm cosine_similarity cosine_embedding_loss nll_loss
cross_entropy kl_div l1_loss smooth_l1_loss huber_loss mse_loss binary_cross_entropy_with_logits dist pdist cdist renorm
logsumexp softmin softmax log_softmax prod cumprod cumsum interpolate upsample"""
HALF, FULL = frozenset(_HALF.split()), frozenset(_FULL.split())
"""Functions whose inputs autocast converts to half or to single precision (torch's lists for CUDA)."""


@dataclass(eq=False, slots=True)
class Block:
    """A storage: `size` in bytes, rounded up to the granularity; shape and dtype of the tensor it was created for.

    `operation` is ATen's name of what created it; `module` the path of the module that did, or the function outside all
    modules; in a backward pass, of the forward operation that is differentiated. `kind` is its purpose.
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
    blocks: list[Block]

    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind of block."""
        kinds = {block.kind for block in self.blocks}
        return {kind: sum(block.size for block in self.blocks if block.kind == kind) for kind in kinds}


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the creation and release of storages on one type of device while it is active.

    `events` are (block, created) in order, of a block one True and later one False; `live` is the current number of
    bytes, `high` its highest since it was last set; `flops` are the operations of the convolutions and matrix products
    so far, by torch's counter.
    """

    def __init__(self, device: str = "meta", granule: int = GRANULE) -> None:
        """Watch storages on `device`: 'meta', or 'cpu' to compare with a real allocator."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.granule = device, granule
        self.events: list[tuple[Block, bool]] = []
        self.live = self.high = self.flops = 0
        self._known: dict[int, tuple[weakref.ref[Any], Block]] = {}
        self._modules: list[str] = []
        self._origin: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and record new storages in its results."""
        kwargs = kwargs or {}
        if _composite(func):  # arrives undivided in inference mode; its parts allocate
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if self.device == "meta" and (host := _on_host(func, args, kwargs)) is not None:
            return host
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

        with hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave, always_call=True):
            yield

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
        changes = (block.size if born else -block.size for block, born in self.events[:last])
        sizes = list(accumulate(changes, initial=0))
        where = max(range(first, len(sizes)), key=sizes.__getitem__)  # the first of several
        dead = {block for block, born in self.events[:where] if not born}
        alive = [block for block, born in self.events[:where] if born and block not in dead]
        return Peak(sizes[where], sorted(alive, key=lambda block: -block.size))

    def _run(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, int]:
        """Results and flops; on `meta`, only sizes matter, so known results are not computed again."""
        key = None
        if self.device == "meta" and _pure(func):
            leaves, form = tree_flatten((args, kwargs))
            inputs = ((x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves)
            key = (func, form, *map(type, leaves), *inputs)
        if key in _KNOWN:
            known, flops = _KNOWN[key]
            return _copy(known), flops
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **kwargs, out_val=out) if count else 0
        if key is not None:
            shared = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
            results = _tensors(out)
            if results and all(one.is_meta and one.untyped_storage()._cdata not in shared for one in results):
                _KNOWN[key] = (_copy(out), flops)
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
        if known := self._known.get(key):
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
        self.high = max(self.high, self.live)

    def _die(self, key: int) -> None:
        if known := self._known.pop(key, None):
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
"""(operation, sizes of its inputs) -> its results, flops."""


@cache
def _pure(func: Any) -> bool:
    """Whether an operation returns only what is new and writes to no tensor."""
    return not func._schema.is_mutable and all(one.alias_info is None for one in func._schema.returns)


def _copy(out: Any) -> Any:
    """The same structure with new tensors."""
    return tree_map_only(Tensor, lambda one: one.new_empty_strided(one.shape, one.stride()), out)


@cache
def _composite(func: Any) -> bool:
    query = func.namespace == "prim"  # to a tensor subclass, such as its device
    return not query and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _on_host(func: Any, args: Any, kwargs: Any) -> Any:
    """Zeros in host memory for an operation that reads values from `meta`, which has none; None for any other.

    Methods whose graph depends on tensor values cannot be computed this way.
    """
    aten: Any = torch.ops.aten
    source: Any = args[0] if args else None
    if func is aten.copy_.default:
        return source.zero_() if args[1].is_meta and not source.is_meta else None
    if func not in (aten._to_copy.default, aten._local_scalar_dense.default) or not source.is_meta:
        return None
    zero = torch.zeros((), dtype=kwargs.get("dtype") or source.dtype)
    if func is aten._local_scalar_dense.default:
        return zero.item()
    return zero.expand(source.shape) if torch.device(kwargs.get("device") or "meta").type == "cpu" else None


class CudaRules(TorchFunctionMode):
    """While active, `torch.autocast("meta", ...)` works, and dropout stores a mask of bytes as on CUDA."""

    def __init__(self) -> None:
        """Start in single precision."""
        super().__init__()
        self.kinds: list[torch.dtype | None] = [None]
        self.cast: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch with its inputs converted as by autocast."""
        kwargs, kind = kwargs or {}, self.kinds[-1]
        name = getattr(func, "__name__", "")
        if name == "dropout" and args[0].is_meta:
            return _dropout(*args, **kwargs)
        if kind is not None and (name in HALF or name in FULL):
            wanted = kind if name in HALF else torch.float32
            args, kwargs = tree_map(lambda value: self._as(value, wanted), (args, kwargs))
        elif kind is not None and name == "sum" and isinstance(args[0], Tensor) and args[0].dtype == kind:
            kwargs.setdefault("dtype", torch.float32)
        return func(*args, **kwargs)

    @contextmanager
    def autocast(self, kind: torch.dtype | None) -> Iterator[None]:
        """Half precision of `kind` within the block; None for single precision."""
        self.kinds.append(kind)
        try:
            yield
        finally:
            self.kinds.pop()
            if len(self.kinds) == 1:
                self.cast.clear()

    def _as(self, value: Any, kind: torch.dtype) -> Any:
        float_on_meta = isinstance(value, Tensor) and value.is_meta and value.is_floating_point()
        if not float_on_meta or value.dtype in (kind, torch.float64):
            return value
        # Weights are converted once for all their uses, until the outermost block ends.
        if kind == torch.float32 or not (value.requires_grad and value.is_leaf):
            return value.to(kind)
        if id(value) not in self.cast:
            self.cast[id(value)] = (value, value.to(kind))
        return self.cast[id(value)][1]


@contextmanager
def cuda_rules() -> Iterator[CudaRules]:
    """Activate `CudaRules`, and make `torch.autocast` use it."""
    plain = torch.autocast
    with CudaRules() as rules:

        def autocast(device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **more: Any) -> Any:
            if device_type != "meta":
                return plain(device_type, dtype, enabled, **more)
            return rules.autocast((dtype or torch.float16) if enabled else None)

        with mock.patch.object(torch, "autocast", autocast):
            yield rules


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    kept: Tensor = torch.native_dropout(input, p, True)[0]
    return input.copy_(kept) if inplace else kept
