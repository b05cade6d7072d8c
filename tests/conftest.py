"""Fixtures that several tests share: the real slides, and small slides made on the spot."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.helpers.made import config_of_tiny, save_tiny_bundle, write_slide
from tests.helpers.real_slides import DATA
from training.synthetic import Patch, generate_region
from wsi_pipeline.night.config import NightConfig

# Tests run side by side: one core each.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def _data(folder: str) -> Path:
    path = DATA / folder
    if not path.is_dir():
        pytest.skip(
            f"the real slides are not here: put them into a folder '{folder}' below a folder that "
            "WSI_TEST_DATA names"
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
    """Write slides into the test's folder; see `tests.helpers.made.write_slide`."""

    def make(rgb: NDArray[np.uint8], *, name: str = "slide.tif", **options: Any) -> Path:
        return write_slide(tmp_path / name, rgb, **options)

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


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of graphs for the tests alone, and not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tests.helpers.made.save_tiny_bundle`."""
    return save_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def tiny_config() -> NightConfig:
    """See `tests.helpers.made.config_of_tiny`."""
    return config_of_tiny()
