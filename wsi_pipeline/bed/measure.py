"""What a tumour bed amounts to: its area, its two diameters and its cellularity.

Cellularity is the share of the bed's *area* that is cancer, as residual cancer burden has it
(Symmans et al., J Clin Oncol 25:4414, 2007): an average over all fields of the bed. A field without
cancer counts as 0, and so does one without tissue, such as fat or a cleft.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.bed.outline import Bed
from wsi_pipeline.outputs.interval import bed_interval
from wsi_pipeline.outputs.maps import Maps
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.outputs.summary import BedFigures

SAMPLES = 2
"""Points along a cell's side that decide how much of it lies in the bed."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The two diameters of a bed, in the unit of its outline."""

    longest: float
    across: float


def measure(bed: Bed, maps: Maps, *, min_coverage: float) -> BedFigures:
    """Measure a bed.

    Args:
        bed: its outline.
        maps: of the slide; the finest is taken.
        min_coverage: share of the bed that must have been read for it to have a cellularity.

    """
    shown = maps.shown
    within = cover(bed, shown)
    mm = shown.mpp / 1000
    extent = extent_of(bed.area)
    cancer = np.nan_to_num(shown.cellularity) * maps.tissue
    read = within * ~maps.unread
    total = within.sum()
    coverage = round(float(read.sum() / total), 6) if total > 0 else 0.0
    known = coverage >= min_coverage and read.sum() > 0
    mean = float((read * cancer).sum() / read.sum()) if known else None
    return BedFigures(
        source=bed.source,
        parts=len(bed.area.geoms),
        area_mm2=round(bed.area.area * mm**2, 6),
        longest_mm=round(extent.longest * mm, 3),
        across_mm=round(extent.across * mm, 3),
        cellularity=None if mean is None else round(min(1.0, mean), 6),
        interval=bed_interval(cancer, read, shown.cell_um) if known else None,
        coverage=coverage,
    )


def cover(bed: Bed, cells: ScoreMap) -> NDArray[np.float32]:
    """Return how much of each cell of a map lies in the bed.

    A cell counts by those of its `SAMPLES` × `SAMPLES` points that do, which an odd number of
    crossings to their left tells (holes take care of themselves).

    Returns:
        float32 [rows, columns], 0 to 1.

    """
    rows, columns = cells.cellularity.shape
    x, y = cells.l0_origin
    step = cells.l0_cell / SAMPLES
    across = x + (np.arange(columns * SAMPLES) + 0.5) * step
    down = y + (np.arange(rows * SAMPLES) + 0.5) * step
    start = np.concatenate([ring[:-1] for ring in bed.rings()])
    stop = np.concatenate([ring[1:] for ring in bed.rings()])
    inside = np.zeros((len(down), len(across)), np.bool_)
    for row, at in enumerate(down):
        crosses = (start[:, 1] <= at) != (stop[:, 1] <= at)
        (x0, y0), (x1, y1) = start[crosses].T, stop[crosses].T
        at_x = np.sort(x0 + (at - y0) / (y1 - y0) * (x1 - x0))
        inside[row] = np.searchsorted(at_x, across, side="right") % 2 == 1
    return np.asarray(inside.reshape(rows, SAMPLES, columns, SAMPLES).mean(axis=(1, 3)), np.float32)


def extent_of(area: shapely.Geometry) -> Extent:
    """Return the longest distance between two points, and the extent at right angles to it.

    Of several polygons it is that of all together, as a bed with gaps is measured.

    >>> extent_of(shapely.box(0, 0, 3, 4))
    Extent(longest=5.0, across=4.8)
    """
    points = shapely.get_coordinates(shapely.convex_hull(area))
    between = points[:, None] - points[None]
    length = np.hypot(*between.transpose(2, 0, 1))
    first, second = np.unravel_index(length.argmax(), length.shape)
    longest = float(length[first, second])
    if longest == 0:
        return Extent(0.0, 0.0)
    along = between[first, second] / longest
    off = points @ np.array([-along[1], along[0]])
    return Extent(longest, float(round(np.ptp(off), 9)))
