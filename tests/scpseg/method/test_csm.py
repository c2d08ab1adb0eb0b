import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scpseg.errors import UserError
from scpseg.method.csm import Sizes, centre, nearest_index, patch_of, sizes, squeeze, squeeze_labels

FIGURE_5 = [(G, 256, D) for D in (128, 160, 192, 224, 256) for G in (342, 512, 768)]
PAPER = [(512, 256, 192), (1024, 512, 384)]


def windows(side: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


def cuts(outer: int, inner: int) -> list[tuple[int, int]]:
    edge = (outer - inner) // 2
    return [(0, edge), (edge, edge + inner), (edge + inner, outer)]


def one_axis(n: int, m: int, antialias: bool) -> np.ndarray:
    """The resize of n values to m as a matrix, from the definition of the triangle kernel, float64."""
    width = max(1.0, n / m) if antialias else 1.0
    matrix = np.zeros((m, n))
    for i in range(m):
        middle = (i + 0.5) * n / m
        if not antialias:
            middle = min(max(middle, 0.5), n - 0.5)
        row = np.maximum(0, 1 - np.abs(np.arange(n) + 0.5 - middle) / width)
        matrix[i] = row / row.sum()
    return matrix


def block_diagonal(G: int, L: int, D: int, antialias: bool) -> np.ndarray:
    matrix = np.zeros((L, G))
    for (a, b), (c, d) in zip(cuts(G, L), cuts(L, D), strict=True):
        if d > c:
            matrix[c:d, a:b] = one_axis(b - a, d - c, antialias)
    return matrix


def nearest_exact(n: int, m: int) -> list[int]:
    return [int(np.floor((i + 0.5) * (n / m) + 1e-9)) for i in range(m)]


@pytest.mark.parametrize(("G", "L", "D"), FIGURE_5 + PAPER)
class TestAgainstReferences:
    def test_image_equals_nine_separate_resizes(self, G: int, L: int, D: int) -> None:
        x = windows(G)
        expected = torch.full((1, 3, L, L), torch.nan)
        for (a, b), (c, d) in zip(cuts(G, L), cuts(L, D), strict=True):
            for (e, f), (g, h) in zip(cuts(G, L), cuts(L, D), strict=True):
                if d > c and h > g:
                    tile = x.float()[:, :, a:b, e:f].contiguous()
                    expected[:, :, c:d, g:h] = F.interpolate(
                        tile, size=(d - c, h - g), mode="bilinear", align_corners=False, antialias=True
                    )
        torch.testing.assert_close(squeeze(x, Sizes(G, L, D), "antialias"), expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("kernel", ["antialias", "bilinear"])
    def test_image_equals_the_matrix_form(self, G: int, L: int, D: int, kernel: str) -> None:
        x = windows(G)
        R = block_diagonal(G, L, D, kernel == "antialias")
        expected = R @ x[0].double().numpy() @ R.T
        np.testing.assert_allclose(squeeze(x, Sizes(G, L, D), kernel)[0].numpy(), expected, rtol=0, atol=1e-2)

    def test_label_equals_nearest_exact(self, G: int, L: int, D: int) -> None:
        labels = windows(G)[:, 0]
        axis = []
        for (a, b), (c, d) in zip(cuts(G, L), cuts(L, D), strict=True):
            axis += [a + i for i in nearest_exact(b - a, d - c)] if d > c else []
        expected = labels[0].numpy()[np.ix_(axis, axis)]
        squeezed = squeeze_labels(labels, Sizes(G, L, D))
        assert squeezed.dtype == torch.uint8
        np.testing.assert_array_equal(squeezed[0].numpy(), expected)

    def test_label_frame_is_not_shifted(self, G: int, L: int, D: int) -> None:
        index = np.array(nearest_index(Sizes(G, L, D)))
        # By symmetry of the layout the map is its own mirror image, up to half a pixel.
        assert np.abs(index + index[::-1] - (G - 1)).max() <= 1

    def test_sizes_give_this_cell(self, G: int, L: int, D: int) -> None:
        found = sizes(L, D / L, G / L, 4)
        assert found == (Sizes(G, L, D) if D < L else Sizes(L, L, L))
        assert found.patch - 2 * found.frame == found.squeezed


def test_torch_nearest_exact_agrees_on_the_paper_size() -> None:
    labels = windows(512)[:, :1]
    expected = F.interpolate(labels[:, :, :128, 128:384].float(), size=(32, 192), mode="nearest-exact")
    squeezed = squeeze_labels(labels[:, 0], Sizes(512, 256, 192))
    torch.testing.assert_close(squeezed[:, :32, 32:224].float(), expected[:, 0])


def test_ratio_one_is_the_patch_itself_for_any_context() -> None:
    x = windows(96, batch=2)
    for size in (Sizes(96, 64, 64), sizes(64, 1.0, 1.5, 4)):
        inside = x if size.context == 96 else x[:, :, 16:80, 16:80]
        assert torch.equal(squeeze(inside, size, "antialias"), x[:, :, 16:80, 16:80].float())
        assert torch.equal(squeeze_labels(inside[:, 0], size), x[:, 0, 16:80, 16:80])


def test_the_input_is_untouched_and_values_stay_in_range() -> None:
    x = windows(128, batch=2)
    before = x.clone()
    squeezed = squeeze(x, Sizes(128, 64, 48), "antialias")
    assert torch.equal(x, before) and squeezed.dtype == torch.float32
    assert squeezed.min() >= 0 and squeezed.max() <= 255


def test_context_lands_in_the_frame_only() -> None:
    x = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    patch_of(x, Sizes(128, 64, 48)).fill_(200)
    squeezed = squeeze(x, Sizes(128, 64, 48), "antialias")
    torch.testing.assert_close(centre(squeezed, Sizes(128, 64, 48)), torch.full((1, 3, 48, 48), 200.0))
    assert squeezed.sum() == pytest.approx(200 * 3 * 48 * 48)


def test_centre_cuts_maps_of_any_stride() -> None:
    size = Sizes(512, 256, 192)
    assert centre(torch.zeros(1, 2, 64, 64), size).shape == (1, 2, 48, 48)
    assert centre(torch.zeros(1, 256, 256), size).shape == (1, 192, 192)


@pytest.mark.parametrize(
    ("patch", "ratio", "context", "stride", "expected"),
    [
        (64, 0.75, 2.0, 4, Sizes(128, 64, 48)),
        (64, 0.75, 2.0, 8, Sizes(128, 64, 48)),
        (64, 0.99, 2.0, 8, Sizes(128, 64, 48)),  # at least one cell
        (64, 0.7, 2.0, 4, Sizes(128, 64, 48)),  # 9.6 pixels to two cells
        (256, 0.75, 1.336, 4, Sizes(342, 256, 192)),
        (256, 0.75, 1.332, 4, Sizes(340, 256, 192)),  # G - L even
        (64, 0.5, 2.0, 4, Sizes(128, 64, 32)),
    ],
)
def test_effective_sizes(patch: int, ratio: float, context: float, stride: int, expected: Sizes) -> None:
    assert sizes(patch, ratio, context, stride) == expected


@pytest.mark.parametrize(
    ("patch", "ratio", "context", "words"),
    [
        (256, 1.7, 2.0, "csm.ratio is 1.7.*nearest valid value is 1"),
        (256, 0.0, 2.0, "csm.ratio is 0.0.*nearest valid value is 0.125"),
        (256, -1.0, 2.0, "csm.ratio is -1.0.*nearest valid value is 0.125"),
        (64, 0.4, 2.0, "csm.ratio is 0.4.*below 32.*nearest valid value is 0.5"),
        (32, 0.75, 2.0, "csm.ratio is 0.75.*nearest valid value is 1"),
        (64, 0.75, 1.0, "csm.context is 1.0.*larger than.*nearest valid value is 1.03125"),
        (64, 0.75, 0.5, "csm.context is 0.5.*nearest valid value is 1.03125"),
        (64, 1.0, 0.999, "csm.context is 0.999.*at least as large.*nearest valid value is 1,"),
    ],
)
def test_impossible_values_name_the_nearest(patch: int, ratio: float, context: float, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        sizes(patch, ratio, context, 4)
    assert "git checkout params.yaml" in str(caught.value)


@pytest.mark.parametrize(("patch", "bad"), [(64, 0.1), (96, 0.2), (256, 0.01), (508 + 4, 0.0)])
def test_the_nearest_ratio_named_is_valid(patch: int, bad: float) -> None:
    with pytest.raises(UserError) as caught:
        sizes(patch, bad, 2.0, 8)
    near = float(str(caught.value).split("nearest valid value is ")[1].split(";")[0])
    assert sizes(patch, near, 2.0, 8).squeezed >= 32
