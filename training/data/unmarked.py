"""Nuclei that annotators left out: to learn that they are background would be wrong."""

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hed

from training.data.picture import PICTURE_MPP

# Chosen by eye on all images of CRCHistoPhenotypes; the area is that of a small nucleus.
LIKENESS = 0.6
_SMALLEST_UM2 = 12.5


def unmarked_nuclei(
    rgb: NDArray[np.uint8], mask: NDArray[np.uint8], likeness: float = LIKENESS
) -> NDArray[np.bool_]:
    """Find what is stained like the marked nuclei, is of a nucleus' size, and is none of them.

    Args:
        rgb: [H, W, 3] at 0.5 µm/px
        mask: classes of the marked nuclei, [H, W]
        likeness: how near a stain must be to that of the marked nuclei, from 0, that of the
            surroundings, to 1

    Returns:
        bool [H, W]; all false if no nucleus is marked, since there is nothing to compare with.

    """
    marked = mask > 0
    if not marked.any():
        return marked
    dark = stained(rgb, marked, likeness)
    rim = cv2.dilate(marked.astype(np.uint8), _disc(1.5))
    alike = cv2.morphologyEx((dark & (rim == 0)).astype(np.uint8), cv2.MORPH_OPEN, _disc(1.0))
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(alike)
    large = boxes[:, cv2.CC_STAT_AREA] * PICTURE_MPP**2 >= _SMALLEST_UM2
    large[0] = False
    found = cv2.dilate(large[pieces].astype(np.uint8), _disc(0.5)) > 0
    return np.asarray(found & ~marked, dtype=np.bool_)


def stained(
    rgb: NDArray[np.uint8], marked: NDArray[np.bool_], likeness: float = LIKENESS
) -> NDArray[np.bool_]:
    """Find the pixels whose haematoxylin is near enough to that of marked ones, bool [H, W]."""
    stain = cv2.GaussianBlur(rgb2hed(rgb)[..., 0].astype(np.float32), (0, 0), 0.5 / PICTURE_MPP)
    theirs, surroundings = np.median(stain[marked]), np.percentile(stain[~marked], 25)
    return np.asarray(stain > surroundings + likeness * (theirs - surroundings))


def _disc(radius_um: float) -> NDArray[np.uint8]:
    side = 2 * round(radius_um / PICTURE_MPP) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)
