"""How a mean would vary with other tissue of the same kind: the bootstrap of blocks."""

import math
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from wsi_pipeline.facts import Record

MIN_BLOCK_UM = 2000.0
"""Smallest side of the bootstrap's blocks: neighbouring tiles are alike over about 1 mm."""
WANTED_BLOCKS = 12
"""Large sections get larger blocks, about this many, since blocks that touch are still alike."""
MIN_BLOCKS = 6
"""With fewer blocks than this there is no telling how the tissue varies, and no interval."""
DRAWS = 10_000

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Interval(Record):
    """An interval of a mean."""

    low: Share
    high: Share
    level: Annotated[FiniteFloat, Field(gt=0, lt=1)] = 0.95
    """Share of such intervals that are meant to hold the true mean."""
    method: str

    @property
    def deviation(self) -> float:
        """Standard deviation of a normal error with this interval."""
        return (self.high - self.low) / (2 * NormalDist().inv_cdf((1 + self.level) / 2))


def block_bootstrap(
    values: NDArray[np.floating[Any]],
    weights: NDArray[np.floating[Any]],
    block: NDArray[np.integer[Any]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Return an interval of the weighted mean by bootstrapping whole blocks of neighbours.

    Neighbouring tiles are alike, so drawing single tiles would claim far too much. Blocks are drawn
    with replacement, as many as there are, and the mean is the ratio of their sums, so that blocks
    with little tissue count for little. Percentiles are widened for few blocks as by Hesterberg
    (The American Statistician 69:371, 2015, "expanded percentile"): at the tails of Student's t.

    On simulated round sections of 6 to 20 mm, intervals meant to hold the true mean 95 times in 100
    did so 86 to 94 times where cellularity changes within half a millimetre, 84 to 91 times within
    one, and 67 to 87 times within two; drawing single tiles, 0 to 47 times. So it is the least
    uncertainty that a slide has, not the most.

    Args:
        values: float [N].
        weights: float [N], positive.
        block: int [N], the block of each tile.
        draws: number of bootstrap samples.
        seed: of the generator.
        level: of the interval.

    Returns:
        (low, high), or None if there are fewer than `MIN_BLOCKS` blocks.

    """
    from scipy.special import ndtr, stdtrit  # as long to import as half of this package

    _, block = np.unique(block, return_inverse=True)
    weight_sums = np.bincount(block, weights)
    value_sums = np.bincount(block, weights * values)
    count = len(weight_sums)
    if count < MIN_BLOCKS:
        return None
    times_drawn = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=draws
    )
    means = (times_drawn @ value_sums) / (times_drawn @ weight_sums)
    wide_t = stdtrit(count - 1, (1 - level) / 2) * np.sqrt(count / (count - 1))
    tail = ndtr(wide_t)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bed_interval(
    cancer: NDArray[np.floating[Any]], area: NDArray[np.floating[Any]], cell_um: float
) -> Interval | None:
    """Return the interval of a bed's mean.

    Args:
        cancer: share of each cell of a map that is cancer, float [rows, columns].
        area: share of each cell that counts, float [rows, columns].
        cell_um: side of a cell.

    """
    rows, columns = np.nonzero(area)
    weights = area[rows, columns].astype(np.float64)
    return mean_interval(
        cancer[rows, columns].astype(np.float64),
        weights,
        np.column_stack([columns, rows]).astype(np.int32),
        cell_um,
    )


def block_side_um(tissue_um2: float) -> float:
    """Return the side of a block for a section with this much tissue."""
    return max(MIN_BLOCK_UM, math.sqrt(tissue_um2 / WANTED_BLOCKS))


def spatial_blocks(m_xy: NDArray[np.int32], m_side: int) -> NDArray[np.int64]:
    """Return the number of the square block in which each tile lies.

    Args:
        m_xy: int32 [N, 2], (column, row) of the tiles in the score map.
        m_side: side of a block in cells of the map.

    Returns:
        int64 [N].

    >>> spatial_blocks(np.array([[0, 0], [1, 1], [2, 0], [0, 5]], np.int32), m_side=2)
    array([0, 0, 1, 4])

    """
    column, row = (m_xy.astype(np.int64) // m_side).T
    return np.asarray(row * (column.max(initial=0) + 1) + column)


def mean_interval(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    m_xy: NDArray[np.int32],
    cell_um: float,
) -> Interval | None:
    """Return the interval of a mean over tissue; None where there is too little.

    Args:
        values: float64 [N].
        weights: float64 [N], in cells of the map.
        m_xy: int32 [N, 2], (column, row) in a map.
        cell_um: side of a cell of that map.

    """
    m_side = max(1, round(block_side_um(weights.sum() * cell_um**2) / cell_um))
    blocks = spatial_blocks(m_xy, m_side)
    bounds = block_bootstrap(values, weights, blocks)
    if bounds is None:
        return None
    return Interval(
        low=rounded(bounds[0]),
        high=rounded(bounds[1]),
        method=(
            f"spatial block bootstrap, {len(np.unique(blocks))} blocks of "
            f"{m_side * cell_um / 1000:.2g} mm, {DRAWS} draws: how the mean would vary with other "
            "tissue of the same kind; the error of the model is not in it"
        ),
    )


def rounded(value: float | np.floating[Any]) -> float:
    """Round to six decimals: finer is dust of summation, and would differ between machines."""
    return round(float(value), 6)
