"""One small slide, scored once by `wsi.score` for all tests of this folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import wsi_pipeline as wsi
from tests.helpers.made import write_slide
from training.synthetic import Patch

SLIDE = "block.tif"

CONFIG = {
    "grid": {"tile_px": 64, "stride_px": 64},
    "engine": {"device": "cpu", "runtime": "torch", "precision": "float32", "batch_size": 4},
}


@pytest.fixture(scope="session")
def slide(section: Patch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A section beside as much glass: 384 × 244 px, which are not whole tiles."""
    rgb = np.full((244, 384, 3), 245, np.uint8)
    rgb[:, :192] = section.rgb[256:500, 256:448]
    return write_slide(tmp_path_factory.mktemp("slides") / SLIDE, rgb)


@pytest.fixture(scope="session")
def write_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write the configuration that fits the tiny bundle, with changes."""

    def write(**changes: object) -> Path:
        path = tmp_path_factory.mktemp("config") / "score.yaml"
        path.write_text(yaml.safe_dump(CONFIG | changes))
        return path

    return write


@pytest.fixture(scope="session")
def finished(
    slide: Path,
    tiny_bundle: Path,
    write_config: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a finished result, to be read alone."""
    out = tmp_path_factory.mktemp("finished")
    return wsi.score(slide, out, bundle=tiny_bundle, config=write_config()).folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished result, to be damaged."""
    return shutil.copytree(finished, tmp_path / "out" / finished.name)


@pytest.fixture(scope="session")
def refused(
    slide: Path,
    tiny_bundle: Path,
    write_config: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a slide on which no tissue was found."""
    out = tmp_path_factory.mktemp("refused")
    config = write_config(tissue={"min_texture": 9.0})
    return wsi.score(slide, out, bundle=tiny_bundle, config=config).folder
