"""Lines of equal cellularity at 10, 30 and 70 %, as they are drawn over slides.

The map is smoothed first, over half a tenth of a millimetre: the lines show where regions lie, and
no line runs around single nuclei.
"""

from dataclasses import dataclass

import contourpy
import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.score_map import THRESHOLDS, ScoreMap

SMOOTHED_UM = 50.0
"""Deviation of the smoothing."""

SHORTEST_UM = 200.0
"""Lines around less than that are left out."""

_DARK, _LIGHT = (25, 25, 25), (255, 255, 255)
_SHIFT = 4  # bits behind the point of OpenCV's coordinates


@dataclass(frozen=True, eq=False)
class Line:
    """One line of equal cellularity.

    Attributes:
        level: the cellularity, 0 to 1.
        l0_xy: float64 [points, 2], level-0 pixels.

    """

    level: float
    l0_xy: NDArray[np.float64]

    @property
    def l0_length(self) -> float:
        """Its length in level-0 pixels."""
        return float(np.hypot(*np.diff(self.l0_xy, axis=0).T).sum())


def contours_of(score_map: ScoreMap) -> list[Line]:
    """Return the lines of a map, the lowest level first; beyond the tissue cellularity is none."""
    known = np.isfinite(score_map.cellularity)
    if not known.any():
        return []
    smooth = np.pad(_smoothed(score_map, known), 1)
    rows, columns = smooth.shape
    x, y = score_map.l0_origin
    across = x + (np.arange(columns) - 0.5) * score_map.l0_cell
    down = y + (np.arange(rows) - 0.5) * score_map.l0_cell
    found = contourpy.contour_generator(across, down, smooth)
    lines = [
        Line(level, np.asarray(points, np.float64))
        for level in THRESHOLDS
        for points in found.lines(level)
    ]
    return [line for line in lines if line.l0_length >= SHORTEST_UM / score_map.mpp]


def draw_contours(rgb: NDArray[np.uint8], l0_box: Box, lines: list[Line]) -> NDArray[np.uint8]:
    """Draw lines over a picture of part of the slide, thicker the higher their level.

    Args:
        rgb: uint8 [rows, columns, 3], the slide within ``l0_box``.
        l0_box: what the picture shows, in level-0 pixels.
        lines: to draw; those beyond the box cost nothing.

    Returns:
        uint8 [rows, columns, 3]; the picture itself if nothing is drawn.

    """
    near = [line for line in lines if _meets(line, l0_box)]
    if not near:
        return rgb
    drawn = np.ascontiguousarray(rgb).copy()
    scale = np.array([rgb.shape[1] / l0_box.width, rgb.shape[0] / l0_box.height])
    for colour, more in ((_LIGHT, 2), (_DARK, 0)):
        for line in near:
            points = (line.l0_xy - (l0_box.x, l0_box.y)) * scale - 0.5
            cv2.polylines(
                drawn,
                [np.rint(points * 2**_SHIFT).astype(np.int32)],
                isClosed=False,
                color=colour,
                thickness=1 + THRESHOLDS.index(line.level) + more,
                lineType=cv2.LINE_AA,
                shift=_SHIFT,
            )
    return np.asarray(drawn, np.uint8)


def _smoothed(score_map: ScoreMap, known: NDArray[np.bool_]) -> NDArray[np.float32]:
    cells = SMOOTHED_UM / score_map.cell_um
    filled = np.where(known, score_map.cellularity, np.float32(0))
    if cells < 0.5:
        return filled
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), cells)
    total = cv2.GaussianBlur(filled, (0, 0), cells)
    smooth = total / np.maximum(weight, 1e-6)
    return np.where(known, smooth, 0).astype(np.float32)


def _meets(line: Line, l0_box: Box) -> bool:
    (left, top), (right, bottom) = line.l0_xy.min(0), line.l0_xy.max(0)
    across = right >= l0_box.x and left <= l0_box.right
    return bool(across and bottom >= l0_box.y and top <= l0_box.bottom)
