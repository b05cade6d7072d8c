"""A tumour bed where nobody has drawn one: proposed, and called so wherever it is shown.

It is the tissue whose cellularity, averaged over a tenth of a millimetre, is 10 % or more: freed of
specks, closed over gaps of up to two millimetres, and with its holes filled. A bed without residual
cancer, or its empty rim, cannot be found this way: that takes a pathologist.
"""

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.bed.outline import Bed, proposed_bed
from wsi_pipeline.outputs.geojson import region
from wsi_pipeline.outputs.maps import Maps
from wsi_pipeline.outputs.score_map import ScoreMap

AT_LEAST = 0.1
"""Cellularity from which tissue belongs to a proposed bed."""

SMOOTHED_UM = 100.0
"""Deviation of the average."""

OPENED_UM = 100.0
"""Specks narrower than twice that are left out."""

CLOSED_UM = 1000.0
"""Gaps narrower than twice that belong to the bed."""

LEAST_MM2 = 0.25
"""Smaller parts are left out: that is no bed, but a focus."""


def propose(maps: Maps) -> Bed | None:
    """Propose a bed; None where no tissue is above the threshold."""
    shown = maps.shown
    smoothed, opened_by, closed_by = (
        um / shown.cell_um for um in (SMOOTHED_UM, OPENED_UM, CLOSED_UM)
    )
    cancer = np.nan_to_num(shown.cellularity) * maps.tissue
    margin = int(np.ceil(closed_by)) + 1
    above = np.pad(_average(cancer, maps.tissue, smoothed) >= AT_LEAST, margin)
    opened = _grown(_shrunk(above, opened_by), opened_by)
    closed = _shrunk(_grown(opened if opened.any() else above, closed_by), closed_by)
    inside = closed[margin:-margin, margin:-margin]
    if not inside.any():
        return None
    outlined = ScoreMap(inside.astype(np.float32), shown.l0_origin, shown.l0_cell, shown.mpp)
    rough = region(outlined, 1.0, maps.l0_bounds).simplify(shown.l0_cell)
    parts = [shapely.Polygon(part.exterior) for part in shapely.get_parts(rough)]
    mm2 = (shown.mpp / 1000) ** 2
    large = [part for part in parts if part.area * mm2 >= LEAST_MM2]
    return proposed_bed(shapely.union_all(large))


def _average(
    cancer: NDArray[np.float32], tissue: NDArray[np.float32], cells: float
) -> NDArray[np.float32]:
    """Return the cellularity of the tissue about each cell."""
    if cells < 0.5:
        return np.asarray(cancer / np.maximum(tissue, 1e-6), np.float32)
    total = cv2.GaussianBlur(cancer, (0, 0), cells)
    weight = cv2.GaussianBlur(tissue, (0, 0), cells)
    average = total / np.maximum(weight, 1e-6)
    return np.where(tissue > 0, average, 0).astype(np.float32)


def _grown(mask: NDArray[np.bool_], cells: float) -> NDArray[np.bool_]:
    """Add all that lies within a distance."""
    if not mask.any():
        return mask
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= cells)


def _shrunk(mask: NDArray[np.bool_], cells: float) -> NDArray[np.bool_]:
    """Take away all that lies within a distance of what is not there."""
    return ~_grown(~mask, cells)
