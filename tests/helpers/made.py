"""What tests make on the spot: small slides, and a model that is fast and means nothing."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.bundle import ModelBundle, ModelCard
from wsi_pipeline.model.network import build_network
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.outputs.provenance import Settings
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.tiles.grid import GridConfig


def write_slide(
    path: Path,
    rgb: NDArray[np.uint8],
    *,
    mpp: float | None = 0.5,
    downsamples: tuple[int, ...] = (),
    compression: str | None = "deflate",
    tile: int = 256,
) -> Path:
    """Write a pyramidal, tiled TIFF that both readers open; by default losslessly."""
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, *downsamples):
            height, width = rgb.shape[0] // downsample, rgb.shape[1] // downsample
            level = (
                rgb
                if downsample == 1
                else cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            )
            density = None if mpp is None else 1e4 / (mpp * downsample)
            tiff.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                compression=compression,
                resolution=(density, density) if density else None,
                resolutionunit="CENTIMETER" if density else "NONE",
                subfiletype=0 if downsample == 1 else 1,
                metadata=None,
            )
    return path


def damage(path: Path, *tiles: int) -> None:
    """Overwrite tiles of a TIFF's first level with zeros."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        places = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(bytes(count))


def save_tiny_bundle(folder: Path, *, tile_px: int = 64, mpp: float = 0.5, seed: int = 0) -> Path:
    """A guided network with random weights for small tiles: fast, but a bundle like any."""
    torch.manual_seed(seed)
    architecture = Architecture(
        segmentation_backbone="tf_efficientnet_lite0", regression_backbone="resnet18"
    )
    card = ModelCard(
        name="tiny",
        version="1",
        architecture=architecture,
        mpp=Mpp(mpp),
        tile_px=tile_px,
        trained_on="Nothing: its weights are random.",
        licence="Apache-2.0",
        intended_use="Tests.",
        limitations="Its scores mean nothing.",
    )
    ModelBundle.of(build_network(architecture), card).save(folder)
    return folder


def settings_of(bundle: str = "d1", config: ScoreConfig | None = None) -> Settings:
    """What is asked of a slide that is scored with a bundle of this digest."""
    return (config or ScoreConfig()).settings(SimpleNamespace(digest=bundle * 32))


def settle(network: torch.nn.Module, rgb: NDArray[np.uint8]) -> None:
    """Set a random network's batch norms to tiles, so that its activations stay near 0 and 1."""
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean over all batches
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(rgb))
    network.eval()


def config_of_tiny() -> NightConfig:
    """Fits the tiny bundle; float32, so that any machine gives the same scores.

    By OpenVINO, as on users' CPUs: processes that score begin in a third of torch's time.
    """
    return NightConfig(
        grid=GridConfig(tile_px=64, stride_px=64),
        engine=EngineConfig(device="cpu", runtime="openvino", precision="float32", batch_size=4),
        workers=2,
    )
