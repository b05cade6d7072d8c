"""The model that all run: a bundle of ours, and the same weights as TorchScript for the peers."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.big_slide import SAMPLE
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.bundle import ModelBundle, ModelCard
from wsi_pipeline.model.network import GuidedRegressionNetwork, build_network
from wsi_pipeline.slide.slide import Slide

log = logging.getLogger(__name__)

TILE_PX = 512
SETTLING_TILES = 12
SPREAD = 1.5
"""Standard deviation of the logits of a network without training, so that scores tell it apart."""


class ScoreAlone(nn.Module):
    """A network of ours as others take networks: a normalised image in, a logit out.

    What only ours has an output for is left out: the decoder of the segmentation, unless the score
    corrects the area ratio that it tells.
    """

    def __init__(self, network: GuidedRegressionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Turn float32 [B, 3, H, W] into logits [B, 1]."""
        network = self.network
        # The layout that ours runs in; here too it is the faster one.
        image = image.contiguous(memory_format=torch.channels_last)
        encoded = network.segmentation.encode(image)
        joined = torch.cat([encoded.guidance, network.regression.early(image)], dim=1)
        features = network.regression.late(network.fuse(joined))
        if network.ratio is None:
            pooled = features.mean(dim=(2, 3))
            return nn.functional.linear(pooled, network.head.weight, network.head.bias)
        normalise = network.normalise
        pixels = (image / normalise.scale + normalise.mean).permute(0, 2, 3, 1)
        areas = network._areas(network.segmentation.decode(encoded), pixels)
        start = network._start(network.ratio, areas.ratio())
        return torch.logit(network._score(features, start, areas.tissue))[:, None]


def export(bundle: ModelBundle, folder: Path) -> dict[str, Path]:
    """Write TorchScript models, and return them by name.

    "traced" is what `torch.jit.trace` makes; "frozen" has its batch norms folded into the
    convolutions besides, as `torch.jit.freeze` does.
    """
    network = bundle.network()
    if not isinstance(network, GuidedRegressionNetwork):
        raise SystemExit(f"{bundle.source}: the benchmark wants a guided network")
    model = ScoreAlone(network.to(memory_format=torch.channels_last)).eval()
    side = bundle.card.tile_px
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is on its way out of torch, and what WSInfer takes.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.zeros(1, 3, side, side)).eval()
        frozen = torch.jit.freeze(traced)
        paths = {}
        for name, graph in (("traced", traced), ("frozen", frozen)):
            paths[name] = folder / f"{bundle.digest[:12]}-{name}.pt"
            graph.save(str(paths[name]))
    return paths


def untrained_bundle(backbone: str, folder: Path) -> Path:
    """Make a bundle of random weights, always the same; return its folder.

    It costs what a trained one does. That comparing its scores means something, it is brought near
    to one in three ways: its first filters average, since random ones see little but the finest
    detail, in which ways of resampling differ; its batch norms are settled on real tiles; and its
    head is scaled, so that scores spread from 0 to 1.
    """
    path = folder / f"untrained-{backbone}"
    if path.is_dir():
        return path
    log.info("Making a bundle of random weights: %s", path)
    torch.manual_seed(20261123)
    architecture = Architecture(regression_backbone=backbone, segmentation_backbone=backbone)
    network = build_network(architecture)
    pixels = torch.from_numpy(sample_tiles())
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d) and part.in_channels == 3:
                side = part.kernel_size[0]
                part.weight.copy_(side * part.weight.mean(dim=(2, 3), keepdim=True))
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # averages over all batches, instead of following the last
        for batch in pixels.split(SETTLING_TILES // 3):
            network(batch)
        network.eval()
        logits = torch.logit(torch.cat([network(tile[None]).score for tile in pixels]))
        scale = SPREAD / logits.std()
        network.head.weight.mul_(scale)
        network.head.bias.sub_(logits.mean()).mul_(scale)
    card = ModelCard(
        name=f"benchmark-{backbone}",
        version="1",
        architecture=architecture,
        tile_px=TILE_PX,
        trained_on="Nothing: random weights.",
        licence="Apache-2.0",
        intended_use="To measure how fast the software is.",
        limitations="Its scores mean nothing.",
        demonstration=True,
    )
    ModelBundle.of(network, card).save(path)
    return path


def sample_tiles() -> np.ndarray:
    """Read tiles of real tissue, uint8 [SETTLING_TILES, 512, 512, 3]."""
    size = Size(TILE_PX, TILE_PX)
    with Slide.open(SAMPLE) as slide:
        corners = [
            (x, y)
            for y in range(0, slide.l0_size.height - TILE_PX, TILE_PX // 2)
            for x in range(0, slide.l0_size.width - TILE_PX, TILE_PX // 2)
        ]
        tiles = [slide.read(Box(x, y, TILE_PX, TILE_PX), size) for x, y in corners]
    # The busiest are the fullest of tissue.
    order = np.argsort([-float(tile.std()) for tile in tiles], kind="stable")
    return np.stack([tiles[index] for index in order[:SETTLING_TILES]])
