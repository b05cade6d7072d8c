"""``cellularity-fine.ome.tiff``: where within its tiles the cellularity lies, in cells of 32 µm.

The segmentation tells of each square of 16 µm how much of it malignant cells cover, and how much is
tissue. Their ratio says *where*; the score of the tile, which is the better judge of *how much*,
sets the level: the logit of the ratio is moved by an amount that runs smoothly (bilinearly) from
each tile's middle to its neighbours', chosen by iteration so that the tissue-weighted mean over
each tile comes to its score. So the map agrees with `cellularity.ome.tiff`, and has no seams where
tiles meet. Where the segmentation sees nothing that could be moved, all of a tile gets its score.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from wsi_pipeline.geometry import Box
from wsi_pipeline.model.architecture import SQUARE_PX
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.tiles.grid import TileGrid, box_means
from wsi_pipeline.tiles.store import TileStore

SQUARE_UM = 16
"""Side of what areas are stored of, at the model's 0.5 µm/px."""

LEAST_TISSUE = 0.1
"""Share of a cell that must be tissue for it to have a value, both by its brightness and by the
mask that chose the tiles: stained mounting medium is as dark as pale tissue."""

_SMALLEST_SHARE = 1e-3
_ROUNDS = 12
_LARGEST_MOVE = 8.0  # in logits: from one in 3 000 to a half


class FineMapConfig(BaseModel):
    """How fine the fine map is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_um: Literal[16, 32, 64, 128] = 32
    """Side of a cell, at the model's 0.5 µm/px."""


@dataclass(frozen=True, eq=False)
class FineMap:
    """Cellularity in fine cells, and how much of each is tissue.

    Attributes:
        scores: cellularity of the tissue of each cell; NaN where there is hardly any, or no score.
        tissue: float32 [rows, columns], share of the cell's area that is tissue.

    """

    scores: ScoreMap
    tissue: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas of malignant cells and of tissue in fine cells, as shares of a cell's area.

    Attributes:
        cells: float32 [rows, columns].
        tissue: float32 [rows, columns].
        per_coarse: fine cells along a cell of the coarse map.

    """

    cells: NDArray[np.float32]
    tissue: NDArray[np.float32]
    per_coarse: int


def make_fine_map(
    store: TileStore,
    coarse: ScoreMap,
    mask: NDArray[np.bool_],
    l0_bounds: Box,
    config: FineMapConfig | None = None,
) -> FineMap | None:
    """Return the fine map of a scored store.

    Args:
        store: the scored tiles.
        coarse: their score map.
        mask: bool [rows, columns], tissue over exactly `l0_bounds`, at any resolution.
        l0_bounds: of the slide, in level-0 pixels.
        config: how fine it is to be.

    Returns:
        None if the model told no areas, or tiles lie at distances that are no multiple of a cell.

    Raises:
        DamagedStoreError: if areas are damaged or gone.

    """
    config = config or FineMapConfig()
    areas = read_areas(store, store.grid, config.cell_um // SQUARE_UM)
    if areas is None:
        return None
    fine = agreeing(coarse, areas)
    masked = _mask_share(mask, l0_bounds, fine.scores) >= LEAST_TISSUE
    there = np.isfinite(fine.scores.cellularity) & masked
    cellularity = np.where(there, fine.scores.cellularity, np.float32(np.nan))
    return FineMap(
        scores=replace(fine.scores, cellularity=cellularity),
        tissue=np.where(there, fine.tissue, np.float32(0)),
    )


def read_areas(store: TileStore, grid: TileGrid, squares: int) -> Areas | None:
    """Lay the areas of all scored tiles out on the slide; where tiles overlap, their mean.

    Args:
        store: the tiles.
        grid: where they lie.
        squares: along the side of a fine cell.

    Returns:
        None if there are none, or cells do not fit into the distance of tiles.

    """
    stride_px = grid.l0_stride / grid.l0_tile * store.tile_px
    cell_px = SQUARE_PX * squares
    per_coarse = round(stride_px / cell_px)
    if per_coarse < 1 or abs(per_coarse * cell_px - stride_px) > 1e-6 or store.tile_px % cell_px:
        return None
    side = store.tile_px // cell_px
    rows, columns = grid.m_size.height * per_coarse, grid.m_size.width * per_coarse
    # Tiles may reach beyond the map, by less than a tile.
    total = np.zeros((2, rows + side, columns + side), np.float32)
    count = np.zeros(total.shape[1:], np.uint16)
    for shard in store.shards:
        of_tiles = store.cell_area(shard)
        if of_tiles is None:
            return None
        cells = of_tiles.reshape(len(of_tiles), 2, side, squares, side, squares).mean(axis=(3, 5))
        for (column, row), area in zip(grid.m_xy[shard] * per_coarse, cells, strict=True):
            spot = np.s_[row : row + side, column : column + side]
            total[:, *spot] += area
            count[spot] += 1
    mean = (total / np.maximum(count, 1) / 255)[:, :rows, :columns]
    return Areas(cells=mean[0], tissue=mean[1], per_coarse=per_coarse)


def agreeing(coarse: ScoreMap, areas: Areas) -> FineMap:
    """Return the fine map that agrees with a coarse one, as the module tells."""
    factor = areas.per_coarse
    known = np.isfinite(coarse.cellularity)
    target = _logit(np.where(known, coarse.cellularity, 0.5))
    ratio = _logit(areas.cells / np.maximum(areas.tissue, 1e-6))
    whole = _of_blocks(areas.tissue, factor)
    move = np.zeros(known.shape, np.float32)
    share = _spread(known.astype(np.float32), factor)

    def moved() -> NDArray[np.float32]:
        spread = _spread(move * known, factor) / np.maximum(share, 1e-6)
        return np.asarray(1 / (1 + np.exp(-(ratio + spread))), np.float32)

    for _ in range(_ROUNDS):
        reached = _of_blocks(areas.tissue * moved(), factor) / np.maximum(whole, 1e-6)
        move = np.clip(move + target - _logit(reached), -_LARGEST_MOVE, _LARGEST_MOVE)
    there = _repeat(known, factor) & (areas.tissue >= LEAST_TISSUE)
    scores = ScoreMap(
        cellularity=np.where(there, moved(), np.float32(np.nan)),
        l0_origin=coarse.l0_origin,
        l0_cell=coarse.l0_cell / factor,
        mpp=coarse.mpp,
    )
    return FineMap(scores, np.where(there, areas.tissue, np.float32(0)))


def _mask_share(mask: NDArray[np.bool_], l0_bounds: Box, scores: ScoreMap) -> NDArray[np.float64]:
    """Return how much of each cell a mask covers, float64 [rows, columns]."""
    rows, columns = scores.cellularity.shape
    x, y = scores.l0_origin
    across, down = mask.shape[1] / l0_bounds.width, mask.shape[0] / l0_bounds.height
    return box_means(
        mask,
        (x - l0_bounds.x + np.arange(columns) * scores.l0_cell) * across,
        (y - l0_bounds.y + np.arange(rows) * scores.l0_cell) * down,
        scores.l0_cell * across,
        scores.l0_cell * down,
    )


def _logit(share: NDArray[np.floating]) -> NDArray[np.float32]:
    share = np.clip(share, _SMALLEST_SHARE, 1 - _SMALLEST_SHARE)
    return np.asarray(np.log(share / (1 - share)), np.float32)


def _of_blocks(fine: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average over the fine cells of each coarse cell."""
    rows, columns = fine.shape
    blocks = fine.reshape(rows // factor, factor, columns // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _spread(coarse: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Interpolate between the middles of coarse cells."""
    rows, columns = coarse.shape
    size = (columns * factor, rows * factor)
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _repeat(coarse: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    return coarse.repeat(factor, 0).repeat(factor, 1)
