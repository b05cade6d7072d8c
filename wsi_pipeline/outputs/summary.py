"""``summary.json``: what one slide amounts to, with all that is needed to judge and repeat it.

Every figure is weighted by the tissue that a tile stands for (see `TileTable.weight`), so a tile
that grazes the section counts for little. The mean is over *all* tissue of the slide. That is not
the cellularity that pathologists report, which is an average over the tumour bed alone; the file
says so beside the number.

Nothing in it depends on when, where or how often the run was started.
"""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from wsi_pipeline.digests import SlideDigest
from wsi_pipeline.facts import Record
from wsi_pipeline.files import atomic_path
from wsi_pipeline.outputs.provenance import Provenance
from wsi_pipeline.outputs.score_map import THRESHOLDS
from wsi_pipeline.slide.mpp import POWER
from wsi_pipeline.tile_data import TileTable

QUANTILES = (0.05, 0.25, 0.75, 0.95)
HISTOGRAM_BINS = 20

MIN_BLOCK_UM = 2000.0
"""Smallest side of the bootstrap's blocks: neighbouring tiles are alike over about 1 mm."""
WANTED_BLOCKS = 12
"""Large sections get larger blocks, about this many, since blocks that touch are still alike."""
MIN_BLOCKS = 6
"""With fewer blocks than this there is no telling how the tissue varies, and no interval."""
DRAWS = 10_000

FLAGGED_SHARE = 0.1
"""Share of the tissue that is blurred, or under ink, at which the slide is flagged for it."""

LEAST_MM2 = 1.0
"""Tissue, or a bed, smaller than this gives a figure of a few fields: it is marked as one."""

MEAN_IS = (
    "tissue-weighted mean over all tissue of the slide; not the average over the tumour bed that "
    "pathologists report"
)

BED_MEAN_IS = (
    "share of the bed's area that is cancer: an average over all of its fields, those without "
    "cancer or without tissue counted as 0"
)

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class TileCounts(Record):
    """Tiles of the grid, and what became of them."""

    grid: int
    tissue: int
    scored: int
    unreadable: int
    padded: int
    """Tissue tiles that reach beyond the slide."""


class Histogram(Record):
    """Shares of the tissue by cellularity; bins are closed on the left, the last on both sides."""

    edges: tuple[Share, ...]
    fractions: tuple[Share, ...]


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


class Cellularity(Record):
    """The slide's cellularity, 0 to 1, weighted by tissue."""

    mean: Share
    mean_is: str = MEAN_IS
    mean_95_interval: Interval | None
    """How it would vary with other tissue of the same kind; None where there is too little."""
    mean_90_interval: Interval | None = None
    """The same with the error of the model in it; None where nobody measured that."""
    median: Share
    quantiles: dict[str, Share]
    area_fraction_at_least: dict[str, Share]
    """Share of the scored tissue at or above each cellularity."""
    histogram: Histogram


class Quality(Record):
    """What may have harmed the scores; nothing was removed for it."""

    blurred_fraction: Share
    """Share of the tissue in tiles that are out of focus."""
    pen_fraction: Share
    """Share of the tissue's tiles under pen ink."""
    upsampled: bool
    """Whether the slide was coarser than the model wants and was enlarged."""
    stain_distance: FiniteFloat | None = None
    """How far its stain is from the training's, in standard deviations; None if not known."""
    flags: tuple[str, ...]


class BedFigures(Record):
    """What one tumour bed amounts to."""

    source: Literal["drawn", "proposed"]
    """Whether a person outlined it, or the map did, which no figure for a patient may rest on."""
    parts: int
    """Polygons that it is made of."""
    area_mm2: Annotated[FiniteFloat, Field(gt=0)]
    longest_mm: Annotated[FiniteFloat, Field(gt=0)]
    """The longest way across all of it, and `across_mm`, the extent at right angles to that."""
    across_mm: Annotated[FiniteFloat, Field(ge=0)]
    cellularity: Share | None
    """None where too little of it could be read."""
    cellularity_is: str = BED_MEAN_IS
    interval: Interval | None
    """With the error of the model in it, where that was measured; else of the tissue alone, and
    None where the bed is too small for that."""
    coverage: Share
    """Share of its area that holds no tissue which could not be read."""


FileName = Annotated[str, Field(pattern=r"\A[a-z][a-z.-]*\z")]
"""Of a file beside the summary, and so nothing that leads elsewhere."""


class OutputFile(Record):
    """A file of the result, as it was written."""

    size_bytes: int
    digest: SlideDigest
    """BLAKE2b of its bytes, hex, 32 digits."""


class SlideSummary(Record):
    """The summary of one slide."""

    schema_version: Literal[2] = 2
    status: Literal["scored", "refused"]
    reason: str | None
    """Why there is no figure; None where there is."""
    tissue_area_mm2: Annotated[FiniteFloat, Field(ge=0)]
    tiles: TileCounts
    coverage: Share
    """Share of the tissue in tissue tiles that was scored."""
    cellularity: Cellularity | None
    bed: BedFigures | None = None
    """The tumour bed; None where nobody drew one and no tissue suggests any."""
    quality: Quality
    provenance: Provenance
    outputs: dict[FileName, OutputFile] = Field(default_factory=dict)
    """The files beside the summary, by name."""


def summarise(
    table: TileTable,
    *,
    provenance: Provenance,
    bed: BedFigures | None = None,
    tissue_area_mm2: float,
    grid_tiles: int,
    unreadable_tiles: int,
    cell_um: float,
    blurred: NDArray[np.bool_],
    upsampled: bool,
    min_coverage: float,
) -> SlideSummary:
    """Summarise a slide's tiles.

    Args:
        table: the tissue tiles, scored or not.
        provenance: what they were made from and with.
        bed: the tumour bed's figures.
        tissue_area_mm2: area of the tissue mask, not of the tiles.
        grid_tiles: number of tiles of the whole grid, tissue or not.
        unreadable_tiles: number of tissue tiles that no reader could decode.
        cell_um: stride between tiles, in µm.
        blurred: bool [N], tiles that are out of focus.
        upsampled: whether the slide was enlarged to the model's resolution.
        min_coverage: share of the tissue that must be scored; below it the summary is a refusal
            without figures.

    """
    total = table.weight.sum()
    coverage = _rounded(table.weight[table.scored].sum() / total) if total > 0 else 0.0
    reason = None
    if coverage < min_coverage or not table.scored.any():
        reason = (
            f"Only {coverage:.1%} of the tissue could be read and scored, less than the "
            f"{min_coverage:.1%} that a figure for the slide needs. See the log for the damaged "
            "regions, and copy or scan the slide again."
        )
    return SlideSummary(
        status="scored" if reason is None else "refused",
        reason=reason,
        tissue_area_mm2=_rounded(tissue_area_mm2),
        tiles=TileCounts(
            grid=grid_tiles,
            tissue=len(table),
            scored=int(table.scored.sum()),
            unreadable=unreadable_tiles,
            padded=int((table.inside < 1).sum()),
        ),
        coverage=coverage,
        cellularity=_cellularity(table, cell_um) if reason is None else None,
        bed=bed if reason is None else None,
        quality=_quality(
            table,
            blurred,
            upsampled=upsampled,
            nominal_mpp=provenance.slide.mpp_source == POWER,
            demonstration=provenance.bundle.demonstration,
            complete=bool(table.scored.all()),
            small=0 < tissue_area_mm2 < LEAST_MM2,
        ),
        provenance=provenance,
    )


def write_summary(path: Path, summary: SlideSummary) -> None:
    """Write the summary as JSON; what is unknown is null, never NaN."""
    with atomic_path(path) as partial:
        partial.write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")


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
    return _interval(
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


def _cellularity(table: TileTable, cell_um: float) -> Cellularity:
    scored = table.scored
    values = table.cellularity[scored].astype(np.float64)
    weights = table.weight[scored]
    share = weights / weights.sum()

    def quantile(q: float) -> float:
        return _rounded(np.quantile(values, q, weights=weights, method="inverted_cdf"))

    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS, range=(0, 1), weights=share)
    return Cellularity(
        mean=_rounded(share @ values),
        mean_95_interval=_interval(values, weights, table.m_xy[scored], cell_um),
        median=quantile(0.5),
        quantiles={f"{q:g}": quantile(q) for q in QUANTILES},
        area_fraction_at_least={
            f"{threshold:g}": _rounded(share[values >= np.float32(threshold)].sum())
            for threshold in THRESHOLDS
        },
        histogram=Histogram(
            edges=tuple(_rounded(edge) for edge in edges),
            fractions=tuple(_rounded(fraction) for fraction in counts),
        ),
    )


def _interval(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    m_xy: NDArray[np.int32],
    cell_um: float,
) -> Interval | None:
    m_side = max(1, round(block_side_um(weights.sum() * cell_um**2) / cell_um))
    blocks = spatial_blocks(m_xy, m_side)
    bounds = block_bootstrap(values, weights, blocks)
    if bounds is None:
        return None
    return Interval(
        low=_rounded(bounds[0]),
        high=_rounded(bounds[1]),
        method=(
            f"spatial block bootstrap, {len(np.unique(blocks))} blocks of "
            f"{m_side * cell_um / 1000:.2g} mm, {DRAWS} draws: how the mean would vary with other "
            "tissue of the same kind; the error of the model is not in it"
        ),
    )


def _quality(
    table: TileTable,
    blurred: NDArray[np.bool_],
    *,
    upsampled: bool,
    nominal_mpp: bool,
    demonstration: bool,
    complete: bool,
    small: bool,
) -> Quality:
    blurred_fraction = _weighted_mean(blurred.astype(np.float64), table.weight)
    pen_fraction = _weighted_mean(table.pen, table.weight)
    flags = {
        "out of focus": blurred_fraction >= FLAGGED_SHARE,
        "pen marks": pen_fraction >= FLAGGED_SHARE,
        "enlarged to the model's resolution": upsampled,
        "pixel size assumed from the objective": nominal_mpp,
        "not all tissue scored": not complete,
        "a few fields only": small,
        "demonstration model": demonstration,
    }
    return Quality(
        blurred_fraction=_rounded(blurred_fraction),
        pen_fraction=_rounded(pen_fraction),
        upsampled=upsampled,
        flags=tuple(flag for flag, raised in flags.items() if raised),
    )


def _weighted_mean(values: NDArray[Any], weights: NDArray[np.float64]) -> float:
    """Average over the finite values; 0 where there are none."""
    known = np.isfinite(values)
    total = weights[known].sum()
    return float(weights[known] @ values[known] / total) if total > 0 else 0.0


def _rounded(value: float | np.floating[Any]) -> float:
    """Round to six decimals: finer is dust of summation, and would differ between machines."""
    return round(float(value), 6)
