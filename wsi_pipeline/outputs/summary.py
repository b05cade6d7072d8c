"""``summary.json``: what one slide amounts to, with all that is needed to judge and repeat it.

Every figure is weighted by the tissue that a tile stands for (see `TileTable.weight`), so a tile
that grazes the section counts for little. The mean is over *all* tissue of the slide. That is not
the cellularity that pathologists report, which is an average over the tumour bed alone; the file
says so beside the number.

Nothing in it depends on when, where or how often the run was started.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from wsi_pipeline.digests import SlideDigest
from wsi_pipeline.facts import Record
from wsi_pipeline.files import atomic_path
from wsi_pipeline.outputs.interval import Interval, Share, mean_interval, rounded
from wsi_pipeline.outputs.provenance import Provenance
from wsi_pipeline.outputs.score_map import THRESHOLDS
from wsi_pipeline.slide.mpp import POWER
from wsi_pipeline.tile_data import TileTable

QUANTILES = (0.05, 0.25, 0.75, 0.95)
HISTOGRAM_BINS = 20

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
    coverage = rounded(table.weight[table.scored].sum() / total) if total > 0 else 0.0
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
        tissue_area_mm2=rounded(tissue_area_mm2),
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


def _cellularity(table: TileTable, cell_um: float) -> Cellularity:
    scored = table.scored
    values = table.cellularity[scored].astype(np.float64)
    weights = table.weight[scored]
    share = weights / weights.sum()

    def quantile(q: float) -> float:
        return rounded(np.quantile(values, q, weights=weights, method="inverted_cdf"))

    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS, range=(0, 1), weights=share)
    return Cellularity(
        mean=rounded(share @ values),
        mean_95_interval=mean_interval(values, weights, table.m_xy[scored], cell_um),
        median=quantile(0.5),
        quantiles={f"{q:g}": quantile(q) for q in QUANTILES},
        area_fraction_at_least={
            f"{threshold:g}": rounded(share[values >= np.float32(threshold)].sum())
            for threshold in THRESHOLDS
        },
        histogram=Histogram(
            edges=tuple(rounded(edge) for edge in edges),
            fractions=tuple(rounded(fraction) for fraction in counts),
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
        blurred_fraction=rounded(blurred_fraction),
        pen_fraction=rounded(pen_fraction),
        upsampled=upsampled,
        flags=tuple(flag for flag, raised in flags.items() if raised),
    )


def _weighted_mean(values: NDArray[Any], weights: NDArray[np.float64]) -> float:
    """Average over the finite values; 0 where there are none."""
    known = np.isfinite(values)
    total = weights[known].sum()
    return float(weights[known] @ values[known] / total) if total > 0 else 0.0
