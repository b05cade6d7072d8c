"""What a person wants to know of a slide before scoring it."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.base import Engine
from wsi_pipeline.errors import SlideError
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.fill import read_tile
from wsi_pipeline.tiles.grid import TileGrid, mask_area_mm2, tile_grid
from wsi_pipeline.tiles.tissue import tissue_of

SAMPLED_TILES = 8


@dataclass(frozen=True, slots=True)
class Expectation:
    """What scoring a slide will take.

    Attributes:
        tissue_mm2: area of the tissue.
        n_tiles: tiles that will be scored, but for damaged ones.
        n_candidates: tiles of the whole grid.
        read_s: seconds of reading, over all workers.
        score_s: seconds of the model; None if no engine was given.

    """

    tissue_mm2: float
    n_tiles: int
    n_candidates: int
    read_s: float
    score_s: float | None

    @property
    def total_s(self) -> float:
        """Seconds that a run will take: reading and the model overlap."""
        return max(self.read_s, self.score_s or 0.0)


def expect(slide: Slide, config: ScoreConfig, engine: Engine | None) -> Expectation:
    """Find the tissue, and time a few of its tiles through the reader and the model.

    Raises:
        TissueError: if there is no tissue.
        MppError: if the slide is too coarse.
        SlideError: if none of those tiles can be read.

    """
    mask = tissue_of(slide, config.tissue)
    grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
    tiles, seconds = _timed_reads(slide, grid, config.grid.tile_px)
    score_s = None
    if engine is not None:
        engine.predict(tiles[: engine.batch_size])  # the first batch pays for set-up
        start = time.perf_counter()
        engine.predict(tiles)
        score_s = (time.perf_counter() - start) / len(tiles) * len(grid)
    return Expectation(
        tissue_mm2=mask_area_mm2(mask, slide.l0_bounds, slide.mpp),
        n_tiles=len(grid),
        n_candidates=grid.n_candidates,
        read_s=seconds * len(grid) / config.workers,
        score_s=score_s,
    )


def _timed_reads(slide: Slide, grid: TileGrid, tile_px: int) -> tuple[NDArray[np.uint8], float]:
    """Return a few tiles from all over the slide and the seconds that one took."""
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
