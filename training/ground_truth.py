"""Masks of nuclei from points: the outline that a marker-controlled watershed finds round each.

The challenge's segmentation set marks each nucleus by one point and its class. Following the
method's paper ("Segmentation Ground Truth Generation"), the points are the markers of a watershed
that gives each nucleus a basin of its own; what of the basin is stained like the nucleus, by a
threshold local to it, and lies near enough to the point is filled with the point's class.

How well the outlines agree with true ones: ``training.outline_quality``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import skimage.segmentation
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

Labels = NDArray[np.int32]
"""``[H, W]``: 0 is background, i + 1 is nucleus i."""

_watershed: Any = skimage.segmentation.watershed

# Surely nucleus is what lies this near to a point, µm, surely none what lies this far.
_CORE, _BETWEEN = 1.0, 4.0

CELL_REACH_UM = (3.2, 0.5, 9.0)
"""How far a lymphocyte, a normal and a malignant cell reach beyond their nuclei: chosen on BRCA-M2C
so that their mean areas are those of the paper's masks, 281, 187 and 820 px."""

# Of a neighbourhood's stain, the share that is taken for surroundings, %.
_SURROUNDINGS = 10

# Black, green, blue and red as in the paper's figure 2.
_COLOURS = np.array([(0, 0, 0), (0, 200, 0), (40, 90, 255), (235, 30, 30)], np.uint8)


@dataclass(frozen=True)
class Nuclei:
    """Point labels of one image."""

    xy: NDArray[np.float64]
    """``[N, 2]``: (x, y) in pixels of the image, pixel i reaching from i to i + 1"""
    classes: NDArray[np.uint8]
    """``[N]``: index in ``wsi_pipeline.model.network.CLASSES``, 1..3"""


class WatershedConfig(BaseModel):
    """How a nucleus is told from its neighbours and its surroundings; lengths in µm.

    Stain is counted from 0, where there is little, to 1, the median at the points.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    blur: float = Field(default=0.35, ge=0, description="deviation of the smoothing of the stain")
    smooth: float = Field(default=0.5, ge=0, description="deviation of the smoothing of outlines")
    max_radius: tuple[float, float, float] = Field(
        default=(4.5, 7.0, 8.0), description="of a lymphocyte, a normal and a malignant nucleus"
    )
    distance_weight: float = Field(
        default=1.0,
        ge=0,
        description="how much stain a way of 1 µm from the point outweighs where nuclei meet",
    )
    threshold: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="stain that belongs to a nucleus, between its surroundings' and its own",
    )
    threshold_rise: float = Field(
        default=0.3, ge=0, description="how much higher the threshold is at the largest radius"
    )


def outline_nuclei(
    rgb: NDArray[np.uint8],
    nuclei: Nuclei,
    mpp: float = 0.5,
    config: WatershedConfig | None = None,
) -> Labels:
    """Outline the nucleus round each point.

    Each nucleus is one connected piece that holds its point. Only where several points share a
    pixel, all but the first are left without.

    Args:
        rgb: ``[H, W, 3]``
        nuclei: points within the picture
        mpp: µm per pixel of the picture
        config: sizes and thresholds; unless given, those that fit real tissue best

    Returns:
        Labels ``[H, W]``: 0 is background, i + 1 is nucleus i.

    Raises:
        ConfigError: If a point lies outside of the picture or its class is none of a nucleus.

    """
    config = config or WatershedConfig()
    height, width = rgb.shape[:2]
    row, column = _pixels(nuclei, height, width)
    labels = np.zeros((height, width), np.int32)
    if not len(row):
        return labels
    distance, nearest = _nearest_point(row, column, height, width)
    distance *= mpp
    stain = _nuclear_stain(_blurred(_optical_density(rgb), config.blur / mpp), distance)
    floor = float(np.percentile(stain, _SURROUNDINGS))
    stain = (stain - floor) / max(float(np.median(stain[row, column])) - floor, 1e-3)

    reach = max(config.max_radius)
    within_reach = distance <= reach
    basins: Labels = _watershed(
        config.distance_weight * distance - stain,
        np.where(distance <= _CORE, nearest, 0),
        mask=within_reach,
    )
    usual_surroundings = np.percentile(stain[within_reach], _SURROUNDINGS)
    for i, window, from_point in _windows(row, column, nearest, reach / mpp):
        radius = from_point * mpp / config.max_radius[nuclei.classes[i] - 1]
        near, basin, local = radius <= 1, basins[window] == i + 1, stain[window]
        core = basin & (from_point * mpp <= _CORE)
        # Half local, since within a crowd of nuclei a neighbourhood has no surroundings.
        surroundings = (np.percentile(local[near], _SURROUNDINGS) + usual_surroundings) / 2
        # Higher far off: of a dim thing there, less is likely to be of this nucleus.
        share = config.threshold + config.threshold_rise * radius**2
        stained = local > surroundings + share * (np.median(local[core]) - surroundings)
        smooth = _blurred((basin & near & stained).astype(np.float32), config.smooth / mpp) > 0.5
        filled = ndimage.binary_fill_holes((smooth & near) | core) & basin
        _, pieces = cv2.connectedComponents(filled.astype(np.uint8), connectivity=4)
        labels[window][pieces == pieces[from_point == 0]] = i + 1
    return labels


def grown_to_cells(
    labels: Labels,
    nuclei: Nuclei,
    mpp: float = 0.5,
    reach: tuple[float, float, float] = CELL_REACH_UM,
) -> Labels:
    """Grow each nucleus to a cell: what lies within its class's reach, and nearer to no other.

    Args:
        labels: outlines of nuclei, ``[H, W]``
        nuclei: the nuclei, for their classes
        mpp: µm per pixel of the labels
        reach: how far the cytoplasm of a lymphocyte, a normal and a malignant cell reaches beyond
            its nucleus, µm; unless given, such that mean areas are those of the paper's masks

    Returns:
        Labels of cells, ``[H, W]``.

    """
    if not labels.any():
        return labels
    distance, zone = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_of_zone = np.zeros(zone.max() + 1, np.int32)
    label_of_zone[zone[labels > 0]] = labels[labels > 0]
    nearest = label_of_zone[zone]
    far = np.array((0.0, *reach))[np.concatenate([np.zeros(1, np.uint8), nuclei.classes])]
    return np.where(distance * mpp <= far[nearest], nearest, 0).astype(np.int32)


def nucleus_mask(labels: Labels, nuclei: Nuclei) -> NDArray[np.uint8]:
    """Fill each outline with the class of its nucleus: class ids ``[H, W]``, 0 is background."""
    return np.concatenate([np.zeros(1, np.uint8), nuclei.classes])[labels]


def figure_2(rgb: NDArray[np.uint8], nuclei: Nuclei, labels: Labels) -> NDArray[np.uint8]:
    """Draw the paper's figure 2: the picture, the outlines with their points, the filled mask.

    Returns:
        RGB ``[2 H, 6 W + gaps, 3]``, in the paper's colours: background black, malignant nuclei
        red, normal ones blue, lymphocytes green.

    """
    zoom = 2
    size = (rgb.shape[1] * zoom, rgb.shape[0] * zoom)
    picture = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)
    large = labels.repeat(zoom, 0).repeat(zoom, 1)
    mask = nucleus_mask(large, nuclei)
    # Where the label differs from that of the pixel below or to the right.
    ahead = np.pad(large, ((0, 1), (0, 1)), mode="edge")
    edge = (ahead[:-1, :-1] != ahead[1:, :-1]) | (ahead[:-1, :-1] != ahead[:-1, 1:])
    outlines = picture.copy()
    outlines[edge] = _COLOURS[cv2.dilate(mask, np.ones((3, 3), np.uint8))][edge]
    for (x, y), kind in zip(np.round(nuclei.xy * zoom).astype(int), nuclei.classes, strict=True):
        cv2.circle(outlines, (int(x), int(y)), 3, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(outlines, (int(x), int(y)), 2, _COLOURS[kind].tolist(), -1, cv2.LINE_AA)
    gap = np.full((size[1], 4 * zoom, 3), 255, np.uint8)
    return np.hstack([picture, gap, outlines, gap, _COLOURS[mask]])


def _pixels(nuclei: Nuclei, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each point."""
    xy = nuclei.xy.reshape(-1, 2)
    outside = np.flatnonzero(~((xy >= 0) & (xy <= (width, height))).all(1))
    if len(outside):
        x, y = xy[outside[0]]
        raise ConfigError(
            f"Point {outside[0]} at x {x:g}, y {y:g} lies outside of its picture of {width} × "
            f"{height} px; give points in pixels of that picture."
        )
    strange = np.flatnonzero((nuclei.classes < 1) | (nuclei.classes >= len(CLASSES)))
    if len(strange):
        raise ConfigError(
            f"Point {strange[0]} has class {nuclei.classes[strange[0]]}, which is none of a "
            f"nucleus; give 1 to {len(CLASSES) - 1} ({', '.join(CLASSES[1:])})."
        )
    # A point on the far edge belongs to the last pixel.
    column, row = np.minimum(xy.astype(np.int64), (width - 1, height - 1)).T
    return row, column


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


def _optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return -np.log((rgb.astype(np.float32) + 1) / 256)


def _nuclear_stain(
    density: NDArray[np.float32], distance: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Project optical density on the axis that best tells nuclei from what lies between them.

    Fisher's linear discriminant of the pixels at the points and those far from any. The picture's
    own stains so replace the fixed ones of a colour deconvolution.

    Args:
        density: ``[H, W, 3]``
        distance: ``[H, W]``, µm to the nearest point

    """
    far = min(_BETWEEN, float(np.quantile(distance, 0.9)))
    inside, between = density[distance <= _CORE], density[distance >= far]
    scatter = sum(np.cov(group.T, bias=True) for group in (inside, between)) / 2
    # So that no axis is trusted for having hardly any variance in a few pixels.
    scatter += (0.01 * np.trace(scatter) / 3 + 1e-6) * np.eye(3)
    axis = np.linalg.solve(scatter, inside.mean(0) - between.mean(0))
    return np.asarray(density @ axis.astype(np.float32))


def _windows(
    row: NDArray[np.int64], column: NDArray[np.int64], nearest: Labels, reach: float
) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.float64]]]:
    """For each nucleus with a pixel of its own, the pixels around it.

    Yields:
        Its index, the window of ``reach`` px to each side, cut at the picture's edge, and each of
        its pixels' distance from the point, px.

    """
    height, width = nearest.shape
    span = int(np.ceil(reach))
    y, x = np.ogrid[-span : span + 1, -span : span + 1]
    from_middle = np.hypot(y, x)
    for i, (r, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        if nearest[r, c] == i + 1:
            top, left = max(0, r - span), max(0, c - span)
            bottom, right = min(height, r + span + 1), min(width, c + span + 1)
            shift_y, shift_x = span - r, span - c
            yield (
                i,
                np.s_[top:bottom, left:right],
                from_middle[top + shift_y : bottom + shift_y, left + shift_x : right + shift_x],
            )


def _blurred(picture: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    if sigma == 0:
        return picture
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), dtype=np.float32)
