"""What fails first on a GPU, found without one: tensors on the wrong device, types that meet, refused kernels.

Fake tensors say 'cuda' and check devices and types without computing, forward only; 'meta' tensors go backward too.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch._decomp import decompositions
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipelines.methods import METHODS, build_method
from scpseg import geometry
from scpseg.contract import Labels, Method, Phase, Views, drop_training_parts
from scpseg.evaluation import streaming
from scpseg.params import Params, TrainParams
from scpseg.segmenters.build import KINDS
from scpseg.training.phases import enter, shared
from scpseg.training.step import Stepper

VALUES = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
BENCHMARK, CLASSES, PATCH = "inria", 2, 64
CUDA, META = torch.device("cuda:0"), torch.device("meta")
BOX = [0.1, 0.2, 0.25, 0.25]
IMAGE = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)

CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS}
CASES |= {
    "glnet both": ("glnet", {"glnet.direction": "both", "glnet.recipe": "author", "glnet.windows": 1}),
    "fctl, eight views": ("fctl", {"fctl.views": 8}),
    "magnet fast": ("magnet", {"magnet.fast": True, "magnet.crop": 20}),
    "half of rue": ("rue", {"rue.share": 0.5, "rue.clamp": True}),
    "no frame": ("scpseg", {"csm.ratio": 1.0}),
    "bilinear": ("scpseg", {"csm.kernel": "bilinear", "csm.supervise": "centre"}),
    "no detail": ("scpseg", {"srd.weight": 0.0, "lfa.weight": 0.0}),
    "dense": ("scpseg", {"lfa.stride": 1}),
    "dense, both learn": ("scpseg", {"lfa.stride": 1, "lfa.detach": False}),
}
SEGMENTERS: dict[str, tuple[str, dict[str, Any]]] = {kind: ("scpseg", {"segmenter.name": kind}) for kind in KINDS}
SEGMENTERS["plain ddrnet"] = ("patch", {"segmenter.name": "ddrnet", "segmenter.auxiliary": False})
SEGMENTERS["pidnet-l"] = ("patch", {"segmenter.name": "pidnet", "segmenter.encoder": "pidnet-l"})
BUILT = CASES | SEGMENTERS
# The segmenters change seldom, and the default one is in every case; these modes are close to the method's own.
SOAK = (*SEGMENTERS, "fctl, eight views", "half of rue", "no frame", "bilinear", "no detail", "dense, both learn")
ALL = [pytest.param(name, marks=[pytest.mark.soak] * (name in SOAK)) for name in BUILT]
# Two cases differ at inference alone.
TRAINED = [case for case in ALL if case.values[0] not in ("fctl, eight views", "magnet fast")]

# Kernels without a deterministic form on CUDA, by ATen's names without a trailing underscore: the documentation of
# torch.use_deterministic_algorithms in torch 2.11 to 2.15, and the names that libtorch_cuda warns with. max_pool2d and
# upsample_nearest are not among them. Refused by less than the name (bincount with weights alone) is refused here.
REFUSED = re.compile(
    r"_?adaptive_(avg|max)_pool[23]d_backward|(avg_pool3d|max_pool3d_with_indices|fractional_max_pool[23]d)_backward"
    r"|max_unpool[23]d|_?upsample_(linear|bilinear|trilinear|bicubic|lanczos)[123]d(_aa)?_backward"
    r"|(reflection|replication)_pad[123]d_backward|grid_sampler_[23]d_backward|nll_loss2d_(forward|backward)"
    r"|_ctc_loss_backward|_embedding_bag(_dense)?_backward|put|histc|bincount|(nan)?median|kthvalue"
    r"|(scatter|index)_reduce|cumsum"
)


def make(case: str) -> tuple[Method, TrainParams]:
    return copy.deepcopy(built(case))


@cache
def built(case: str) -> tuple[Method, TrainParams]:
    name, changes = BUILT[case]
    values = copy.deepcopy(VALUES)
    values[BENCHMARK] |= {"patch": PATCH, "batch": 2}
    values["segmenter"] |= {"encoder": "tu-test_resnet.r160_in1k", "weights": "random", "auxiliary": True}
    values["lfa"]["window"] = 4
    values["downscale"]["side"] = 64
    values["glnet"] |= {"overview": 64, "width": 16}
    values["magnet"] |= {"side": 64, "width": 16, "crop": 32}
    values["isdnet"]["crop"] = values["rue"]["crop"] = 1.0
    kind = KINDS[changes.get("segmenter.name", "deeplabv3plus")]
    values["segmenter"]["output_stride"] = kind.output_strides[0]
    if kind.encoders:
        values["segmenter"]["encoder"] = kind.encoders[0]
    for key, value in changes.items():
        section, _, field = key.partition(".")
        values[section][field] = value
    torch.manual_seed(0)
    params = Params(values, Path("params.yaml"))
    return build_method(params, BENCHMARK, name), params.training(name)


def batch_for(method: Method, phase: Phase) -> tuple[Views, Labels]:
    """Two windows in host memory, with the overviews of both or of their one image."""
    side, whole = method.needs.context, method.needs.overview
    context = torch.arange(2 * 3 * side * side).reshape(2, 3, side, side).to(torch.uint8)
    label = torch.arange(2 * side * side).reshape(2, side, side).remainder(CLASSES).to(torch.uint8)
    views, labels = Views(context, torch.tensor([BOX] * 2)), Labels(label)
    if whole is None:
        return views, labels
    images = 1 if phase.unit == "image" else 2
    overview = torch.zeros(images, 3, whole, whole, dtype=torch.uint8)
    return Views(views.context, views.place, overview), Labels(label, overview[:, 0])


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what is read back on the host: a window's place, where the grid of alignment lies, overviews."""
    known = geometry.cells

    def cells(place: Tensor, size: tuple[int, int]) -> Any:
        return known(SimpleNamespace(tolist=lambda: [BOX] * len(place)), size)  # type: ignore[arg-type]

    drawn, reduce = torch.randint, streaming.reduce_image

    def reduced(image: Any, side: int) -> Any:
        with unset_fake_temporarily():  # on the host with real numbers, as it is beside a GPU
            return reduce(image, side)

    monkeypatch.setattr(streaming, "reduce_image", reduced)
    monkeypatch.setattr(geometry, "cells", cells)
    monkeypatch.setattr(torch, "randint", lambda *a, **k: a[0] - 1 if a[1:] == ((),) else drawn(*a, **k))


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def onto_cuda(module: nn.Module) -> None:
    """As `to`, which fake tensors refuse; what is neither parameter nor buffer stays behind."""
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = nn.Parameter(parameter.detach().to(CUDA))
        for key, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[key] = buffer.to(CUDA)


@contextmanager
def autocast(kind: torch.dtype | None) -> Iterator[None]:
    """CUDA's rules of mixed precision; `torch.autocast` switches them off where there is no GPU."""
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


class Operations(TorchDispatchMode):
    """The names of all kernels that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.split("::")[1].rstrip("_"))
        return func(*args, **(kwargs or {}))

    def refused(self) -> set[str]:
        return {name for name in self.names if REFUSED.fullmatch(name)}


class Band:
    """Stands in for the scores in host memory, which are numpy's in the end."""

    def __init__(self, labels: np.ndarray, classes: int, rows: int) -> None:
        self.shape, self.added = (classes, rows), 0

    def add(self, scores: Tensor, top: int, left: int) -> None:
        assert (scores.device.type, scores.dtype) == ("cpu", torch.float32) and tuple(scores.shape[:2]) == self.shape
        self.added += 1

    def finish(self) -> int:
        return self.added


def losses_on_cuda(method: Method, kind: torch.dtype | None = None) -> None:
    for phase in method.phases():
        enter(method, phase)
        views, labels = batch_for(method, phase)
        with autocast(kind):
            losses = method.losses(views.to(CUDA), labels.to(CUDA), 0.5)
        assert losses and all(loss.device == CUDA and loss.shape == () for loss in losses.values())


@pytest.fixture
def one_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deterministic form of enlargement at its first call alone: it is sixty operations, half of a test's time."""
    slow, calls = decompositions._upsample_linear_vec, count()

    def enlarged(maps: Tensor, size: Any, *rest: Any) -> Tensor:
        if not next(calls):
            return slow(maps, size, *rest)
        size = decompositions.upsample_compute_output_size(maps.size(), size, rest[-1])
        return maps.mean((2, 3), keepdim=True).expand(*maps.shape[:2], *size).clone()

    monkeypatch.setattr(decompositions, "_upsample_linear_vec", enlarged)


@pytest.mark.usefixtures("blind", "deterministic", "one_detour")
@pytest.mark.parametrize("case", ALL)
def test_nothing_is_left_on_the_host_and_costs_and_deterministic_enlargement_are_those_of_cuda(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, _ = make(case)
    monkeypatch.setattr(streaming, "_Band", Band)
    with FlopCounterMode(display=False) as expected:
        streaming.segment(drop_training_parts(make(case)[0]), IMAGE, CLASSES, torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as operations:
        onto_cuda(method)
        losses_on_cuda(method)
        windows = len(streaming.TestImage(IMAGE, method.needs_at(96, 64), CUDA).corners())
        with FlopCounterMode(display=False) as counted:
            assert streaming.segment(drop_training_parts(method), IMAGE, CLASSES, CUDA) == windows
    assert operations.refused() == set() and "upsample_bilinear2d" not in operations.names
    assert "_unsafe_index" in operations.names
    assert counted.get_total_flops() == expected.get_total_flops() > 0


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("case", TRAINED)
def test_types_meet_in_mixed_precision(case: str) -> None:
    """CUDA's list of what is computed in full is not the CPU's: enlargement is on it. Without deterministic kernels."""
    method, _ = make(case)
    with FakeTensorMode(allow_non_fake_inputs=True):
        onto_cuda(method)
        losses_on_cuda(method, torch.bfloat16)


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("case", TRAINED)
def test_a_step_leaves_nothing_on_the_host(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, train = make(case)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    stepper = Stepper(method.to(META), train, META)
    for phase in method.phases():
        stepper.begin(phase, phase.recipe or shared(train, 2))
        # Portions are added up in the same way for every method.
        means = stepper([(*batch_for(method, phase), 0.5)] * (2 if case == "scpseg" else 1), 0.5)
        assert all(mean.device == META for mean in means.values())
        assert all(parameter.grad is not None and parameter.grad.device == META for parameter in stepper.moving)


def refused(step: Callable[[], None]) -> set[str]:
    with Operations() as operations:
        step()
    return operations.refused()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("case", TRAINED)
def test_every_kernel_of_a_step_has_a_deterministic_form(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, train = make(case)
    # On CUDA torch takes this detour by itself; the first test sees that it does.
    monkeypatch.setattr(torch._C._nn, "upsample_bilinear2d", decompositions._upsample_linear_vec)
    stepper = Stepper(method, train, torch.device("cpu"))
    for phase in method.phases():
        stepper.begin(phase, phase.recipe or shared(train, 2))
        assert refused(lambda given=phase: stepper([(*batch_for(method, given), 1.0)], 0.5)) == set()
    drop_training_parts(method)
    assert refused(lambda: streaming.segment(method, IMAGE, CLASSES, torch.device("cpu"))) == set()


@pytest.mark.parametrize(
    "kernel",
    [
        lambda x: F.cross_entropy(x, torch.zeros(1, 8, 8, dtype=torch.long)),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.pad(x, [1] * 4, mode="reflect"),
        lambda x: F.interpolate(x, size=(5, 5), mode="bilinear", antialias=True),
        lambda x: F.grid_sample(x, torch.zeros(1, 2, 2, 2), align_corners=False),
    ],
)
def test_the_trace_notices(kernel: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert refused(lambda: kernel(x).sum().backward())


def test_fakes_notice_what_stays_behind() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=CUDA) * torch.ones(3)
