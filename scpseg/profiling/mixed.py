"""Mixed precision and dropout on `meta` tensors as on CUDA; torch has no autocast for that device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_HALF = """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc prelu linear matmul
__matmul__ __rmatmul__ mm mv bmm addmm addmv addr addbmm baddbmm einsum chain_matmul multi_dot
scaled_dot_product_attention"""
_FULL = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus
layer_norm group_norm norm vector_norm matrix_norm nuclear_norm cosine_similarity cosine_embedding_loss nll_loss
cross_entropy kl_div l1_loss smooth_l1_loss huber_loss mse_loss binary_cross_entropy_with_logits dist pdist cdist renorm
logsumexp softmin softmax log_softmax prod cumprod cumsum interpolate upsample"""
HALF, FULL = frozenset(_HALF.split()), frozenset(_FULL.split())
"""Functions whose inputs autocast converts to half or to single precision (torch's lists for CUDA)."""


class CudaRules(TorchFunctionMode):
    """While active, `torch.autocast("meta", ...)` works, and dropout stores a mask of bytes as on CUDA."""

    def __init__(self) -> None:
        """Start in single precision."""
        super().__init__()
        self.kinds: list[torch.dtype | None] = [None]
        self.cast: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch with its inputs converted as by autocast."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "dropout" and args[0].is_meta:
            return _dropout(*args, **kwargs)
        kind = self.kinds[-1]
        if kind is not None:
            if name in HALF:
                args, kwargs = self._all(args, kind), {key: self._as(value, kind) for key, value in kwargs.items()}
            elif name in FULL:
                args = self._all(args, torch.float32)
                kwargs = {key: self._as(value, torch.float32) for key, value in kwargs.items()}
            elif name == "sum" and isinstance(args[0], Tensor) and args[0].dtype == kind:
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

    def _all(self, values: Any, kind: torch.dtype) -> Any:
        return type(values)(self._as(value, kind) for value in values)

    def _as(self, value: Any, kind: torch.dtype) -> Any:
        if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
            return self._all(value, kind)
        if not isinstance(value, Tensor) or not value.is_meta or not value.is_floating_point():
            return value
        if value.dtype in (kind, torch.float64):
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

        def autocast(
            device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
        ) -> Any:
            if device_type != "meta":
                return plain(device_type, dtype, enabled, cache_enabled)
            return rules.autocast((dtype or torch.float16) if enabled else None)

        with mock.patch.object(torch, "autocast", autocast):
            yield rules


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    kept: Tensor = torch.native_dropout(input, p, True)[0]
    return input.copy_(kept) if inplace else kept
