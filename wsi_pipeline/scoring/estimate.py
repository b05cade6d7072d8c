"""A slide's figure at a chosen cost: tiles are drawn and scored until it is known well enough.

The tiles that were drawn are scored into the store that the whole result is made from, so scoring
all of the slide later reuses every one. What is said meanwhile, `estimate.json` with its map and
its picture, lies beside and is no result.
"""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.bed.measure import cover
from wsi_pipeline.bed.outline import Bed
from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.engine.base import Engine
from wsi_pipeline.errors import ConfigError, SlideChangedError, TissueError
from wsi_pipeline.outputs.cellularity_tiff import write_cellularity
from wsi_pipeline.outputs.estimate import (
    ESTIMATE,
    ESTIMATE_MAP,
    ESTIMATE_PICTURE,
    Estimate,
    estimate_mean,
    read_estimate,
    write_estimate,
)
from wsi_pipeline.outputs.interval import rounded
from wsi_pipeline.outputs.maps import Maps, make_maps
from wsi_pipeline.outputs.overlay import Drawn, OverlayConfig
from wsi_pipeline.outputs.summary import BED_MEAN_IS, MEAN_IS, SlideSummary
from wsi_pipeline.outputs.thumbnails import picture_mpp
from wsi_pipeline.report.shown import PICTURE_PX
from wsi_pipeline.scoring.begun import Begun, begun
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.folder import prepare, require_in_place
from wsi_pipeline.scoring.pipeline import find_tissue, open_store, score_slide
from wsi_pipeline.scoring.run_log import stage
from wsi_pipeline.scoring.score_some import score_some
from wsi_pipeline.scoring.score_tiles import ModelSlot, Progress, begin
from wsi_pipeline.scoring.scorer import Scorer
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.draw import Draw, draw_of, looks_of
from wsi_pipeline.tiles.grid import TileGrid, tile_grid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.tissue import thumbnail_mpp

log = logging.getLogger(__name__)

FIRST_ROUNDS = 2
"""Fewer do not tell how a stratum varies."""

GROWTH = 1.5
"""By how much rounds may grow before their interval is looked at again: looking after each one
would stop at the first that is narrow by chance."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be estimated: a sum over tiles, by another.

    Attributes:
        of: what it is the mean of.
        tiles: int64 [M], the tiles that add to it.
        size: float64 [M], what each adds to the whole.
        share: what the tiles hold of the whole; the rest adds nothing.
        amount: gives float64 [M], what each adds to the sum, once it is scored.

    """

    of: Literal["tissue", "bed"]
    tiles: NDArray[np.int64]
    size: NDArray[np.float64]
    share: float
    amount: Callable[[], NDArray[np.float64]]


def estimate_slide(
    found: SlideFile | str | Path,
    out: Path,
    engine: Scorer,
    config: ScoreConfig,
    precision: float,
    progress: Progress = lambda _done, _total: None,
    *,
    bed: Path | None = None,
    model_slot: ModelSlot = nullcontext,
) -> Estimate | SlideSummary:
    """Score as many tiles of a slide as its mean takes to be known to a precision.

    Args:
        found: as for `score_slide`, and so are all others but for:
        out: the folder that gets one folder per slide.
        engine: the model, on this machine.
        config: everything else.
        precision: half the width that the mean's 90 % interval may have.
        progress: told as tiles are scored.
        bed: the outline of a tumour bed, whose mean is meant then; None means that of all tissue.
        model_slot: held while tiles are scored.

    Returns:
        the estimate; where there is a result for all tiles, or the precision takes them all, that.

    Raises:
        WsiError: if the slide cannot be scored at all.

    """
    if isinstance(engine, Cluster):
        raise ConfigError(
            "A cluster scores whole slides. Leave `cluster` out of the configuration to stop at a "
            "precision, or leave --precision out."
        )
    with begun(found, out, engine.bundle, config, bed) as at:
        if at.done is not None:
            return at.done
        slide = at.slide
        tiling, provenance = at.identity(engine, config)
        kept = read_estimate(at.folder / ESTIMATE)
        if kept is not None and kept.precision <= precision and kept.provenance == provenance:
            return kept
        mask = find_tissue(slide, prepare(at.folder), config)
        grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
        store = open_store(at.store_place(config, provenance), grid, tiling)
        begin(store, engine)

        def maps() -> Maps:
            return make_maps(store, store.table(), mask, config.fine_map)

        outline = None if bed is None else at.drawn
        target = _tissue(store) if outline is None else _bed(store, grid, outline, maps, slide)
        picture = slide.thumbnail(thumbnail_mpp(slide.l0_bounds, slide.mpp, config.tissue))
        looks = looks_of(grid, picture, slide.l0_bounds)[target.tiles]
        draw = draw_of(looks, seed=int(tiling.digest[:16], 16))
        rounds = FIRST_ROUNDS
        with stage("drawing and scoring"), model_slot():
            while rounds < draw.rounds:
                drawn = draw.drawn(rounds)
                _score(at, store, engine, target.tiles[drawn], config, progress)
                mean, half = _estimated(target, draw, drawn)
                log.info("%d tiles: %.4f ± %.4f", drawn.sum(), mean, half)
                if half <= precision:
                    estimate = Estimate(
                        of=target.of,
                        mean=rounded(min(1.0, mean)),
                        mean_is=MEAN_IS if target.of == "tissue" else BED_MEAN_IS,
                        low=rounded(max(0.0, mean - half)),
                        high=rounded(min(1.0, mean + half)),
                        precision=precision,
                        scored=int(drawn.sum()),
                        tiles=len(target.tiles),
                        method=_method(draw),
                        provenance=provenance,
                    )
                    try:
                        at.content.require_unchanged()
                    except SlideChangedError:
                        store.set_aside()  # nobody can tell of which bytes its scores are
                        raise
                    _write(at, estimate, maps(), config.overlay)
                    return estimate
                rounds = next_rounds(rounds, half / precision)
    log.info("All of its tiles are needed for ± %g", precision)
    return score_slide(found, out, engine, config, progress, bed=bed, model_slot=model_slot)


def _score(
    at: Begun,
    store: TileStore,
    engine: Engine,
    drawn: NDArray[np.int64],
    config: ScoreConfig,
    progress: Progress,
) -> None:
    """Score those of the drawn tiles that are not scored yet."""
    waiting = drawn[store.state(slice(0, len(store)))[drawn] < TileState.SCORED]
    done = len(drawn) - len(waiting)
    for count in score_some(at.slide, store, engine, waiting, workers=config.workers):
        done += count
        progress(done, len(drawn))


def _tissue(store: TileStore) -> Target:
    """Mean all tissue of the slide."""
    size = store.table().weight

    def amount() -> NDArray[np.float64]:
        table = store.table()
        return np.where(table.scored, table.weight * np.nan_to_num(table.cellularity), np.nan)

    return Target("tissue", np.arange(len(store)), size, 1.0, amount)


def _bed(
    store: TileStore, grid: TileGrid, outline: Bed, maps: Callable[[], Maps], slide: Slide
) -> Target:
    """Mean a tumour bed: each tile adds what of its cell in the map lies there."""
    if abs(grid.l0_tile - grid.l0_stride) > 1e-6:
        raise ConfigError(
            f"{slide.name}: tiles that overlap (grid.stride_px) share what lies in the bed. Leave "
            f"--precision or --bed out, or make the stride as long as a tile."
        )
    shown = maps().shown
    within = cover(outline, shown).astype(np.float64)
    factor = shown.cellularity.shape[0] // grid.m_size.height
    column, row = grid.m_xy.T

    def of_tiles(cells: NDArray[np.float64]) -> NDArray[np.float64]:
        blocks = cells.reshape(grid.m_size.height, factor, grid.m_size.width, factor)
        return np.asarray(blocks.sum(axis=(1, 3))[row, column])

    size = of_tiles(within)
    tiles = np.flatnonzero(size > 0)
    if not len(tiles):
        raise TissueError(f"{slide.name}: no tile with tissue lies in the bed.")

    def amount() -> NDArray[np.float64]:
        now = maps()
        cancer = of_tiles(within * np.nan_to_num(now.shown.cellularity) * now.tissue)
        return np.where(store.table().scored, cancer, np.nan)[tiles]

    return Target("bed", tiles, size[tiles], float(size.sum() / within.sum()), amount)


def _estimated(target: Target, draw: Draw, drawn: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean and half of its interval's width; what cannot be read is left out."""
    amount = target.amount()
    read = np.isfinite(amount)
    mean, half = estimate_mean(
        np.nan_to_num(amount), np.where(read, target.size, 0.0), draw.stratum, drawn
    )
    return mean * target.share, half * target.share


def next_rounds(rounds: int, too_wide: float) -> int:
    """Return the rounds to look after next, of an interval that is so many times too wide."""
    return max(rounds + 1, min(math.ceil(rounds * GROWTH), math.ceil(rounds * too_wide**2)))


def _method(draw: Draw) -> str:
    return (
        f"tiles drawn at random from {int(draw.stratum.max()) + 1} strata of like stain, texture "
        "and place; the interval is for what scoring every tile would give, and the error of the "
        "model is not in it"
    )


def _write(at: Begun, estimate: Estimate, maps: Maps, config: OverlayConfig) -> None:
    """Write the estimate with its map and its picture, in which all else is empty."""
    from wsi_pipeline.outputs.figure import Drawing, write_picture  # which takes a while

    require_in_place(at.folder)
    with stage("outputs"):
        picture = at.slide.thumbnail(picture_mpp(at.slide, PICTURE_PX))
        drawing = Drawing(picture, at.slide.l0_bounds, Drawn.of(maps.shown, config))
        write_cellularity(at.folder / ESTIMATE_MAP, maps.coarse)
        write_picture(at.folder / ESTIMATE_PICTURE, drawing, estimate)
        write_estimate(at.folder / ESTIMATE, estimate)
