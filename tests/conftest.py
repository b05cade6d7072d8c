"""Fixtures that several tests share: the real slides, and small slides made on the spot."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from training.synthetic import Patch, generate_region
from wsi_pipeline.bundle import ModelBundle, ModelCard
from wsi_pipeline.config import ScoreConfig
from wsi_pipeline.engine import EngineConfig
from wsi_pipeline.grid import GridConfig
from wsi_pipeline.network import Architecture, build_network

# Tests run side by side: one core each.
torch.set_num_threads(1)

DATA = Path(os.environ.get("WSI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def _data(folder: str) -> Path:
    path = DATA / folder
    if not path.is_dir():
        pytest.skip(
            f"the real slides are not here: put them into a folder '{folder}' below a folder that "
            "WSI_TEST_DATA names (`make demo` fetches the public one of them)"
        )
    return path


@pytest.fixture(scope="session")
def slides_dir() -> Path:
    """The folder of real slides. Once it is there, a missing slide fails its test."""
    return _data("slides")


@pytest.fixture(scope="session")
def masks_dir() -> Path:
    """The folder of reference tissue masks of the real slides."""
    return _data("masks")


SlideMaker = Callable[..., Path]


@pytest.fixture
def make_slide(tmp_path: Path) -> SlideMaker:
    """Write a pyramidal, tiled TIFF that both readers open; by default losslessly."""

    def make(
        rgb: NDArray[np.uint8],
        *,
        mpp: float | None = 0.5,
        downsamples: tuple[int, ...] = (),
        name: str = "slide.tif",
        compression: str | None = "deflate",
        tile: int = 256,
    ) -> Path:
        path = tmp_path / name
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

    return make


@pytest.fixture(scope="session")
def tissue_like() -> Callable[..., NDArray[np.uint8]]:
    """Pictures with structure at every scale, so that misplaced or aliased reads show."""

    def make(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        picture = np.zeros((height, width, 3), np.float32)
        for scale in (2, 8, 32, 128):
            noise = rng.normal(size=(height // scale + 2, width // scale + 2, 3))
            picture += cv2.resize(
                noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
            )
        stained = np.array([190, 120, 180]) + picture * np.array([12, 20, 12])
        return stained.clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def section() -> Patch:
    """A small section of generated tissue on glass, 1024 × 1024 px at 0.5 µm/px, with its truth."""
    return generate_region(0, 1024)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided network with random weights for tiles of 64 px: fast, but a bundle like any."""
    torch.manual_seed(0)
    architecture = Architecture(
        segmentation_backbone="tf_efficientnet_lite0", regression_backbone="resnet18"
    )
    card = ModelCard(
        name="tiny",
        version="1",
        architecture=architecture,
        tile_px=64,
        trained_on="Nothing: its weights are random.",
        licence="Apache-2.0",
        intended_use="Tests.",
        limitations="Its scores mean nothing.",
    )
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    ModelBundle.of(build_network(architecture), card).save(folder)
    return folder


@pytest.fixture
def tiny_config() -> ScoreConfig:
    """Fits `tiny_bundle`; float32, so that any machine gives the same scores."""
    return ScoreConfig(
        grid=GridConfig(tile_px=64, stride_px=64),
        engine=EngineConfig(device="cpu", precision="float32", batch_size=4),
        workers=2,
    )
