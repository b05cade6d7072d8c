import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.bundle import CARD_NAME, WEIGHTS_NAME, ModelBundle, ModelCard
from wsi_pipeline.model.network import RegressionNetwork, build_network

LITE = "tf_efficientnet_lite0"
GUIDED = Architecture(
    regression_backbone=LITE, segmentation_backbone=LITE, mean=(0.7, 0.5, 0.6), std=(0.2, 0.2, 0.1)
)


def card(**changes) -> ModelCard:
    known = {
        "name": "test",
        "version": "1.0",
        "architecture": GUIDED,
        "metrics": {"mae": 0.07},
        "trained_on": "nothing",
        "licence": "Apache-2.0",
        "intended_use": "tests",
        "limitations": "it knows nothing",
    }
    return ModelCard(**known | changes)


def pixels(batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, 8, 8, generator=generator) * 255
    image = nn.functional.interpolate(coarse, scale_factor=16, mode="bilinear")
    return image.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


@pytest.fixture(scope="module")
def network() -> RegressionNetwork:
    torch.manual_seed(0)
    network = build_network(GUIDED).train()
    with torch.no_grad():
        network(pixels(8))  # the batch norms see images
    return network.eval()


@pytest.fixture(scope="module")
def bundle(network) -> ModelBundle:
    return ModelBundle.of(network, card())


@pytest.fixture
def folder(bundle, tmp_path) -> Path:
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def rewrite_card(folder: Path, **changes) -> None:
    path = folder / CARD_NAME
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def rewrite_weights(folder: Path, change) -> None:
    """Change the weights; the card no longer says which they were."""
    rewrite_card(folder, weights_sha256=None)
    path = folder / WEIGHTS_NAME
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


@torch.no_grad()
def test_a_round_trip_scores_the_same(network, folder):
    loaded = ModelBundle.load(folder)
    assert loaded.card == card(weights_sha256=hashlib.sha256(loaded.weights).hexdigest())
    again = loaded.network()
    assert not any(module.training for module in again.modules())
    assert {t.dtype for t in again.parameters()} == {torch.float32}
    expected, got = network(pixels()), again(pixels())
    torch.testing.assert_close(got.score, expected.score, rtol=0, atol=0)
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=0)
    assert expected.score.unique().numel() == 3


@torch.no_grad()
def test_half_precision_storage_halves_the_file_and_keeps_the_scores(network, bundle, tmp_path):
    half = ModelBundle.of(network, card(stored_as="float16"))
    half.save(tmp_path / "half")
    assert len(half.weights) < 0.53 * len(bundle.weights)
    assert len(half.weights) < 25e6
    again = ModelBundle.load(tmp_path / "half").network()
    assert {t.dtype for t in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again(pixels()).score, network(pixels()).score, rtol=0, atol=2e-3)


def test_half_precision_storage_spares_the_batch_norms(network):
    stored = safetensors.torch.load(ModelBundle.of(network, card(stored_as="float16")).weights)
    own = network.state_dict()
    assert own.keys() == stored.keys()
    for name, tensor in own.items():
        if "running" in name:
            torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0)
        elif tensor.ndim == 4:
            assert stored[name].dtype == torch.float16


def test_a_plain_network_makes_a_bundle_too(tmp_path):
    architecture = Architecture(regression_backbone="legacy_seresnet18")
    plain = build_network(architecture).eval()
    ModelBundle.of(plain, card(architecture=architecture)).save(tmp_path / "plain")
    again = ModelBundle.load(tmp_path / "plain").network()
    with torch.no_grad():
        torch.testing.assert_close(again(pixels()).score, plain(pixels()).score, rtol=0, atol=0)


def test_a_network_in_channels_last_makes_the_same_bundle(network, bundle):
    again = build_network(GUIDED).to(memory_format=torch.channels_last)
    again.load_state_dict(network.state_dict())
    assert ModelBundle.of(again, card()).digest == bundle.digest


def test_the_digest_is_of_the_content_alone(network, bundle, folder):
    assert ModelBundle.load(folder).digest == bundle.digest
    assert ModelBundle.of(network, card()).digest == bundle.digest
    moved = folder.rename(folder.with_name("elsewhere"))
    assert ModelBundle.load(moved).digest == bundle.digest

    parts = [(moved / name).read_bytes() for name in ("card.json", "model.safetensors")]
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    assert bundle.digest == hashlib.sha256(digests).hexdigest()

    rewrite_card(moved, version="1.1")
    assert ModelBundle.load(moved).digest != bundle.digest


def test_the_digest_knows_every_weight(bundle, folder):
    def nudge(tensors):
        tensors["head.bias"] += 1e-6

    rewrite_weights(folder, nudge)
    assert ModelBundle.load(folder).digest != bundle.digest


def test_the_card_is_for_people(folder):
    text = (folder / CARD_NAME).read_text()
    assert text.endswith("}\n")
    assert '\n  "mpp": 0.5,\n  "tile_px": 512,\n' in text
    assert sorted(path.name for path in folder.iterdir()) == [CARD_NAME, WEIGHTS_NAME]
    assert stat.S_IMODE((folder / CARD_NAME).stat().st_mode) & 0o444


def test_saving_again_changes_nothing(bundle, folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    bundle.save(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_bundle_is_not_overwritten(network, bundle, folder):
    with pytest.raises(BundleError, match=r"bundle already holds something else.*delete"):
        ModelBundle.of(network, card(version="2")).save(folder)
    assert ModelBundle.load(folder).digest == bundle.digest
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_folder_of_something_else_is_not_overwritten(bundle, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="already holds something else"):
        bundle.save(tmp_path)
    with pytest.raises(BundleError, match="already holds something else"):
        bundle.save(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_killed_save_leaves_no_half_bundle(bundle, tmp_path, monkeypatch):
    target = tmp_path / "deep" / "bundle"

    def kill(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        with pytest.raises(KeyboardInterrupt):
            bundle.save(target)
    assert not target.exists()
    bundle.save(target)
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert ModelBundle.load(target).digest == bundle.digest


def test_an_empty_folder_is_filled(bundle, tmp_path):
    bundle.save(tmp_path)
    assert ModelBundle.load(tmp_path).digest == bundle.digest


def test_a_card_for_another_network_is_refused(network):
    other = GUIDED.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    with pytest.raises(BundleError, match="another architecture than the network's"):
        ModelBundle.of(network, card(architecture=other))


def test_a_diverged_network_makes_no_bundle(network):
    diverged = build_network(GUIDED)
    diverged.load_state_dict(network.state_dict())
    nn.init.constant_(diverged.head.bias, float("nan"))
    with pytest.raises(BundleError, match=r"not finite, in head\.bias.*diverged"):
        ModelBundle.of(diverged, card())


def test_a_weight_too_large_for_half_precision_is_noticed(network):
    large = build_network(GUIDED)
    large.load_state_dict(network.state_dict())
    nn.init.constant_(large.head.weight, 1e5)
    with pytest.raises(BundleError, match=r"not finite, in head\.weight"):
        ModelBundle.of(large, card(stored_as="float16"))


def test_no_such_folder(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere is no model bundle: there is no such folder"):
        ModelBundle.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [CARD_NAME, WEIGHTS_NAME])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"bundle is no complete model bundle: {name} is missing"):
        ModelBundle.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"card\.json is no JSON"),
        (b"{'name': 'x'}", r"card\.json is no JSON"),
        (b"\xff\xfe", r"card\.json is no JSON"),
        (b"[" * 100_000, r"card\.json is no JSON"),
        (b"[]", r"card\.json is no valid model card: the file: "),
        (b"{}", r"card\.json is no valid model card: name: Field required"),
    ],
)
def test_a_malformed_card(folder, content, message):
    (folder / CARD_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": None}, "licence: Field required"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"mpp": 0}, "mpp: Input should be greater than 0"),
        ({"mpp": float("inf")}, "mpp: "),
        ({"tile_px": 500}, "tile_px: Input should be a multiple of 64"),
        ({"metrics": {"mae": float("nan")}}, r"metrics\.mae: "),
        ({"architecture": {"kind": "vit"}}, r"architecture\.regression_backbone: Field required"),
        ({"format_version": 0}, "format_version: "),
    ],
)
def test_a_card_that_says_something_impossible(folder, change, message):
    rewrite_card(folder, **change)
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(folder)


def test_a_bundle_of_a_newer_format(folder):
    rewrite_card(folder, format_version=2, surprise="from the future")
    with pytest.raises(BundleError, match=r"of format 2, .* reads up to 1: update wsi-pipeline"):
        ModelBundle.load(folder)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "hf-hub:someone/something", "x"])
def test_an_architecture_that_cannot_be_built(folder, backbone):
    rewrite_card(folder, architecture={"regression_backbone": backbone})
    with pytest.raises(BundleError, match=rf"bundle/card\.json: .*{backbone}"):
        ModelBundle.load(folder).network()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.weight"), r"head\.weight is missing\. Export"),
        (lambda t: t.update(extra=torch.zeros(1)), r"extra is surplus\. Export"),
        (
            lambda t: t.update({"head.weight": torch.zeros(1, 7)}),
            r"head\.weight is float32 \[1, 7\] instead of float32 \[1, 1280\]",
        ),
        (
            lambda t: t.update({"head.bias": torch.zeros(1, dtype=torch.int32)}),
            r"head\.bias is int32 \[1\] instead of float32 \[1\]",
        ),
        (lambda t: [t.pop(name) for name in list(t)[:9]], "is missing and 6 more"),
        (lambda t: t["head.bias"].fill_(torch.inf), r"not finite, in head\.bias"),
    ],
)
def test_weights_that_do_not_fit_the_card(folder, change, message):
    rewrite_weights(folder, change)
    with pytest.raises(BundleError, match=rf"model\.safetensors .*{message}"):
        ModelBundle.load(folder).network()


def test_weights_of_another_kind_are_never_read(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    rewrite_card(folder, weights_sha256=None)
    torch.save({"head.bias": Trap()}, folder / WEIGHTS_NAME)
    with pytest.raises(BundleError, match=r"no safetensors file.*another kind"):
        ModelBundle.load(folder).network()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_truncated_weights(folder, length):
    path = folder / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        BundleError, match=r"other weights than card\.json is written for: .* SHA-256"
    ):
        ModelBundle.load(folder)
    rewrite_card(folder, weights_sha256=None)
    with pytest.raises(BundleError, match=r"no safetensors file .* damaged"):
        ModelBundle.load(folder).network()


@pytest.mark.parametrize("value", [{"mpp": -1}, {"name": ""}, {"stored_as": "int4"}, {"colour": 1}])
def test_a_card_is_validated_when_it_is_made(value):
    with pytest.raises(ValidationError):
        card(**value)


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://owner",
        "hf://owner/name/more",
        "hf://../name",
        "hf://owner/..",
        "hf:///etc/passwd",
        "hf://owner/name@",
        "hf://owner/name@../../x",
        "hf://owner/na me",
        "hf://owner/name\n",
    ],
)
def test_a_hub_address_leads_nowhere_else(address):
    with pytest.raises(BundleError, match="write hf://owner/name"):
        ModelBundle.load(address)


def test_a_link_that_is_swapped_while_a_bundle_is_read_mixes_nothing(
    network, bundle, tmp_path, monkeypatch
):
    bundle.save(tmp_path / "old")
    ModelBundle.of(network, card(version="2.0")).save(tmp_path / "new")
    current = tmp_path / "current"
    current.symlink_to("old")
    read = Path.read_bytes

    def swapped_after(path):
        content = read(path)
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").replace(current)
        return content

    monkeypatch.setattr(Path, "read_bytes", swapped_after)
    loaded = ModelBundle.load(current)
    assert loaded.digest == bundle.digest
