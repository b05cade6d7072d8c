"""The tile grid: which squares of a slide are scored.

The grid starts at the corner of the slide's bounds and steps by the stride; the last row and column
may reach beyond the slide and are then padded with white and marked. Where a slide is smaller than
a tile, one padded tile holds it.

Corners are moved by half a pixel of the tile at most, onto whole pixels of the resolution that the
tiles will be read from: nothing needs to be interpolated between pixels then.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.errors import MppError, TissueError
from wsi_pipeline.geometry import MAX_UPSAMPLING_OF_LEVEL, Box, Mpp, Size

LEAST_TISSUE = 1e-6
"""A tile without any tissue is never scored, even where `min_tissue` is 0."""


REMEDY = "Pass --allow-upsampling"


class GridConfig(BaseModel):
    """Where the tiles lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: Mpp = Field(default=Mpp(0.5), gt=0, le=100)
    """Resolution at which tiles are read, in µm/px; the model's own."""
    tile_px: int = Field(default=512, ge=64, le=8192)
    """Side of a tile, in pixels at `mpp`."""
    stride_px: int = Field(default=512, ge=16, le=8192)
    """Distance between neighbouring tiles, in pixels at `mpp`; also the side of a map cell."""
    min_tissue: float = Field(default=0.1, ge=0, le=1)
    """Share of a tile's area that must be tissue for the tile to be scored."""
    allow_upsampling: bool = False
    """Whether a slide coarser than `mpp` may be enlarged to it."""


@dataclass(frozen=True, eq=False)
class TileGrid:
    """The tiles of one slide that hold tissue, row by row.

    Attributes:
        l0_xy: int64 [N, 2], upper left corners in level-0 pixels.
        m_xy: int32 [N, 2], (column, row) of each tile's corner cell in the score map.
        tissue: float32 [N], share of the tile's area that is tissue.
        inside: float32 [N], share of the tile's area that lies on the slide.
        m_size: columns and rows of the score map, which covers the bounds.
        l0_origin: the grid's corner, in level-0 pixels.
        l0_tile: side of a tile in level-0 pixels.
        l0_stride: distance between tiles in level-0 pixels.
        n_candidates: tiles of the whole grid, tissue or not.

    """

    l0_xy: NDArray[np.int64]
    m_xy: NDArray[np.int32]
    tissue: NDArray[np.float32]
    inside: NDArray[np.float32]
    m_size: Size
    l0_origin: tuple[int, int]
    l0_tile: float
    l0_stride: float
    n_candidates: int

    def __len__(self) -> int:
        return len(self.l0_xy)

    def l0_box(self, index: int) -> Box:
        """Return the level-0 pixels of one tile."""
        x, y = (int(corner) for corner in self.l0_xy[index])
        return Box(x, y, round(self.l0_tile), round(self.l0_tile))


def tile_grid(
    l0_bounds: Box,
    slide_mpp: Mpp,
    mask: NDArray[np.bool_],
    config: GridConfig,
    file: str,
) -> TileGrid:
    """Lay the grid over a slide and keep the tiles that hold enough tissue.

    Args:
        l0_bounds: the scanned part of the slide.
        slide_mpp: µm per level-0 pixel.
        mask: bool [rows, columns], tissue over exactly `l0_bounds`, at any resolution.
        config: the grid's.
        file: the slide's name, for messages.

    Raises:
        MppError: if the slide is coarser than the grid wants and upsampling is not allowed.
        TissueError: if no tile holds enough tissue.

    """
    require_resolution(slide_mpp, config, file)
    if not mask.any():
        raise TissueError(f"{file}: no tissue was found. Look at tissue.png and thumbnail.png.")
    l0_tile = config.tile_px * config.mpp / slide_mpp
    l0_stride = config.stride_px * config.mpp / slide_mpp
    l0_px = whole_pixel(config.mpp / slide_mpp)
    # What half a pixel covers is not worth a tile that may lie beyond the border.
    columns = steps_to_cover(l0_bounds.width, l0_tile, l0_stride, slack=l0_px / 2)
    rows = steps_to_cover(l0_bounds.height, l0_tile, l0_stride, slack=l0_px / 2)

    l0_left = l0_bounds.x + np.rint(np.arange(columns) * l0_stride / l0_px).astype(np.int64) * l0_px
    l0_top = l0_bounds.y + np.rint(np.arange(rows) * l0_stride / l0_px).astype(np.int64) * l0_px
    inside = np.outer(
        _overlap(l0_top, l0_tile, l0_bounds.y, l0_bounds.height),
        _overlap(l0_left, l0_tile, l0_bounds.x, l0_bounds.width),
    )
    tissue = box_means(
        mask,
        (l0_left - l0_bounds.x) * mask.shape[1] / l0_bounds.width,
        (l0_top - l0_bounds.y) * mask.shape[0] / l0_bounds.height,
        l0_tile * mask.shape[1] / l0_bounds.width,
        l0_tile * mask.shape[0] / l0_bounds.height,
    ).astype(np.float32)  # as stored, so that what is kept agrees with what is said of it
    m_row, m_column = np.nonzero(tissue >= max(config.min_tissue, LEAST_TISSUE))
    if not len(m_row):
        raise TissueError(
            f"{file}: the tissue is so little that no tile holds {config.min_tissue:.0%} of it "
            f"(the fullest has {tissue.max():.1%}). Lower min_tissue to score it all the same."
        )
    return TileGrid(
        l0_xy=np.column_stack([l0_left[m_column], l0_top[m_row]]),
        m_xy=np.column_stack([m_column, m_row]).astype(np.int32),
        tissue=tissue[m_row, m_column],
        inside=inside[m_row, m_column].astype(np.float32),
        m_size=Size(
            steps_to_cover(l0_bounds.width, l0_stride, l0_stride),
            steps_to_cover(l0_bounds.height, l0_stride, l0_stride),
        ),
        l0_origin=(l0_bounds.x, l0_bounds.y),
        l0_tile=l0_tile,
        l0_stride=l0_stride,
        n_candidates=rows * columns,
    )


def require_resolution(slide_mpp: Mpp, config: GridConfig, file: str) -> None:
    """Raise if a slide would have to be enlarged without leave.

    Raises:
        MppError: then.

    """
    if slide_mpp > config.mpp * MAX_UPSAMPLING_OF_LEVEL and not config.allow_upsampling:
        raise MppError(
            f"{file}: the slide has {slide_mpp:.4g} µm/px, coarser than the {config.mpp:g} µm/px "
            f"that the model was trained on. {REMEDY} to enlarge it all the same; "
            f"the summary will say so."
        )


def mask_area_mm2(mask: NDArray[np.bool_], l0_bounds: Box, slide_mpp: Mpp) -> float:
    """Area of the tissue, from its mask over the slide's bounds.

    >>> mask_area_mm2(np.array([[True, False]]), Box(0, 0, 4000, 2000), Mpp(0.5))
    1.0
    """
    area_um2 = float(mask.mean()) * l0_bounds.width * l0_bounds.height * slide_mpp**2
    return area_um2 / 1e6


def whole_pixel(downsample: float) -> int:
    """Side of the largest pixel, in level-0 pixels, that pyramids have and `downsample` allows.

    >>> whole_pixel(4.0), whole_pixel(7.9), whole_pixel(0.5)
    (4, 8, 1)
    """
    return 1 << int(np.log2(max(1.0, downsample * MAX_UPSAMPLING_OF_LEVEL)))


def steps_to_cover(extent: float, tile: float, stride: float, slack: float = 0.0) -> int:
    """Count the tiles, a stride apart, that cover an extent but for the slack; at least one.

    >>> steps_to_cover(1000, tile=512, stride=512), steps_to_cover(1000, tile=512, stride=256)
    (2, 3)
    """
    # A thousandth of a stride is not worth a row of padding.
    return 1 + max(0, int(np.ceil((extent - slack - tile) / stride - 1e-3)))


def box_means(
    mask: NDArray[np.bool_],
    left: NDArray[np.float64],
    top: NDArray[np.float64],
    width: float,
    height: float,
) -> NDArray[np.float64]:
    """Average a mask over a grid of equal boxes; what lies outside the mask counts as False.

    Exact for fractional borders: the integral image of a picture of constant pixels is bilinear.

    Returns:
        float64 [len(top), len(left)].

    >>> half_tissue = np.array([[True, False], [True, False]])
    >>> box_means(half_tissue, np.array([0.0, 0.5]), np.array([0.0]), width=1, height=2)
    array([[1. , 0.5]])

    """
    rows, columns = mask.shape
    integral = np.zeros((rows + 1, columns + 1))
    integral[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)

    def along_rows(at: NDArray[np.float64]) -> NDArray[np.float64]:
        at = at.clip(0, rows)
        low = np.minimum(at.astype(int), rows - 1)
        share = (at - low)[:, None]
        return np.asarray(integral[low] * (1 - share) + integral[low + 1] * share)

    def along_columns(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        at = at.clip(0, columns)
        low = np.minimum(at.astype(int), columns - 1)
        share = at - low
        return np.asarray(values[:, low] * (1 - share) + values[:, low + 1] * share)

    strips = along_rows(top + height) - along_rows(top)
    sums = along_columns(strips, left + width) - along_columns(strips, left)
    # Differences of large sums leave dust of either sign.
    return np.asarray(np.clip(sums / (width * height), 0, 1))


def _overlap(
    start: NDArray[np.int64], length: float, bound: int, extent: int
) -> NDArray[np.float64]:
    """Share of each [start, start + length) that lies in [bound, bound + extent)."""
    common = np.minimum(start + length, bound + extent) - np.maximum(start, bound)
    return np.asarray(np.clip(common / length, 0, 1))
