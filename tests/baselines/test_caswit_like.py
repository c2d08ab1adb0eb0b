import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.caswit_like import CASWiTLike, CASWiTParams, GatedAttention
from scpseg.contract import Labels, Views
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import normalise

ENCODER, CLASSES, PATCH = "tu-test_resnet.r160_in1k", 3, 64


def make() -> CASWiTLike:
    torch.manual_seed(0)
    segmenter = SegmenterParams("deeplabv3plus", ENCODER, 8, "random", True)
    return CASWiTLike(CASWiTParams(ENCODER, 16), segmenter, CLASSES, PATCH).eval()


def test_gated_attention_cell_by_cell() -> None:
    torch.manual_seed(0)
    module = GatedAttention(64).double()
    assert module.heads == 2 and GatedAttention(48).heads == 1
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    own, other = torch.randn(1, 64, 2, 3, dtype=torch.float64), torch.randn(1, 64, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        found = module(own, other)[0]
        cells = [module.norms[1](other[0, :, y, x]) for y in range(2) for x in range(2)]
        for row in range(2):
            for column in range(3):
                query = module.query(module.norms[0](own[0, :, row, column]))
                read = []
                for head in range(2):
                    part = slice(32 * head, 32 * (head + 1))
                    scores = np.array([float(query[part] @ module.key(cell)[part]) / math.sqrt(32) for cell in cells])
                    shares = np.exp(scores) / np.exp(scores).sum()
                    read.append(sum(s * module.value(cell)[part] for s, cell in zip(shares, cells, strict=True)))
                expected = own[0, :, row, column] + math.tanh(module.gate.item()) * module.output(torch.cat(read))
                torch.testing.assert_close(found[:, row, column], expected, rtol=1e-9, atol=1e-10)


def test_a_closed_gate_lets_nothing_through() -> None:
    method = make()
    context = torch.randint(256, (1, 3, 2 * PATCH, 2 * PATCH), dtype=torch.uint8)
    blind = torch.zeros_like(context)
    margin = PATCH // 2
    blind[..., margin:-margin, margin:-margin] = context[..., margin:-margin, margin:-margin]
    with torch.no_grad():
        logits = [method(Views(given, torch.zeros(1, 4))) for given in (context, blind)]
        assert torch.equal(logits[0], logits[1])
        for attention in method.attentions:
            attention.gate.fill_(0.5)
        logits = [method(Views(given, torch.zeros(1, 4))) for given in (context, blind)]
    assert not torch.equal(logits[0], logits[1])


def test_each_encoder_sees_its_own_view() -> None:
    method = make()
    seen: dict[str, Tensor] = {}
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.update(own=inputs[0]))
    method.context_encoder.register_forward_pre_hook(lambda _, inputs: seen.update(around=inputs[0]))
    context = torch.randint(256, (1, 3, 2 * PATCH, 2 * PATCH), dtype=torch.uint8)
    with torch.no_grad():
        method(Views(context, torch.zeros(1, 4)))
    window = normalise(context, method.weights)
    assert torch.equal(seen["own"], window[..., 32:96, 32:96])
    torch.testing.assert_close(seen["around"], F.interpolate(window, scale_factor=0.5, mode="area"))


def test_the_neighbourhood_counts_four_tenths() -> None:
    method = make()
    context = torch.randint(256, (2, 3, 2 * PATCH, 2 * PATCH), dtype=torch.uint8)
    views, labels = Views(context, torch.zeros(2, 4)), context[:, 0] % CLASSES
    with torch.no_grad():
        found = method.losses(views, Labels(labels), 0.0)
        deep = method.context_encoder(F.avg_pool2d(normalise(context, method.weights), 2))[-1]
        around = F.interpolate(method.context_head(deep), size=(PATCH, PATCH), mode="bilinear")
        expected = {
            "ce": F.cross_entropy(method(views), labels[:, 32:96, 32:96].long()),
            "ce_context": 0.4 * F.cross_entropy(around, labels[:, 1::2, 1::2].long()),
        }
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
