"""The maps of a scored store: the coarse one, the fine one where the model tells it, and tissue."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.fine_map import FineMapConfig, make_fine_map
from wsi_pipeline.outputs.score_map import ScoreMap, blend, build_score_map
from wsi_pipeline.tile_data import TileTable
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore


@dataclass(frozen=True, eq=False)
class Maps:
    """What is known of each place of a slide.

    Attributes:
        coarse: one cell for each step of the grid.
        fine: see `wsi_pipeline.outputs.fine_map`; None if the model does not tell, or tiles do not
            fit.
        tissue: float32 [rows, columns] over the cells of `shown`, share of the area that is tissue.
        unread: bool [rows, columns], tissue that could not be read, and so has no score.
        l0_bounds: of the slide, in level-0 pixels.

    """

    coarse: ScoreMap
    fine: ScoreMap | None
    tissue: NDArray[np.float32]
    unread: NDArray[np.bool_]
    l0_bounds: Box

    @property
    def shown(self) -> ScoreMap:
        """The finest map that there is."""
        return self.fine or self.coarse


def make_maps(
    store: TileStore,
    table: TileTable,
    mask: NDArray[np.bool_],
    config: FineMapConfig | None = None,
) -> Maps:
    """Lay scores out on the slide.

    Args:
        store: scored.
        table: its tiles.
        mask: bool [rows, columns], tissue over the slide's bounds.
        config: how fine the fine map is to be.

    Raises:
        DamagedStoreError: if the store is damaged.

    """
    grid, tiling = store.grid, TilingFacts.of(store)
    bounds = Box(*tiling.l0_bounds)
    coarse = build_score_map(
        table,
        m_size=grid.m_size,
        l0_stride=grid.l0_stride,
        l0_tile=grid.l0_tile,
        l0_origin=grid.l0_origin,
        mpp=Mpp(tiling.mpp),
    )
    tissue = _of_all_tiles(grid, table.tissue)
    unread = (tissue > 0) & ~np.isfinite(coarse.cellularity)
    fine = make_fine_map(store, coarse, mask, bounds, config)
    if fine is None:
        scored = np.where(np.isfinite(coarse.cellularity), tissue, np.float32(0))
        return Maps(coarse, None, scored, unread, bounds)
    factor = fine.tissue.shape[0] // tissue.shape[0]
    spread = unread.repeat(factor, 0).repeat(factor, 1)
    return Maps(coarse, fine.scores, fine.tissue, spread, bounds)


def _of_all_tiles(grid: TileGrid, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spread one value a tile over the map, 0 where no tile lies."""
    return np.nan_to_num(blend(values, grid.m_xy, grid.m_size, grid.l0_tile / grid.l0_stride))
