"""How stage 2 starts, and what its guide is held to."""

import numpy as np
import pytest
import torch
from torch import nn

from training.data.picture import Picture, of_nuclei, of_score, pack
from training.reg import (
    CardConfig,
    RegConfig,
    RegStage,
    median_logit,
    regression_metrics,
    start_as_identities,
)
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.backbones import RegressionBackbone
from wsi_pipeline.model.network import build_network

LITE = "tf_efficientnet_lite0"
CARD = CardConfig(
    name="a", version="1", trained_on="n", licence="l", intended_use="u", limitations="m"
)


def stage(**settings) -> RegStage:
    torch.manual_seed(0)
    architecture = Architecture(regression_backbone="resnet18", segmentation_backbone=LITE)
    return RegStage(build_network(architecture), RegConfig(card=CARD, **settings))


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50", LITE])
def test_residual_blocks_start_as_identities(name):
    backbone = RegressionBackbone(name).eval()
    start_as_identities(backbone)
    norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    silent = [norm for norm in norms if not norm.weight.any()]
    blocks = {"resnet18": 8, "resnet50": 16, LITE: 9}[name]
    assert len(silent) == blocks
    features = backbone(torch.randn(1, 3, 128, 128))
    assert features.abs().sum() > 0
    # A block whose shortcut is plain passes on what it gets.
    last = dict(backbone.named_modules())[{LITE: "late.blocks_4.1"}.get(name, "late.layer4.1")]
    seen = torch.rand(1, next(p.shape[1] for p in last.parameters()), 4, 4)
    torch.testing.assert_close(last(seen), seen)


def test_the_score_starts_at_the_median():
    rgb = np.zeros((8, 8, 3), np.uint8)
    pictures = [Picture("p", "g", of_score(rgb), (score,)) for score in (0.1, 0.3, 0.9)]
    assert median_logit(pictures) == pytest.approx(np.log(0.3 / 0.7))
    none = [Picture("p", "g", of_score(rgb), (0.0,))] * 3
    assert -4 < median_logit(none) < -3


def test_the_guide_is_held_to_what_it_knows_of_nuclei(section):
    pixels = torch.from_numpy(section.window(256, 256, 128).rgb[None].copy())
    mask = torch.from_numpy(section.window(256, 256, 128).mask[None].astype(np.int64))
    batch = pixels.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1), torch.tensor([0.2, 0.4])
    free, held = stage(), stage(segmentation_loss=1.0)
    for one, asked in ((free, False), (held, True)):
        one.training_mode()
        one.loss(one.network, batch).backward()
        decoder = one.network.segmentation.deeplab.segmentation_head[0].weight
        assert (decoder.grad is not None) == asked
    unjudged = batch[0], torch.full_like(batch[1], 255), batch[2]
    for one in (free, held):
        one.network.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            held.loss(held.network, unjudged), free.loss(free.network, unjudged)
        )


@torch.no_grad()
def test_the_ratio_of_the_guides_own_segmentation_is_told_beside_the_scores(section):
    network = stage().network.eval()
    batches, truth, derived = [], [], []
    for x in (256, 384, 512):
        patch = section.window(x, 256, 128)
        pixels = torch.from_numpy(patch.rgb[None].copy())
        mask = torch.from_numpy(patch.mask[None].astype(np.int64))
        batches.append((pixels, mask, torch.tensor([patch.cellularity])))
        nuclei = network.segmentation(pixels).argmax(1)[0].numpy().astype(np.uint8)
        derived.append(Picture("p", "g", of_nuclei(patch.rgb, nuclei)).cellularity)
        truth.append(Picture("p", "g", pack(patch)).cellularity)
    metrics = regression_metrics(network, batches, torch.device("cpu"))
    assert metrics["ratio_l1"] == pytest.approx(np.abs(np.subtract(truth, derived)).mean())
    assert {"pk", "l1", "ratio_pk", "mean_iou"} <= metrics.keys()
