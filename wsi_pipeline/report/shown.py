"""What a report shows of a slide. How it is drawn is apart, since that takes a second to load."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.bed.outline import Bed
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.maps import Maps
from wsi_pipeline.outputs.summary import FLAGGED_SHARE
from wsi_pipeline.tile_data import TileTable
from wsi_pipeline.tiles.tissue import BLURRED_ABOVE

REPORT = "report.html"
"""Of a result's files."""

TILE_PX = 256

PICTURE_PX = 2400
"""Long side of the slide's picture in the page, at most."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What the viewer shows.

    Attributes:
        rgb: uint8 [rows, columns, 3], the slide within its bounds at any resolution.
        maps: its maps.
        mask: bool [rows, columns], the tissue over the same bounds.
        bed: the tumour bed; None if there is none.
        flagged: int64 [n, 4], (left, top, right, bottom) in level-0 pixels, of tiles out of focus
            or under ink.
        tiles: where a server has the slide's own pixels; None of a page by itself.

    """

    rgb: NDArray[np.uint8]
    maps: Maps
    mask: NDArray[np.bool_]
    bed: Bed | None
    flagged: NDArray[np.int64]
    tiles: "TileSquare | None" = None


@dataclass(frozen=True, slots=True)
class TileSquare:
    """The square that a server cuts a slide into: one tile at zoom 0, four at zoom 1, and so on.

    Attributes:
        l0_x: its left edge, level-0 pixels.
        l0_y: its upper edge.
        zooms: the last zoom, at which a pixel is one of level 0.

    """

    l0_x: int
    l0_y: int
    zooms: int

    @classmethod
    def of(cls, bounds: Box) -> Self:
        """Return the smallest that holds a slide's bounds."""
        tiles = max(bounds.width, bounds.height) / TILE_PX
        return cls(bounds.x, bounds.y, max(0, math.ceil(math.log2(tiles))))

    def l0_box(self, zoom: int, column: int, row: int) -> Box | None:
        """Return what a tile shows, counted from the upper left; None if there is none."""
        if not 0 <= zoom <= self.zooms or not 0 <= min(row, column) <= max(row, column) < 2**zoom:
            return None
        side = TILE_PX * 2 ** (self.zooms - zoom)
        return Box(self.l0_x + column * side, self.l0_y + row * side, side, side)


def flagged_tiles(table: TileTable, l0_tile: float) -> NDArray[np.int64]:
    """Return the tiles that are out of focus or under ink, int64 [n, 4] as `Shown` has them."""
    chosen = (table.blur > BLURRED_ABOVE) | (table.pen >= FLAGGED_SHARE)
    corners = table.l0_xy[chosen]
    return np.concatenate([corners, corners + round(l0_tile)], axis=1)
