"""SCPSeg's own parts, its training step beside the plain one, and the training loop beside a bare one."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines import patch as plain
from pipelines.bench.rows import MIB, Peer, Row, Work, compared, interleaved, peak
from pipelines.bench.scene import scene, write_store
from scpseg.contract import Labels, Method, Setting, Views
from scpseg.data.sampling import WindowDataset, loader
from scpseg.data.store import Store
from scpseg.method import scpseg
from scpseg.method.csm import Sizes, squeeze
from scpseg.method.lfa import LFAParams, alignment
from scpseg.params import Params, SegmenterParams, TrainParams
from scpseg.segmenters.base import normalise
from scpseg.training.loop import train

PAPER = ((256, 16), (512, 8))
"""(patch L in pixels, windows per step) of the paper; ratio 0.75 and context 2 in both."""
SHARE = 4
"""Steps have a quarter of the paper's batch."""
DENSE = LFAParams(weight=0.5, window=7, stride=1, detach=True)
SEGMENTER = SegmenterParams("deeplabv3plus", "resnet18", 8, "random", True)
SMALL = SegmenterParams("deeplabv3plus", "tu-test_resnet.r160_in1k", 8, "random", True)
CPU = torch.device("cpu")
CELLS = {256: 48, 512: 96}
"""Side of the feature map of the squeezed patch, by L."""
LOOP, LOOP_SIDE = 8, 400
"""Steps per repeat of the loop, and the side of its images."""


def setting(patch: int, segmenter: SegmenterParams = SEGMENTER, srd: float = 0.5, lfa: float = 0.5) -> Setting:
    """The paper's settings with 7 classes; weights 0 leave a part out."""
    sections = {
        "csm": {"ratio": 0.75, "context": 2.0, "kernel": "antialias", "supervise": "frame"},
        "srd": {"weight": srd},
        "lfa": {"weight": lfa, "window": 7, "stride": "k", "detach": True},
    }
    return Setting(7, patch, segmenter, Params(sections, Path("params.yaml")))


def build(patch: int, srd: float = 0.5, lfa: float = 0.5) -> scpseg.SCPSeg:
    """SCPSeg on DeepLabv3+ with ResNet-18 at output stride 8, random weights."""
    method = scpseg.build(setting(patch, srd=srd, lfa=lfa))
    assert isinstance(method, scpseg.SCPSeg)
    return method


def nine(windows: Tensor, sizes: Sizes) -> Tensor:
    """The squeezing as the paper draws it: nine interpolations of the float window, joined."""
    whole = windows.float()
    rows = []
    for down, down_to in sizes.tiles:
        parts = []
        for across, across_to in sizes.tiles:
            size = (down_to.stop - down_to.start, across_to.stop - across_to.start)
            part = whole[..., down, across]
            parts.append(F.interpolate(part, size=size, mode="bilinear", align_corners=False, antialias=True))
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=-2)


def explicit_windows(features: Tensor, teacher: Tensor, params: LFAParams) -> Tensor:
    """The dense loss as equation 8 is written, with all windows built."""
    grams: list[Tensor] = []
    for x in (features, teacher):
        columns = F.unfold(F.normalize(x, dim=1), params.window)
        cells = columns.reshape(x.shape[0], x.shape[1], params.window**2, -1).permute(0, 3, 2, 1)
        grams.append(cells @ cells.mT)
    return (grams[0] - grams[1]).abs().mean()


Loss = Callable[[Tensor, Tensor, LFAParams], Tensor]
LOSSES: dict[str, Loss] = {"ours": alignment, "unfold": explicit_windows}


def maps(batch: int, cells: int) -> tuple[Tensor, Tensor]:
    """Features with gradient and the teacher's, at the sizes of DeepLabv3+ and the super-resolution decoder."""
    torch.manual_seed(0)
    return torch.randn(batch, 256, cells, cells, requires_grad=True), torch.randn(batch, 32, cells, cells)


def with_gradient(loss: Loss, features: Tensor, teacher: Tensor) -> None:
    """The loss over all windows, forward and backward."""
    torch.autograd.backward(loss(features, teacher, DENSE))


def normalised(features: Tensor, teacher: Tensor) -> None:
    """The part of the loss that no form can do without."""
    torch.autograd.backward(F.normalize(features, dim=1).sum() + F.normalize(teacher, dim=1).sum())


def ready(name: str, batch: int, cells: int) -> Work:
    """For a fresh process: the dense loss and its gradient, warmed up on small maps."""
    loss = LOSSES[name]
    with_gradient(loss, *maps(1, 8))
    features, teacher = maps(batch, cells)
    return partial(with_gradient, loss, features, teacher)


def squeezing(repeats: int) -> list[Row]:
    """CSM on a whole batch at both sizes."""
    found = []
    for patch, batch in PAPER:
        method = build(patch)
        sizes, side = method.sizes, method.needs.context
        windows = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
        torch.testing.assert_close(squeeze(windows, sizes, "antialias"), nine(windows, sizes))
        works: dict[str, Work] = {
            "ours": partial(squeeze, windows, sizes, "antialias"),
            "nine": partial(nine, windows, sizes),
        }
        took = interleaved(works, repeats)
        few = normalise(squeeze(windows[: batch // SHARE], sizes, "antialias"), method.weights)
        network = method.segmenter.eval()
        with torch.inference_mode():
            forward = interleaved({"forward": partial(network, few)}, 2)["forward"]
        share = statistics.median(took["ours"]) / (statistics.median(forward) * SHARE)
        limit = f"{share:.1%} of the network's forward pass on the same windows"
        peers = [Peer("nine torch interpolations of the float window, joined", "torch", "nine", 1.0)]
        found += compared("method", f"CSM, {batch} windows, L = {patch}", "ms", 1e3, took, peers, limit)
    return found


def aligning(repeats: int) -> list[Row]:
    """LFA over every window at both sizes: time, and memory."""
    found = []
    peers = [Peer("all windows built with torch's unfold", "torch", "unfold", 5.0)]
    for patch, whole in PAPER:
        batch, cells = whole // SHARE, CELLS[patch]
        features, teacher = maps(batch, cells)
        torch.testing.assert_close(alignment(features, teacher, DENSE), explicit_windows(features, teacher, DENSE))
        works: dict[str, Work] = {
            name: partial(with_gradient, loss, features, teacher) for name, loss in LOSSES.items()
        }
        works["normalise"] = partial(normalised, features, teacher)
        took = interleaved(works, repeats)
        share = statistics.median(took["normalise"]) / statistics.median(took["ours"])
        limit = f"normalising both maps, forward and backward, takes {share:.0%} of it; the rest are sums of products"
        name = f"LFA on all windows with its gradient, {batch} windows, L = {patch}"
        found += compared("method", name, "ms", 1e3, took, peers, limit)
        memory = {work: [peak(f"{__name__}:ready", work, batch, cells)] for work in LOSSES}
        larger = [Peer(peers[0].name, "torch", "unfold", 10.0)]
        size = features.nbytes / MIB
        limit = f"the larger map and its gradient have {size:.0f} MiB each"
        found += compared("method", f"memory of {name}", "MiB", 1.0, memory, larger, limit, "peak above the two maps")
    return found


def step(method: Method, batch: int) -> Work:
    """Losses and gradient of random windows."""
    side = method.needs.context
    views = Views(torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8), torch.zeros(batch, 4))
    labels = Labels(torch.randint(0, 7, (batch, side, side), dtype=torch.uint8))

    def work() -> None:
        method.train().zero_grad()
        torch.autograd.backward(list(method.losses(views, labels, 0.0).values()))

    return work


def steps(repeats: int) -> list[Row]:
    """SCPSeg's training step over patch's, with its parts."""
    patch, whole = PAPER[0]
    batch = whole // SHARE
    works = {
        "ours": step(build(patch), batch),
        "patch": step(plain.build(setting(patch)), batch),
        "csm": step(build(patch, srd=0.0, lfa=0.0), batch),
        "srd": step(build(patch, lfa=0.0), batch),
    }
    took = interleaved(works, min(repeats, 3))
    middle = {name: statistics.median(values) for name, values in took.items()}
    parts = {
        "CSM": middle["csm"] - middle["patch"],
        "SRD": middle["srd"] - middle["csm"],
        "LFA": middle["ours"] - middle["srd"],
    }
    texts = [f"{name} {1e3 * value:+.0f} ms ({value / middle['patch']:+.0%})" for name, value in parts.items()]
    limit = f"on top of patch's {1e3 * middle['patch']:.0f} ms: {', '.join(texts)}"
    peers = [Peer("the same network on the patch alone", "", "patch")]
    name = f"SCPSeg's training step (no optimiser), {batch} windows, L = {patch}"
    return compared("method", name, "s", 1.0, took, peers, limit)


def looping(folder: Path, repeats: int) -> list[Row]:
    """The training loop with its counts, logs and learning rate, and the same steps in a bare loop."""
    write_store(folder / "loop", *scene(LOOP_SIDE))
    store = Store(folder / "loop")
    method = plain.build(setting(64, SMALL))
    dataset = WindowDataset(store, "train", method.needs, seed=0, batch=8, flips=True, turns=True)
    params = TrainParams(
        iterations=LOOP,
        momentum=0.9,
        weight_decay=0.0005,
        precision="fp32",
        flips=True,
        turns=True,
        log_every=20,
        optimizer="sgd",
        learning_rate=0.05,
    )

    def bare(batches: Iterable[tuple[Views, Labels]] | None = None) -> None:
        method.train()
        optimizer = torch.optim.SGD(method.parameters(), 0.05, momentum=0.9, weight_decay=0.0005)
        for views, labels in batches or loader(dataset, 0, LOOP, 0, False):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.stack(list(method.losses(views, labels, 0.0).values())).sum())
            optimizer.step()

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # no run resumes another
            train(method, dataset, params, CPU, Path(scratch))

    batch = next(iter(loader(dataset, 0, 1, 0, False)))
    works: dict[str, Work] = {"ours": ours, "bare": bare, "free": partial(bare, [batch] * LOOP)}
    took = interleaved(works, 2 * repeats)
    peers = [Peer("the same windows and losses in a bare loop", "", "bare", 0.97)]
    name = f"training loop of the sample's network, {LOOP} steps of 8 windows of 64"
    share = statistics.median(took["free"]) / statistics.median(took["ours"])
    limit = f"forward, backward and optimiser on one batch take {share:.0%} of it; this network is the suite's smallest"
    return compared("method", name, "ms a step", 1e3 / LOOP, took, peers, limit)


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """All rows of this topic."""
    yield from squeezing(repeats)
    yield from aligning(repeats)
    yield from steps(repeats)
    yield from looping(folder, repeats)
