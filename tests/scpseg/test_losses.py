import math

import pytest
import torch

from scpseg.losses import cross_entropy, focal


def test_cross_entropy_equals_torch_value_and_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 9, 7, requires_grad=True)
    labels = torch.randint(0, 5, (2, 9, 7))
    labels[0, :4] = 255
    ours = cross_entropy(logits, labels.to(torch.uint8))
    (gradient,) = torch.autograd.grad(ours, logits)
    reference = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
    (expected,) = torch.autograd.grad(reference, logits)
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(gradient, expected)


def test_nothing_but_ignore_gives_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.0])
def test_focal_is_its_formula_on_labels_at_the_cells_centres(gamma: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 5) * 3
    labels = torch.randint(0, 4, (2, 12, 20), dtype=torch.uint8)
    labels[1, :5] = 255
    terms = []
    for image in range(2):
        for row in range(3):
            for column in range(5):
                label = int(labels[image, 4 * row + 2, 4 * column + 2])
                if label != 255:
                    likely = logits[image, :, row, column].double().softmax(0)[label].item()
                    terms.append(-((1 - likely) ** gamma) * math.log(likely))
    assert len(terms) == 25
    assert focal(logits, labels, gamma).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_focal_without_weight_is_the_cross_entropy_and_its_gradient_is_finite_where_all_is_sure() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 6), torch.randint(0, 5, (2, 6, 6), dtype=torch.uint8)
    torch.testing.assert_close(focal(logits, labels, 0.0), cross_entropy(logits, labels))
    sure = torch.tensor([200.0, -200.0]).reshape(1, 2, 1, 1).repeat(1, 1, 2, 2).requires_grad_()
    for truth in (torch.zeros(1, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 255, dtype=torch.uint8)):
        loss = focal(sure, truth, 3.0)
        (gradient,) = torch.autograd.grad(loss, sure)
        assert loss == 0 and not gradient.any()
