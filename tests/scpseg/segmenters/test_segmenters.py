import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scpseg.contract import Weights
from scpseg.errors import UserError
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.build import NAMES, build_segmenter, check_segmenter, feature_stride

TINY = "tu-test_resnet.r160_in1k"
VALUES = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))


def params(patch: int = 64, batch: int = 2, **segmenter: Any) -> Params:
    values = copy.deepcopy(VALUES)
    values["segmenter"] = {
        "name": "deeplabv3plus",
        "encoder": TINY,
        "output_stride": 8,
        "weights": "random",
        "auxiliary": True,
    }
    values["segmenter"].update(segmenter)
    values["inria"] |= {"patch": patch, "batch": batch}
    return Params(values, Path("params.yaml"))


@pytest.mark.parametrize(
    ("name", "encoder", "count", "tolerance"),
    [("deeplabv3plus", "resnet18", 12_330_839, 0), ("fcn8s", "resnet50", 23_788_103, 0.01)],
)
def test_the_papers_segmenters_have_their_size(name: str, encoder: str, count: int, tolerance: float) -> None:
    segmenter = build_segmenter(SegmenterParams(name, encoder, 8, "random", True), classes=7)
    assert sum(p.numel() for p in segmenter.parameters()) == pytest.approx(count, rel=tolerance, abs=0)


@pytest.mark.parametrize(
    ("name", "encoder", "stride"),
    [("deeplabv3plus", TINY, 8), ("deeplabv3plus", TINY, 16), ("deeplabv3plus", "mit_b0", 16), ("fcn8s", TINY, 8)],
)
def test_attributes_tell_the_truth(name: str, encoder: str, stride: int) -> None:
    section = check_segmenter(params(name=name, encoder=encoder, output_stride=stride), "inria")
    segmenter = build_segmenter(section, classes=5).eval()
    encoded = segmenter.encode(torch.randn(1, 3, 64, 96))
    features = segmenter.decode(encoded)
    for map_, channels, cell in (
        (features, segmenter.feature_channels, segmenter.feature_stride),
        (segmenter.deep(encoded), segmenter.deep_channels, segmenter.deep_stride),
        (segmenter.low(encoded), segmenter.low_channels, segmenter.low_stride),
    ):
        assert map_.shape == (1, channels, 64 // cell, 96 // cell)
    assert segmenter.feature_stride == feature_stride(name)
    assert segmenter.classify(features, (50, 60)).shape == (1, 5, 50, 60)
    assert segmenter(torch.randn(2, 3, 64, 96)).shape == (2, 5, 64, 96)
    assert segmenter.weights == Weights("random")


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    segmenter = build_segmenter(SegmenterParams(name, TINY, 8, "random", True), classes=3)
    with torch.no_grad():  # residual branches that start at weight 0 pass no gradient back
        for parameter in segmenter.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    segmenter(torch.randn(2, 3, 64, 64)).square().sum().backward()
    dead = [key for key, p in segmenter.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # What a stage leaves unread would show here as a missing gradient.
    assert dead == []


def test_normalise_is_the_imagenet_rule_for_bytes_and_floats() -> None:
    windows = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    before = windows.clone()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (windows.float() / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(normalise(windows), expected)
    assert torch.equal(normalise(windows), normalise(windows.float()))
    assert torch.equal(windows, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "deeplabv3"}, "segmenter.name is 'deeplabv3'.*did you mean 'deeplabv3plus'"),
        ({"encoder": "resnet19"}, "segmenter.encoder is 'resnet19'.*did you mean 'resnet1"),
        ({"encoder": "tu-test_resnt"}, "segmenter.encoder is 'tu-test_resnt'.*did you mean tu-test_resnet"),
        ({"encoder": "tu-qqqqqqqq"}, "timm has no such encoder; see timm.list_models"),
        ({"encoder": "tu-resnet18.nonsense"}, "cannot work at output stride 8 .*nvalid pretrained tag.*try resnet18"),
        ({"encoder": "vgg11_bn"}, "cannot work at output stride 8 .*dilated.*try resnet18"),
        ({"output_stride": 32}, "segmenter.output_stride is 32.*8 or 16"),
        ({"name": "fcn8s", "output_stride": 16}, "segmenter.output_stride is 16.*fcn8s works at output stride 8"),
        ({"patch": 60}, "inria.patch is 60.*multiple of .*8; the nearest valid value is 64"),
        ({"patch": 66}, "inria.patch is 66.*nearest valid value is 64"),
        ({"batch": 1}, "inria.batch is 1.*cannot train.*2 or more"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        check_segmenter(params(**change), "inria")
    assert "git checkout params.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_fcn8s_trains_on_single_windows() -> None:
    check_segmenter(params(name="fcn8s", batch=1), "inria")


def test_weights_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    monkeypatch.setitem(smp.encoders.encoders["resnet18"], "pretrained_settings", {"ssl": {}})
    with pytest.raises(UserError, match=r"segmenter.weights is 'imagenet'.*no such weights.*random"):
        check_segmenter(params(encoder="resnet18", weights="imagenet"), "inria")


def test_checking_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    check_segmenter(params(encoder="resnet34"), "inria")
    torch_after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), torch_after)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("encoder", "source"), [("resnet18", "smp-hub/resnet18.imagenet@"), (TINY, "timm/test_res")])
def test_without_a_connection_one_sentence_names_the_remedies(
    name: str, encoder: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    import segmentation_models_pytorch.encoders
    import timm.models._hub

    def no_connection(*args: Any, **kwargs: Any) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("Please check your connection and try again.")

    monkeypatch.setattr(segmentation_models_pytorch.encoders, "hf_hub_download", no_connection)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", no_connection)
    with pytest.raises(UserError, match=re.escape(source)) as caught:
        build_segmenter(SegmenterParams(name, encoder, 8, "imagenet", True), classes=2)
    message = str(caught.value)
    assert "Please check your connection" in message and "\n" not in message
    assert "connect this machine once" in message and "-S segmenter.weights=random" in message


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], None]:
    """Serves ResNet-18 weights that are all one value, as the hub would."""
    import segmentation_models_pytorch as smp
    from safetensors.torch import save_file

    def serve(value: float) -> None:
        state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
        save_file({key: torch.full_like(x, value) for key, x in state.items()}, tmp_path / "model.safetensors")

        def download(repo: str, filename: str, revision: str) -> str:
            assert repo == "smp-hub/resnet18.imagenet"
            return str(tmp_path / filename)

        monkeypatch.setattr(smp.encoders, "hf_hub_download", download)

    return serve


def test_loaded_weights_are_there_with_source_and_hash(fake_hub: Callable[[float], None]) -> None:
    section = SegmenterParams("deeplabv3plus", "resnet18", 8, "imagenet", True)
    fake_hub(2)
    first, again = build_segmenter(section, 2), build_segmenter(section, 2)
    assert all((p == 2).all() for p in first.encoder.parameters())
    assert re.fullmatch(r"smp-hub/resnet18\.imagenet@[0-9a-f]{40}", first.weights.source)
    assert re.fullmatch("[0-9a-f]{64}", first.weights.sha256) and first.weights == again.weights
    fake_hub(3)
    assert build_segmenter(section, 2).weights.sha256 != first.weights.sha256
