import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES, Architecture
from wsi_pipeline.model.backbones import RegressionBackbone
from wsi_pipeline.model.network import (
    GuidedRegressionNetwork,
    Normalise,
    RegressionNetwork,
    SegmentationNetwork,
    build_network,
)

LITE = "tf_efficientnet_lite0"

# Every backbone that the paper or the issue names, with the channels behind stages 2 and 4.
BACKBONES = {
    "resnet18": (128, 512),
    "resnet34": (128, 512),
    "resnet50": (512, 2048),
    "resnet101": (512, 2048),
    "resnet152": (512, 2048),
    "resnext50_32x4d": (512, 2048),
    "resnext101_32x4d": (512, 2048),
    "seresnet50": (512, 2048),
    "seresnext50_32x4d": (512, 2048),
    "legacy_seresnet18": (128, 512),
    "legacy_seresnet50": (512, 2048),
    "legacy_senet154": (512, 2048),
    "senet154": (512, 2048),
    "efficientnet_lite0": (40, 1280),
    "tf_efficientnet_lite0": (40, 1280),
    "tf_efficientnet_lite1": (40, 1280),
    "tf_efficientnet_lite2": (48, 1280),
    "tf_efficientnet_lite3": (48, 1280),
    "tf_efficientnet_lite4": (56, 1280),
}


def pixels(batch: int, side: int = 128, seed: int = 0) -> Tensor:
    """Pixels in smooth blobs, unlike white noise, which averages out."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (batch, 3, side // 16, side // 16)))
    image = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return image.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def settled(network: nn.Module) -> nn.Module:
    """A network whose batch norms have seen images, as after training, in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over what they see
    network.train()
    with torch.no_grad():
        network(pixels(8, seed=17))
    return network.eval()


def guided(regression: str = "resnet18", segmentation: str = LITE) -> GuidedRegressionNetwork:
    torch.manual_seed(0)
    network = build_network(
        Architecture(regression_backbone=regression, segmentation_backbone=segmentation)
    )
    assert isinstance(network, GuidedRegressionNetwork)
    return network


@pytest.fixture(scope="module")
def network() -> GuidedRegressionNetwork:
    return settled(guided())


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_of_the_paper_fits(backbone):
    with torch.device("meta"):
        network = RegressionBackbone(backbone).eval()
        image = torch.zeros(2, 3, 512, 512)
    stage2, last = BACKBONES[backbone]
    features = network.early(image)
    assert features.shape == (2, stage2, 32, 32)
    assert network.late(features).shape == (2, last, 8, 8)


# Networks of cells, for the plain regression alone, with the channels they end in.
UNCUT = {"nasnetalarge": 4032, "pnasnet5large": 4320}

# The paper's table 6, as plain networks.
TABLE_6 = ("resnet101", "resnet152", "resnext101_32x4d", "legacy_senet154", "nasnetalarge")


@torch.no_grad()
@pytest.mark.parametrize("backbone", UNCUT)
def test_a_nasnet_ends_at_stride_64_too(backbone):
    with torch.device("meta"):
        network = build_network(Architecture(regression_backbone=backbone)).eval()
        patches = torch.zeros(2, 512, 512, 3, dtype=torch.uint8)
    features = network.regression(network.normalise(patches))
    assert features.shape == (2, UNCUT[backbone], 8, 8)
    assert network(patches).score.shape == (2,)


def test_a_nasnet_has_no_place_for_guidance():
    architecture = Architecture(
        regression_backbone="nasnetalarge", segmentation_backbone="resnet18"
    )
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=r"'nasnetalarge' does not fit.*plain regression"),
    ):
        build_network(architecture)


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet50",
        "resnext50_32x4d",
        "legacy_seresnet50",
        *(pytest.param(name, marks=pytest.mark.long) for name in (*TABLE_6, "pnasnet5large")),
    ],
)
def test_a_plain_network_scores_and_learns(backbone):
    torch.manual_seed(0)
    network = build_network(Architecture(regression_backbone=backbone))
    patches = pixels(2)
    score = network(patches).score
    assert ((score > 0.2) & (score < 0.8)).all()
    score.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        score = network.eval()(patches).score
    assert ((score > 0) & (score < 1)).all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "segmentation"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("resnet101", "resnet101"),
        ("resnext50_32x4d", "seresnext50_32x4d"),
        ("legacy_seresnet50", LITE),
        (LITE, LITE),
    ],
)
def test_shapes_of_the_paper(backbone, segmentation):
    with torch.device("meta"):
        network = guided(backbone, segmentation).eval()
        patches = torch.zeros(2, 512, 512, 3, dtype=torch.uint8)
    stage2, last = BACKBONES[backbone]

    image = network.normalise(patches)
    encoded = network.segmentation.encode(image)
    assert encoded.guidance.shape == (2, 256, 32, 32)
    assert encoded.detail.shape[2:] == (128, 128)
    features = network.regression.early(image)
    assert features.shape == (2, stage2, 32, 32)
    fused = network.fuse(torch.cat([encoded.guidance, features], dim=1))
    assert fused.shape == features.shape
    assert network.regression.late(fused).shape == (2, last, 8, 8)

    prediction = network(patches)
    assert prediction.score.shape == (2,)
    assert prediction.score.dtype == torch.float32
    assert prediction.logits.shape == (2, 4, 128, 128)
    assert network.segmentation.upsample(prediction.logits).shape == (2, 4, 512, 512)
    assert network.segmentation(patches).shape == (2, 4, 512, 512)


@torch.no_grad()
@pytest.mark.parametrize("regression", ["resnet18", "resnet50", LITE])
def test_a_full_patch_is_scored_between_0_and_1(regression):
    network = settled(guided(regression))
    score, logits, _ = network(pixels(1, side=512))
    assert score.shape == (1,)
    assert 0 < score.item() < 1
    assert logits.shape == (1, len(CLASSES), 128, 128)
    assert logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_score_is_inside_0_and_1_however_sure_the_network_is(sign):
    network = settled(guided(LITE))
    network.head.weight.fill_(sign * 1e4)
    score = network(pixels(2)).score
    assert ((score > 0) & (score < 1)).all()
    assert ((score > 0.5) == (sign > 0)).all()


def stride_by_hand(model: nn.Module, backbone: str) -> None:
    """The stride of the first stage, changed by a reader of each family's source."""
    if "efficientnet" in backbone:
        model.blocks[0][0].conv_dw.stride = (2, 2)
        return
    block = model.layer1[0]
    on_first = backbone in ("resnet18", "legacy_seresnet18", "legacy_seresnet50")
    (block.conv1 if on_first else block.conv2).stride = (2, 2)
    if backbone.endswith("18"):
        block.downsample = nn.Sequential(nn.Conv2d(64, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
    elif backbone == "resnet50d":
        block.downsample[0] = nn.AvgPool2d(2)
    else:
        block.downsample[0].stride = (2, 2)


@torch.no_grad()
@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "resnet50",
        "resnet50d",
        "resnext50_32x4d",
        "seresnet50",
        "legacy_seresnet18",
        "legacy_seresnet50",
        "efficientnet_lite0",
        LITE,
    ],
)
def test_the_backbone_is_timms_network_but_for_the_first_stride(backbone):
    ours = RegressionBackbone(backbone).eval()
    theirs = timm.create_model(backbone, pretrained=False)
    stride_by_hand(theirs, backbone)
    theirs.eval()
    weights = {
        name.split(".", 1)[1].replace("blocks_", "blocks."): tensor
        for name, tensor in ours.state_dict().items()
    }
    missing, surplus = theirs.load_state_dict(weights, strict=False)
    assert not surplus
    assert all(name.startswith(("fc.", "last_linear.", "classifier.")) for name in missing)

    image = torch.randn(1, 3, 128, 128)
    assert ours(image).shape[2:] == (2, 2)
    torch.testing.assert_close(ours(image), theirs.forward_features(image))


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["resnet18", LITE])
def test_segmentation_is_the_librarys_own_forward(backbone):
    torch.manual_seed(0)
    network = settled(SegmentationNetwork(backbone))
    patches = pixels(2)
    theirs = network.deeplab(network.normalise(patches))
    torch.testing.assert_close(network(patches), theirs, rtol=0, atol=0)
    assert theirs.std() > 0


@torch.no_grad()
@pytest.mark.parametrize("stride", [4, 2])
def test_half_pixel_logits_turn_with_the_picture_and_lie_over_it(stride):
    """A mirrored map, brought to full size, is the mirrored full map; so is one that is shifted."""
    network = SegmentationNetwork(LITE, upsampling="half-pixel", logit_stride=stride)
    logits = torch.randn(1, 4, 8, 8)
    full = network.upsample(logits)
    assert full.shape == (1, 4, 8 * stride, 8 * stride)
    torch.testing.assert_close(network.upsample(logits.flip(3)).flip(3), full)
    # The mean of the pixels that a coarse one covers is at its own place, edges included.
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    means = F.avg_pool2d(network.upsample(ramp), stride)
    torch.testing.assert_close(means[..., 1:-1], ramp[..., 1:-1])
    corners = SegmentationNetwork(LITE, logit_stride=stride).upsample(ramp)
    assert (F.avg_pool2d(corners, stride) - ramp)[..., 1:-1].abs().max() > 0.2 / stride


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["resnet18", LITE])
def test_logits_at_stride_2_see_what_stride_4_cannot(backbone):
    torch.manual_seed(0)
    network = settled(SegmentationNetwork(backbone, upsampling="half-pixel", logit_stride=2))
    patches = pixels(2)
    logits = network.decode(network.encode(network.normalise(patches)))
    assert logits.shape == (2, 4, 64, 64)
    assert network(patches).shape == (2, 4, 128, 128)
    four = set(SegmentationNetwork(backbone).state_dict())
    added = set(network.state_dict()) - four
    assert {name.split(".")[0] for name in added} == {"finer"}
    left_out = {f"deeplab.segmentation_head.0.{part}" for part in ("weight", "bias")}
    assert four - set(network.state_dict()) == left_out


@torch.no_grad()
def test_a_correction_of_the_area_ratio_starts_as_the_ratio():
    architecture = Architecture(
        regression_backbone="resnet18",
        segmentation_backbone=LITE,
        upsampling="half-pixel",
        logit_stride=2,
        area_ratio=True,
    )
    network = settled(build_network(architecture))
    network.head.weight.zero_()
    patches = pixels(3)
    score, logits, _ = network(patches)
    share = logits.softmax(1)[:, 3].mean((1, 2)).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(score, share)
    torch.testing.assert_close(network(patches, with_segmentation=False).score, score)
    assert network(patches, with_segmentation=False).logits is None
    with pytest.raises(ConfigError, match="classes malignant"):
        build_network(architecture.model_copy(update={"classes": ("a", "b")}))


@torch.no_grad()
def test_the_segmentation_of_the_guided_network_is_that_of_its_first_stage(network):
    first = SegmentationNetwork(LITE).eval()
    first.load_state_dict(network.segmentation.state_dict())
    patches = pixels(2)
    logits = network(patches).logits
    torch.testing.assert_close(first.upsample(logits), first(patches), rtol=0, atol=0)


def test_the_encoder_runs_once_and_the_decoder_only_if_wanted(network):
    runs = []
    deeplab = network.segmentation.deeplab
    hooks = [
        part.register_forward_hook(lambda *_, name=name: runs.append(name))
        for name, part in [("encoder", deeplab.encoder), ("decoder", deeplab.decoder.block2)]
    ]
    with torch.no_grad():
        both = network(pixels(1))
        assert runs == ["encoder", "decoder"]
        alone = network(pixels(1), with_segmentation=False)
    assert runs == ["encoder", "decoder", "encoder"]
    assert alone.logits is None
    torch.testing.assert_close(alone.score, both.score, rtol=0, atol=0)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("backbone", ["resnet50", "legacy_seresnet50", LITE])
def test_the_regression_starts_kaiming_normal(backbone):
    network = guided(backbone)
    checked = 0
    for part in (network.regression, network.fuse):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                kernel = module.kernel_size[0] * module.kernel_size[1]
                expected = (2 / (module.in_channels // module.groups * kernel)) ** 0.5
                n = module.weight.numel()
                # Five standard errors of the deviation of n normal samples.
                assert abs(module.weight.std() / expected - 1) < 5 / (2 * n) ** 0.5
                assert abs(module.weight.mean()) < 5 * expected / n**0.5
                assert module.bias is None or not module.bias.any()
                checked += 1
            elif isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()
                checked += 1
    assert checked > 40


def test_training_starts_in_the_middle_of_the_scale():
    network = guided("resnet50").train()
    with torch.no_grad():
        score = network(pixels(4)).score
    assert ((score > 0.3) & (score < 0.7)).all()


@torch.no_grad()
@pytest.mark.parametrize("regression", ["resnet18", LITE])
def test_a_score_does_not_depend_on_batch_mates(regression):
    """To within 2e-6: convolutions of another batch size may sum in another order."""
    network = settled(guided(regression))
    patches = pixels(5)
    together = network(patches)
    for i in range(len(patches)):
        alone = network(patches[i : i + 1])
        torch.testing.assert_close(alone.score[0], together.score[i], rtol=0, atol=2e-6)
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-4, atol=1e-4)
    reverse = network(patches.flip(0)).score.flip(0)
    torch.testing.assert_close(reverse, together.score, rtol=0, atol=2e-6)
    assert together.score.unique().numel() == len(patches)


def test_the_score_trains_the_encoder_and_the_regression_but_not_the_decoder():
    network = guided().train()
    network(pixels(2)).score.sum().backward()

    def moved(part: nn.Module) -> bool:
        return all(p.grad is not None and p.grad.any() for p in part.parameters())

    deeplab = network.segmentation.deeplab
    assert moved(network.regression.early)
    assert moved(network.regression.late)
    assert moved(network.fuse)
    assert moved(network.head)
    assert moved(deeplab.encoder.model.conv_stem)
    assert moved(deeplab.decoder.aspp)
    assert all(p.grad is None for p in deeplab.segmentation_head.parameters())
    assert all(p.grad is None for p in deeplab.decoder.block2.parameters())


@torch.no_grad()
def test_guidance_reaches_the_score_through_the_fused_map_alone():
    network = settled(guided())
    patches = pixels(2)
    before = network(patches).score
    aspp = network.segmentation.deeplab.decoder.aspp

    network.segmentation.load_state_dict(settled(SegmentationNetwork(LITE)).state_dict())
    other = network(patches).score
    assert (before - other).abs().min() > 1e-5

    network.fuse[0].weight[:, :256] = 0
    unguided = network(patches).score
    aspp[-2].weight.fill_(3)
    torch.testing.assert_close(network(patches).score, unguided, rtol=0, atol=0)


@torch.no_grad()
def test_weights_of_the_first_stage_are_carried_over():
    torch.manual_seed(1)
    first = settled(SegmentationNetwork(LITE))
    network = guided().eval()
    image = network.normalise(pixels(2))
    expected = first.encode(image)
    assert not torch.equal(network.segmentation.encode(image).guidance, expected.guidance)

    network.load_segmentation(first.state_dict())
    torch.testing.assert_close(network.segmentation.encode(image), expected, rtol=0, atol=0)


def test_weights_of_another_first_stage_are_refused():
    network = guided()
    with pytest.raises(ConfigError, match=r"another network.*segmentation_backbone"):
        network.load_segmentation(SegmentationNetwork("resnet18").state_dict())
    with pytest.raises(ConfigError, match="classes"):
        network.load_segmentation(SegmentationNetwork(LITE, classes=("a", "b")).state_dict())


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["resnet18", LITE])
def test_pretrained_weights_go_into_the_segmentation_backbone(backbone):
    torch.manual_seed(2)
    pretrained = timm.create_model(backbone, pretrained=False).state_dict()
    network = SegmentationNetwork(backbone).eval()
    network.load_backbone(pretrained)
    theirs = timm.create_model(
        backbone, pretrained=False, features_only=True, output_stride=16
    ).eval()
    theirs.load_state_dict(pretrained, strict=False)
    image = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(network.deeplab.encoder(image)[1:], theirs(image), rtol=0, atol=0)


def test_pretrained_weights_of_another_backbone_are_refused():
    with pytest.raises(ConfigError, match=r"conv1\.weight.* missing or of another shape"):
        SegmentationNetwork("resnet18").load_backbone(timm.create_model(LITE).state_dict())


@torch.no_grad()
def test_the_plain_network_is_the_regression_without_guidance(network):
    torch.manual_seed(0)
    plain = build_network(Architecture(regression_backbone="resnet18"))
    assert type(plain) is RegressionNetwork
    settled(plain)
    patches = pixels(2)
    score, logits, _ = plain(patches)
    assert logits is None
    pooled = plain.regression(plain.normalise(patches)).mean(dim=(2, 3))
    torch.testing.assert_close(score, torch.sigmoid(plain.head(pooled))[:, 0])
    own = {name for name in network.state_dict() if not name.startswith(("segmentation", "fuse"))}
    assert own == plain.state_dict().keys()


@torch.no_grad()
def test_the_score_stays_float32_under_autocast(network):
    patches = pixels(4)
    reference = network(patches).score
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score, logits, _ = network(patches)
    assert logits.dtype == torch.bfloat16
    assert score.dtype == torch.float32
    assert (score != score.bfloat16().float()).any()
    torch.testing.assert_close(score, reference, rtol=0, atol=0.1)


def test_pixels_are_normalised_in_the_graph():
    mean, std = (0.7, 0.5, 0.6), (0.2, 0.25, 0.1)
    patches = pixels(2, side=64)
    image = Normalise(mean, std, stride=64)(patches)
    expected = (patches.numpy() / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(image.numpy(), expected.transpose(0, 3, 1, 2), atol=2e-6)
    assert image.dtype == torch.float32
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_is_the_architectures_and_not_a_weight(network):
    assert not any("normalise" in name for name in network.state_dict())
    architecture = Architecture(regression_backbone="resnet18", mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
    normalise = build_network(architecture).normalise
    torch.testing.assert_close(normalise.mean.flatten(), torch.tensor([25.5, 51.0, 76.5]))
    torch.testing.assert_close(normalise.scale.flatten() * 255, torch.tensor([1.0, 0.5, 0.25]))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 256), (320, 192)])
def test_any_multiple_of_64_works(network, height, width):
    patches = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    score, logits, _ = network(patches)
    assert score.shape == (1,)
    assert logits.shape == (1, 4, height // 4, width // 4)


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (torch.zeros(1, 500, 512, 3, dtype=torch.uint8), "multiples of 64 pixels, not 512×500"),
        (torch.zeros(1, 0, 64, 3, dtype=torch.uint8), "multiples of 64"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"not uint8 \[1, 3, 64, 64\]"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), r"not uint8 \[64, 64, 3\]"),
        (torch.zeros(1, 64, 64, 3), r"not float32 \[1, 64, 64, 3\]; it normalises"),
    ],
)
def test_other_pixels_are_refused(network, patches, message):
    with pytest.raises(ConfigError, match=message):
        network(patches)


def test_the_segmentation_alone_takes_multiples_of_16():
    network = SegmentationNetwork(LITE).eval()
    with torch.no_grad():
        assert network(pixels(1, side=272)).shape == (1, 4, 272, 272)
    with pytest.raises(ConfigError, match="multiples of 16"):
        network(torch.zeros(1, 264, 264, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "convnext_tiny", "densenet121", "vgg16_bn", "regnetx_002"]
)
def test_a_backbone_of_another_family_is_named_and_refused(name):
    with pytest.raises(ConfigError, match=f"'{name}' does not fit.*regression.*What fits"):
        RegressionBackbone(name)
    with pytest.raises(ConfigError, match=f"'{name}' does not fit.*segmentation.*What fits"):
        SegmentationNetwork(name)


@pytest.mark.parametrize("name", ["resnetblur18", "efficientnetv2_s", "efficientnet_h_b5"])
def test_a_backbone_whose_stages_do_not_fit_is_named_and_refused(name):
    with pytest.raises(ConfigError, match=f"'{name}' does not fit: its .*stage.*What fits"):
        RegressionBackbone(name)


def test_a_senet_that_cannot_be_dilated_is_no_segmentation_backbone():
    with pytest.raises(ConfigError, match=r"'legacy_senet154' does not fit.*segmentation"):
        SegmentationNetwork("legacy_senet154")


@pytest.mark.parametrize(
    "name", ["nonsense", "hf-hub:timm/resnet18", "resnet18.a1_in1k", "local-dir:/etc", "", "../x"]
)
def test_nothing_but_a_plain_name_is_looked_up(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("looked up")

    monkeypatch.setattr(timm, "create_model", refuse)
    for build in (RegressionBackbone, SegmentationNetwork):
        with pytest.raises(ConfigError, match=r"no network that timm .* knows"):
            build(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"std": (0.1, 0.1, 0)},
        {"mean": (0.1, float("nan"), 0)},
        {"classes": ("one",)},
        {"kind": "x"},
    ],
)
def test_an_architecture_is_validated(wrong):
    with pytest.raises(ValidationError):
        Architecture(regression_backbone="resnet18", **wrong)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "seresnet50"])
def test_a_regression_backbone_takes_all_pretrained_weights_but_the_classifiers(name):
    pretrained = timm.create_model(name, pretrained=False).state_dict()
    backbone = RegressionBackbone(name)
    backbone.load_backbone(pretrained)
    own = {k.split(".", 1)[1].replace(".", "_"): v for k, v in backbone.state_dict().items()}
    taken = {k.replace(".", "_"): v for k, v in pretrained.items()}
    classifier = set(taken) - set(own)
    assert classifier <= {"fc_weight", "fc_bias", "classifier_weight", "classifier_bias"}
    for key in set(taken) - classifier:
        torch.testing.assert_close(own[key], taken[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", UNCUT)
def test_a_nasnet_takes_all_pretrained_weights_but_the_classifiers(name):
    with torch.device("meta"):
        pretrained = timm.create_model(name, pretrained=False).state_dict()
        backbone = RegressionBackbone(name)
    backbone.load_backbone(pretrained)
    own = {backbone.early.name_in_timm(k.removeprefix("early.")) for k in backbone.state_dict()}
    assert set(pretrained) - own == {"last_linear.weight", "last_linear.bias"}
    assert own <= set(pretrained)


def test_weights_of_another_regression_backbone_are_refused():
    with pytest.raises(ConfigError, match="do not fit the regression backbone"):
        RegressionBackbone("resnet18").load_backbone(
            timm.create_model("resnet34", pretrained=False, num_classes=0).state_dict()
            | {"conv1.weight": torch.zeros(1)}
        )
