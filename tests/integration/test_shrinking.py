"""Shrinking in the decoder on real slides, against level 0 decoded by OpenSlide and averaged."""

from contextlib import closing

import numpy as np
import pytest

from tests.benchmarks.big_slide import build
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.geometry import Box
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.slide.readers.openslide_reader import OpenSlideReader
from wsi_pipeline.slide.readers.tiffslide_reader import TiffSlideReader
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.fill import read_tile
from wsi_pipeline.tiles.grid import GridConfig, tile_grid

pytestmark = pytest.mark.slides

JPEG_SLIDES = ("cmu-1-small-region.svs", "her2st-b4.tif", "her2st-c3.tif")
OTHERS = ("monusac-a9k0-1.svs", "tcga-cr-7395-01a-01-ts1.svs")


def errors(one, other):
    """Peak signal-to-noise ratio in dB, mean and largest difference."""
    difference = one.astype(float) - other
    ratio = 10 * np.log10(255**2 / max(1e-9, np.mean(difference**2)))
    return ratio, np.abs(difference).mean(), np.abs(difference).max()


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("name", JPEG_SLIDES)
def test_pixels_are_the_area_means_of_level_0(slides_dir, name, shrink):
    path = str(slides_dir / name)
    with closing(TiffSlideReader(path)) as ours, closing(OpenSlideReader(path)) as theirs:
        assert ours.sizes == theirs.sizes
        rng = np.random.default_rng(0)
        for level, shrinks in enumerate(ours.shrinks[:2]):
            assert shrinks == (2, 4, 8)
            size = ours.sizes[level]
            for _ in range(4):
                side = 512 // shrink
                x, y = (
                    int(rng.integers(0, extent // shrink - side))
                    for extent in (size.width, size.height)
                )
                box = Box(x, y, side, side)
                ratio, mean, most = errors(
                    ours.read_level(level, box, shrink), theirs.read_level(level, box, shrink)
                )
                if level == 0:  # below, OpenSlide places pixels between pixels
                    assert (ratio > 45, mean < 1, most < 32) == (True, True, True)


@pytest.mark.parametrize("name", OTHERS)
def test_jpeg_2000_is_read_as_before(slides_dir, name):
    with closing(TiffSlideReader(str(slides_dir / name))) as reader:
        assert not any(reader.shrinks)


@pytest.fixture(scope="module")
def big(slides_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "big.tif"
    build(path, 1, source=slides_dir / JPEG_SLIDES[0])
    return path


def test_tiles_of_a_slide_at_40x(big):
    with Slide.open(big) as ours, Slide.open(big, backend="openslide") as theirs:
        view = ours.view_for(0.5 / ours.mpp)
        assert (view.level, view.shrink, view.downsample) == (0, 2, 2.0)
        assert theirs.view_for(0.5 / theirs.mpp).shrink == 1
        grid = tile_grid(ours.l0_bounds, ours.mpp, np.ones((9, 9), bool), GridConfig(), ours.name)
        found = [
            errors(*(read_tile(slide, grid, index, 512) for slide in (ours, theirs)))
            for index in range(0, len(grid), 7)
        ]
        assert min(ratio for ratio, _, _ in found) > 45


@pytest.mark.long
def test_scores_of_a_slide_at_40x(big):
    """Within 0.005 of those of pixels decoded whole."""
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    engine = build_engine(ModelBundle.load(BUNDLED_MODEL), config)
    with Slide.open(big) as ours, Slide.open(big, backend="openslide") as theirs:
        grid = tile_grid(ours.l0_bounds, ours.mpp, np.ones((9, 9), bool), GridConfig(), ours.name)
        tiles = [
            [read_tile(slide, grid, index, 512) for slide in (ours, theirs)]
            for index in range(len(grid))
        ]
        tiles = [pair for pair in tiles if pair[1].std() > 25][:12]
        one, other = (
            engine.predict(np.stack(same)).cellularity for same in zip(*tiles, strict=True)
        )
    assert np.abs(one - other).max() < 0.005
