"""The score map: tile scores laid out on the slide, one cell per stride.

Everything that is drawn or exported (heatmap, overlay, GeoJSON) is made from a :class:`ScoreMap`;
slide-level figures are made from the tiles themselves (see :mod:`wsi_pipeline.outputs.summary`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Mpp, Size
from wsi_pipeline.tile_data import TileTable

THRESHOLDS = (0.1, 0.3, 0.7)
"""Cellularities at which regions are outlined and area fractions reported: 10, 30 and 70 %."""


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """Cellularity on a regular grid of square cells.

    Attributes:
        cellularity: float32 [rows, columns], 0 to 1; NaN where no scored tissue tile lies.
        l0_origin: (x, y) of the outer corner of cell [0, 0], in level-0 pixels of the slide.
        l0_cell: side of a cell in level-0 pixels (the stride; rarely a whole number).
        mpp: pixel size of level 0, in µm.

    """

    cellularity: NDArray[np.float32]
    l0_origin: tuple[float, float]
    l0_cell: float
    mpp: Mpp

    @property
    def cell_um(self) -> float:
        """Side of a cell in µm."""
        return self.l0_cell * self.mpp

    def l0_edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cells' borders as whole level-0 pixels: int64 [columns + 1], int64 [rows + 1].

        Neighbours share a border, so shapes made of cells have neither gaps nor overlaps.
        """
        rows, columns = self.cellularity.shape
        x, y = self.l0_origin
        return (
            np.rint(x + np.arange(columns + 1) * self.l0_cell).astype(np.int64),
            np.rint(y + np.arange(rows + 1) * self.l0_cell).astype(np.int64),
        )

    def coarsened(self, factor: int) -> "ScoreMap":
        """Return the map in cells of ``factor`` times the side, means of their scored cells."""
        if factor == 1:
            return self
        return ScoreMap(
            cellularity=block_mean(self.cellularity, factor),
            l0_origin=self.l0_origin,
            l0_cell=self.l0_cell * factor,
            mpp=self.mpp,
        )


def build_score_map(
    table: TileTable,
    *,
    m_size: Size,
    l0_stride: float,
    l0_tile: float,
    l0_origin: tuple[float, float],
    mpp: Mpp,
) -> ScoreMap:
    """Lay the tiles' scores out on the slide.

    Args:
        table: the tissue tiles; those with NaN scores leave no trace on the map.
        m_size: columns and rows of the map.
        l0_stride: distance between tiles, and so the side of a cell, in level-0 pixels.
        l0_tile: side of a tile in level-0 pixels; need not be a multiple of the stride.
        l0_origin: (x, y) of the map's corner in level-0 pixels.
        mpp: pixel size of level 0, in µm.

    """
    return ScoreMap(
        cellularity=blend(table.cellularity, table.m_xy, m_size, l0_tile / l0_stride),
        l0_origin=l0_origin,
        l0_cell=l0_stride,
        mpp=mpp,
    )


def blend(
    values: NDArray[np.float32], m_xy: NDArray[np.int32], m_size: Size, m_tile: float
) -> NDArray[np.float32]:
    """Spread one value per tile over the cells that the tile covers.

    A cell is the mean of the tiles on it, each weighted by how much of the cell it covers. A tile
    that does not overlap its neighbours therefore shows exactly its own value.

    Args:
        values: float32 [N]; tiles with NaN are left out.
        m_xy: int32 [N, 2], (column, row) of each tile's corner cell.
        m_size: columns and rows of the map; what tiles cover beyond it is cut off.
        m_tile: side of a tile in cells, 1 where tiles touch, more where they overlap.

    Returns:
        float32 [rows, columns], NaN where no tile with a value lies.

    """
    known = np.isfinite(values)
    values, m_xy = values[known].astype(np.float64), m_xy[known]
    total = np.zeros((m_size.height, m_size.width))
    weight = np.zeros_like(total)
    # A tile's corner is a cell's corner, so its cover is the same separable pattern everywhere:
    # whole cells, then what is left of the tile in the last one.
    cover = np.clip(m_tile - np.arange(np.ceil(m_tile)), 0, 1)
    for row_offset, row_cover in enumerate(cover):
        for column_offset, column_cover in enumerate(cover):
            columns, rows = m_xy[:, 0] + column_offset, m_xy[:, 1] + row_offset
            inside = (columns < m_size.width) & (rows < m_size.height)
            at = (rows[inside], columns[inside])
            np.add.at(total, at, row_cover * column_cover * values[inside])
            np.add.at(weight, at, row_cover * column_cover)
    blended = np.full(total.shape, np.nan)
    np.divide(total, weight, out=blended, where=weight > 0)
    return blended.astype(np.float32)


def block_mean(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average ``factor`` × ``factor`` blocks over their finite values; NaN where there are none.

    Args:
        values: float32 [rows, columns]; blocks at the right and lower border may be incomplete.
        factor: side of a block in cells.

    Returns:
        float32 [ceil(rows / factor), ceil(columns / factor)].

    """
    rows, columns = values.shape
    padded = np.pad(
        values.astype(np.float64),
        ((0, -rows % factor), (0, -columns % factor)),
        constant_values=np.nan,
    )
    blocks = padded.reshape(padded.shape[0] // factor, factor, -1, factor)
    known = np.isfinite(blocks)
    total = np.where(known, blocks, 0).sum(axis=(1, 3))
    count = known.sum(axis=(1, 3))
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)
