"""Tiles of tissue from all over slides: to time reading them, and to calibrate a model on them."""

import logging
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError, SlideError, TissueError
from wsi_pipeline.model.bundle import ModelCard
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.fill import read_tile
from wsi_pipeline.tiles.grid import TileGrid, tile_grid
from wsi_pipeline.tiles.tissue import tissue_of

log = logging.getLogger(__name__)

MIN_TILES: Final = 16
"""Fewer tiles than this are too few to calibrate a model on."""

SAMPLED_TILES: Final = 8
"""Tiles that are read to tell how long reading takes."""


def sample_tiles(
    locations: Sequence[str], card: ModelCard, config: ScoreConfig, *, count: int, seed: int
) -> NDArray[np.uint8]:
    """Read tiles of tissue, chosen at random, as many of each slide as of any other.

    Args:
        locations: the slides' paths or URLs.
        card: the model's, whose tiles they are.
        config: how slides are opened and tissue is found.
        count: tiles wanted; less if the slides have less.
        seed: of the choice.

    Returns:
        uint8 [n, side, side, 3], in random order.

    Raises:
        ConfigError: if there are too few.
        SlideError: if a slide cannot be read.

    """
    grid_config = config.grid.model_copy(
        update={"mpp": card.mpp, "tile_px": card.tile_px, "stride_px": card.tile_px}
    )
    random = np.random.default_rng(seed)
    tiles: list[NDArray[np.uint8]] = []
    for left, location in zip(range(len(locations), 0, -1), locations, strict=True):
        wanted = -(-(count - len(tiles)) // left)  # what earlier slides lacked, later ones give
        with Slide.open(location, backend=config.slide.backend, mpp=config.slide.mpp) as slide:
            mask = tissue_of(slide, config.tissue)
            try:
                grid = tile_grid(slide.l0_bounds, slide.mpp, mask, grid_config, slide.name)
            except TissueError as error:
                log.warning("%s", error)
                continue
            chosen = random.permutation(len(grid))[:wanted]
            read = (read_tile(slide, grid, int(index), card.tile_px) for index in sorted(chosen))
            tiles += [tile for tile in read if tile is not None]
    if len(tiles) < MIN_TILES:
        raise ConfigError(
            f"The slides have {len(tiles)} tiles of tissue, and calibrating takes {MIN_TILES} at "
            f"least, better some hundred. Give more slides."
        )
    return np.stack([tiles[index] for index in random.permutation(len(tiles))])


def timed_reads(slide: Slide, grid: TileGrid, tile_px: int) -> tuple[NDArray[np.uint8], float]:
    """Read a few tiles from all over a slide's tissue.

    Returns:
        those that can be decoded, uint8 [n, side, side, 3] with n of `SAMPLED_TILES` at most, and
        the seconds that reading one took.

    Raises:
        SlideError: if none of them can be decoded.

    """
    indices = np.unique(np.linspace(0, len(grid) - 1, SAMPLED_TILES).astype(int))
    start = time.perf_counter()
    tiles = [read_tile(slide, grid, int(index), tile_px) for index in indices]
    seconds = (time.perf_counter() - start) / len(indices)
    sound = [tile for tile in tiles if tile is not None]
    if not sound:
        raise SlideError(
            f"{slide.name}: none of {len(tiles)} tiles from all over its tissue can be decoded. "
            f"The file is damaged: copy or scan it again."
        )
    return np.stack(sound), seconds
