"""What a person wants to know of a slide before scoring it."""

import time
from dataclasses import dataclass

from wsi_pipeline.engine.base import Engine
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.sample import timed_reads
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.grid import mask_area_mm2, tile_grid
from wsi_pipeline.tiles.tissue import tissue_of


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
    tiles, seconds = timed_reads(slide, grid, config.grid.tile_px)
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
