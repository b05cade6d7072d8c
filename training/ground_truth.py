"""Masks of nuclei from points: the outline that a marker-controlled watershed finds round each.

The challenge's segmentation set marks each nucleus by one point and its class. Following the
method's paper (segmentation ground truth generation), the points are the markers of a watershed
that gives each nucleus its own basin; what of the basin is dark enough, by a threshold local to the
nucleus, and near enough to the point, is filled with the point's class.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import skimage.segmentation
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from skimage.color import rgb2hed

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.network import CLASSES

_watershed: Any = skimage.segmentation.watershed

Labels = NDArray[np.int32]
"""``[H, W]``: 0 is background, i + 1 is nucleus i."""


@dataclass(frozen=True)
class Nuclei:
    """Point labels of one image."""

    xy: NDArray[np.float64]
    """``[N, 2]``: (x, y) in pixels of the image, pixel i reaching from i to i + 1"""
    classes: NDArray[np.uint8]
    """``[N]``: index in ``wsi_pipeline.network.CLASSES``, 1..3"""


class WatershedConfig(BaseModel):
    """How a nucleus is told from its surroundings; lengths in µm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blur: float = Field(default=0.5, ge=0, description="deviation of the smoothing of the stain")
    seed_radius: float = Field(default=1.0, gt=0, description="a marker's, and the smallest mask's")
    max_radius: tuple[float, float, float] = Field(
        default=(4.5, 7.0, 7.0), description="of a lymphocyte, a normal and a malignant nucleus"
    )
    distance_weight: float = Field(
        default=1.0, ge=0, description="haematoxylin per 5 µm from the point in the landscape"
    )
    threshold: float = Field(
        default=0.55, gt=0, lt=1, description="between the surroundings' stain and the nucleus' own"
    )


def outline_nuclei(
    rgb: NDArray[np.uint8],
    nuclei: Nuclei,
    mpp: float = 0.5,
    config: WatershedConfig | None = None,
) -> Labels:
    """Outline the nucleus round each point.

    Each nucleus is one connected piece that holds its point; only of several points in one pixel
    the last ones get nothing.

    Args:
        rgb: ``[H, W, 3]``
        nuclei: points within the picture
        mpp: µm per pixel of the picture
        config: thresholds; those that fit real tissue best unless given

    Returns:
        Labels ``[H, W]``: 0 is background, i + 1 is nucleus i.

    Raises:
        ConfigError: a point lies outside of the picture or has no class of nucleus.

    """
    config = config or WatershedConfig()
    height, width = rgb.shape[:2]
    column, row = _pixels(nuclei, width, height)
    labels = np.zeros((height, width), np.int32)
    if len(row) == 0:
        return labels
    distance, nearest = _nearest_point(row, column, height, width)
    distance *= mpp
    haematoxylin = _blurred(rgb2hed(rgb)[..., 0].astype(np.float32) * 10, config.blur / mpp)
    reach = max(config.max_radius)
    basins: Labels = _watershed(
        config.distance_weight / 5 * distance - haematoxylin,
        np.where(distance <= config.seed_radius, nearest, 0),
        mask=distance <= reach,
    )
    span = int(np.ceil(reach / mpp))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    for i, (r, c, kind) in enumerate(zip(row, column, nuclei.classes, strict=True)):
        if nearest[r, c] != i + 1:
            continue
        window = np.s_[
            max(0, r - span) : min(height, r + span + 1),
            max(0, c - span) : min(width, c + span + 1),
        ]
        rows, columns = np.ogrid[window]
        squared = ((rows - r) ** 2 + (columns - c) ** 2) * mpp**2
        near = squared <= config.max_radius[kind - 1] ** 2
        stain, basin = haematoxylin[window], basins[window] == i + 1
        core = basin & (squared <= config.seed_radius**2)
        own, surroundings = np.median(stain[core]), np.percentile(stain[near], 10)
        dark = stain > surroundings + config.threshold * (own - surroundings)
        filled = cv2.morphologyEx((basin & near & dark).astype(np.uint8), cv2.MORPH_OPEN, brush)
        _, pieces = cv2.connectedComponents(filled | core.astype(np.uint8), connectivity=4)
        piece = pieces == pieces[r - rows[0, 0], c - columns[0, 0]]
        labels[window][ndimage.binary_fill_holes(piece) & basin] = i + 1
    return labels


def nucleus_mask(labels: Labels, nuclei: Nuclei) -> NDArray[np.uint8]:
    """Fill each outline with the class of its nucleus: class ids ``[H, W]``, 0 is background."""
    return np.concatenate([np.zeros(1, np.uint8), nuclei.classes])[labels]


def _pixels(nuclei: Nuclei, width: int, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column and row of each point."""
    xy = nuclei.xy.reshape(-1, 2)
    outside = ~((xy >= 0) & (xy <= (width, height))).all(1)
    if outside.any():
        i = int(outside.argmax())
        raise ConfigError(
            f"Point {i} at x {xy[i, 0]:g}, y {xy[i, 1]:g} lies outside of its picture of "
            f"{width} × {height} px: give points in pixels of that picture."
        )
    strange = (nuclei.classes < 1) | (nuclei.classes >= len(CLASSES))
    if strange.any():
        i = int(strange.argmax())
        raise ConfigError(
            f"Point {i} has class {nuclei.classes[i]}, which is no nucleus: give 1 to "
            f"{len(CLASSES) - 1} ({', '.join(CLASSES[1:])})."
        )
    # A point on the last edge belongs to the last pixel.
    column, row = np.minimum(xy.astype(np.int64), (width - 1, height - 1)).T
    return column, row


def _nearest_point(
    row: NDArray[np.int64], column: NDArray[np.int64], height: int, width: int
) -> tuple[NDArray[np.float32], Labels]:
    """Distance in px of each pixel to the nearest point, and that point's label."""
    elsewhere = np.ones((height, width), np.uint8)
    elsewhere[row, column] = 0
    distance, zone = cv2.distanceTransformWithLabels(
        elsewhere, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_of_zone = np.zeros(zone.max() + 1, np.int32)
    # Of points in one pixel the first one holds it: it is written last.
    label_of_zone[zone[row[::-1], column[::-1]]] = np.arange(len(row), 0, -1)
    return np.asarray(distance, dtype=np.float32), label_of_zone[zone]


def _blurred(picture: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    if sigma == 0:
        return picture
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), dtype=np.float32)
