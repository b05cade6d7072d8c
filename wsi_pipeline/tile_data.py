"""What is known of tiles, on their way from pixels to scores.

Arrays are plain numpy, one row per tile. `ShardPixels` go to the model, `Scores` come back, and a
`TileTable` holds all that is known of the tiles of one slide.
"""

import enum
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


class TileState(enum.IntEnum):
    """How far a tile has come."""

    PENDING = 0
    STORED = 1
    """Its pixels are in the store (or were, until they were dropped)."""
    SCORED = 2
    UNREADABLE = 3
    """The slide is damaged there: no reader could decode it, and it will not be scored."""


@dataclass(frozen=True, eq=False)
class Measures:
    """What tiling finds of the tiles of one shard, besides their pixels.

    Attributes:
        blur: float32 [n].
        pen: float32 [n].
        readable: bool [n].

    """

    blur: NDArray[np.float32]
    pen: NDArray[np.float32]
    readable: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ShardPixels:
    """The tiles of one shard.

    Attributes:
        rgb: uint8 [n, tile, tile, 3]; tiles that are not readable are black.
        measures: of the same tiles.

    """

    rgb: NDArray[np.uint8]
    measures: Measures

    def of(self, rows: NDArray[np.int64]) -> Self:
        """Return some of the tiles, int64 [m], in their order there."""
        found = self.measures
        measures = Measures(found.blur[rows], found.pen[rows], found.readable[rows])
        return type(self)(self.rgb[rows], measures)


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of n tiles.

    Attributes:
        cellularity: float32 [n], 0 to 1.
        cellularity_std: float32 [n], over views; NaN if there was one.
        class_fraction: float32 [n, classes], shares of the tile's area; NaN without segmentation.
        cell_area: uint8 [n, 2, rows, columns], of each square of 16 µm the share under malignant
            cells and that under tissue, in 255ths; None of a model that cannot tell.

    """

    cellularity: NDArray[np.float32]
    cellularity_std: NDArray[np.float32]
    class_fraction: NDArray[np.float32]
    cell_area: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class TileTable:
    """One row per tissue tile, in the order of the grid.

    Attributes:
        l0_xy: int64 [N, 2], corner in level-0 pixels.
        m_xy: int32 [N, 2], (column, row) of the tile's corner cell in the score map.
        tissue: float32 [N], share of the whole tile's area that is tissue.
        inside: float32 [N], share of the tile that lies on the slide.
        blur: float32 [N], see :func:`wsi_pipeline.tiles.tissue.blur_score`.
        pen: float32 [N], share of the tile under pen ink.
        cellularity: float32 [N], 0 to 1, NaN where not scored.
        cellularity_std: float32 [N], NaN unless several views were scored.
        class_fraction: float32 [N, classes], NaN where not scored.

    """

    l0_xy: NDArray[np.int64]
    m_xy: NDArray[np.int32]
    tissue: NDArray[np.float32]
    inside: NDArray[np.float32]
    blur: NDArray[np.float32]
    pen: NDArray[np.float32]
    cellularity: NDArray[np.float32]
    cellularity_std: NDArray[np.float32]
    class_fraction: NDArray[np.float32]

    @classmethod
    def empty(cls, n_classes: int) -> Self:
        """Return the table of a slide without tissue."""
        none = np.zeros(0, np.float32)
        return cls(
            l0_xy=np.zeros((0, 2), np.int64),
            m_xy=np.zeros((0, 2), np.int32),
            tissue=none,
            inside=none,
            blur=none,
            pen=none,
            cellularity=none,
            cellularity_std=none,
            class_fraction=np.zeros((0, n_classes), np.float32),
        )

    def __len__(self) -> int:
        return len(self.l0_xy)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Bool [N], whether the tile has a score."""
        return np.isfinite(self.cellularity)

    @property
    def weight(self) -> NDArray[np.float64]:
        """float64 [N], the tissue that the tile stands for, as a share of a tile's area.

        What lies off the slide is no tissue, so padded tiles need no further discount.
        """
        return self.tissue.astype(np.float64)
