import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scpseg.errors import UserError
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.build import KINDS, build_segmenter, check_segmenter, side_problem

TINY = "tu-test_resnet.r160_in1k"
VALUES = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))


def params(patch: int = 64, batch: int = 2, **segmenter: Any) -> Params:
    values = copy.deepcopy(VALUES)
    values["segmenter"] = vars(SegmenterParams("deeplabv3plus", TINY, 8, "random", True)) | segmenter
    values["inria"] |= {"patch": patch, "batch": batch}
    return Params(values, Path("params.yaml"))


@pytest.mark.parametrize(("encoder", "stride"), [(TINY, 8), (TINY, 16), ("mit_b0", 16)])
def test_other_encoders_and_strides_do_as_well(encoder: str, stride: Any) -> None:
    section = check_segmenter(params(encoder=encoder, output_stride=stride), "inria")
    segmenter = build_segmenter(section, classes=5).eval()
    encoded = segmenter.encode(torch.randn(1, 3, 64, 96))
    assert segmenter.deep(encoded).shape == (1, segmenter.deep_channels, 64 // stride, 96 // stride)
    assert segmenter.decode(encoded).shape == (1, segmenter.feature_channels, 16, 24)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "deeplabv3"}, "segmenter.name is 'deeplabv3'.*did you mean 'deeplabv3plus'"),
        ({"encoder": "resnet19"}, "segmenter.encoder is 'resnet19'.*did you mean 'resnet1"),
        ({"encoder": "tu-test_resnt"}, "segmenter.encoder is 'tu-test_resnt'.*did you mean tu-test_resnet"),
        ({"encoder": "tu-qqqqqqqq"}, "timm has no model of this name; see timm.list_models"),
        ({"encoder": "tu-resnet18.nonsense"}, "does not support output stride 8 .*nvalid pretrained tag.*try resnet18"),
        ({"encoder": "vgg11_bn"}, "does not support output stride 8 .*dilated.*try resnet18"),
        ({"output_stride": 32}, "segmenter.output_stride is 32.*8 or 16"),
        ({"name": "fcn8s", "output_stride": 16}, "segmenter.output_stride is 16.*fcn8s supports output stride 8"),
        ({"name": "segformer"}, "segmenter.encoder is .*known: mit_b0.*segmenter.encoder=mit_b0 .*output_stride=32"),
        ({"name": "segformer", "encoder": "mit_b7"}, "did you mean 'mit_b"),
        ({"name": "segformer", "encoder": "mit_b0"}, "output_stride is 8.*segformer supports output stride 32"),
        ({"name": "pidnet", "encoder": "pidnet-xl"}, "did you mean 'pidnet-l'.*segmenter.encoder=pidnet-s"),
        ({"name": "pidnet", "encoder": "pidnet-s", "weights": "imagenet"}, "weights is 'imagenet'.*weights to random"),
        ({"patch": 60}, "inria.patch is 60.*multiple of 8 .*; the nearest valid value is 64"),
        ({"patch": 66}, "inria.patch is 66.*nearest valid value is 64"),
        ({"batch": 1}, "inria.batch is 1.*at least 2 windows.*2 or more"),
    ],
)
def test_impossible_values_are_rejected(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        check_segmenter(params(**change), "inria")
    assert "git checkout params.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_a_side_between_is_rejected_and_the_nearest_one_fits(name: str) -> None:
    kind = KINDS[name]
    section = SegmenterParams(name, "", kind.output_strides[-1], "random", True)
    problem = side_problem(section, 67)
    assert problem is not None and f"for {name} at output stride {section.output_stride}" in problem
    (near,) = re.findall(r"the nearest valid value is (\d+)$", problem)
    assert side_problem(section, int(near)) is None


def test_weights_that_do_not_exist_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    monkeypatch.setitem(smp.encoders.encoders["resnet18"], "pretrained_settings", {"ssl": {}})
    with pytest.raises(UserError, match=r"segmenter.weights is 'imagenet'.*resnet18 has no ImageNet weights.*random"):
        check_segmenter(params(encoder="resnet18", weights="imagenet"), "inria")


def test_checking_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    check_segmenter(params(encoder="resnet34"), "inria")
    torch_after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), torch_after)


def test_naming_the_segmenters_loads_no_heavy_library() -> None:
    heavy = {"segmentation_models_pytorch", "timm", "torchvision"}
    code = f"import sys, scpseg.segmenters.build; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


CASES = [
    (name, encoder, source)
    for name, kind in KINDS.items()
    if kind.encoders is None
    for encoder, source in (("resnet18", "smp-hub/resnet18.imagenet@"), (TINY, "timm/test_res"))
]


@pytest.mark.parametrize(("name", "encoder", "source"), [*CASES, ("segformer", "mit_b0", "smp-hub/mit_b0.imagenet@")])
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
    stride = KINDS[name].output_strides[0]
    with pytest.raises(UserError, match=re.escape(source)) as caught:
        build_segmenter(SegmenterParams(name, encoder, stride, "imagenet", True), classes=2)
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
        (tmp_path / "config.json").write_text(
            '{"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "input_range": [0, 1]}'
        )
        save_file({key: torch.full_like(x, value) for key, x in state.items()}, tmp_path / "model.safetensors")

        def download(repo: str, filename: str, revision: str) -> str:
            assert repo == "smp-hub/resnet18.imagenet"
            return str(tmp_path / filename)

        monkeypatch.setattr(smp.encoders, "hf_hub_download", download)

    return serve


@pytest.mark.parametrize(("name", "stride"), [("deeplabv3plus", 8), ("lanet", 16)])
def test_loaded_weights_are_there_with_source_and_hash(
    fake_hub: Callable[[float], None], name: str, stride: Any
) -> None:
    section = SegmenterParams(name, "resnet18", stride, "imagenet", True)
    fake_hub(2)
    first, again = build_segmenter(section, 2), build_segmenter(section, 2)
    assert all((p == 2).all() for p in first.encoder.parameters())
    assert re.fullmatch(r"smp-hub/resnet18\.imagenet@[0-9a-f]{40}", first.weights.source)
    assert re.fullmatch("[0-9a-f]{64}", first.weights.sha256) and first.weights == again.weights
    assert (first.weights.mean, first.weights.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    fake_hub(3)
    assert build_segmenter(section, 2).weights.sha256 != first.weights.sha256
