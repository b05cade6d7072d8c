"""Where the tissue is, and which tiles deserve a second look.

Glass is smooth; tissue is not. That, rather than colour, tells them apart here: stain that has bled
over the glass, tinted glass and a warm white balance all give *smooth* colour, which defeats a
threshold on saturation (Otsu's included), while pale fat and loose stroma still show their membranes
and fibres at 8 µm/px. Everything is measured in optical density, so that the brightness of the lamp
does not matter.
"""

from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.geometry import Mpp

Positive = Annotated[float, Field(gt=0)]

GLASS_MAX_DENSITY = 0.3
"""Glass lets at least half of the light through (10 ** -0.3) in every channel."""

INK_MIN_DENSITY = 0.4
"""Paler than this, a hue is too uncertain to be called ink."""

CONTOUR_COLOUR = (0, 100, 0)


class TissueConfig(BaseModel):
    """How tissue is told from glass. Lengths are in µm on the slide, contrasts in optical density.

    The two contrasts are sums over the three channels (root of summed variances) and a difference
    between channels; on real slides glass stays below a half and tissue above twice the former.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: Mpp = Field(default=Mpp(8.0), gt=0, description="µm/px at which the mask is computed")
    window_um: Positive = Field(default=10.0, description="sigma of the window texture is seen in")
    min_texture: Positive = Field(default=0.025, description="density: local deviation of tissue")
    min_stain: Positive = Field(
        default=0.15, description="density: colour that is tissue if smooth"
    )
    closing_um: Positive = Field(
        default=48.0, description="gaps narrower than twice this are closed"
    )
    min_area_um2: Positive = Field(default=10_000.0, description="smallest piece that is kept")
    max_hole_um2: Positive = Field(default=1_000_000.0, description="largest hole that is filled")


def tissue_mask(
    rgb: NDArray[np.uint8], mpp: Mpp, config: TissueConfig = TissueConfig()
) -> NDArray[np.bool_]:
    """Return the tissue of a thumbnail: bool [H, W] for RGB [H, W, 3] at ``mpp`` µm/px.

    A pixel is tissue where the optical density varies within a few cells' distance, or where it is
    clearly stained and joined to such a place. Gaps and holes (lumina, fat, tears) are filled up to
    ``max_hole_um2``; pieces under ``min_area_um2`` are dust. Ink hides what is below it, so a pixel
    under ink is what the nearest clear pixel is: ink drawn on glass is glass, ink drawn over tissue is
    tissue. Black or white that a scanner filled in is not tissue.

    Thumbnails at another resolution are brought to ``config.mpp`` first (at most doubled in size).
    A slide without tissue gives an all-False mask.
    """
    height, width = rgb.shape[:2]
    mask = _mask_at_scale(*_resampled(rgb, mpp, config.mpp), config)
    if mask.shape == (height, width):
        return mask
    enlarged = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged > 0.5)


def outline_picture(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the thumbnail, RGB [H, W, 3], with the contours of ``mask`` [H, W] drawn over it."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    picture = np.ascontiguousarray(rgb).copy()
    cv2.drawContours(picture, contours, -1, CONTOUR_COLOUR, thickness=2)
    return picture


def _resampled(
    rgb: NDArray[np.uint8], mpp: float, target: float
) -> tuple[NDArray[np.uint8], float]:
    """Return the picture at ``target`` µm/px, or at half its own if that is still coarser."""
    target = max(target, mpp / 2)
    height, width = rgb.shape[:2]
    size = max(1, round(width * mpp / target)), max(1, round(height * mpp / target))
    method = cv2.INTER_AREA if mpp < target else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=method), dtype=np.uint8), target


def _mask_at_scale(rgb: NDArray[np.uint8], mpp: float, config: TissueConfig) -> NDArray[np.bool_]:
    sigma = max(1.0, config.window_um / mpp)
    density = _optical_density(rgb)
    glass = _glass_density(density, config.min_texture)
    # Nothing brighter than glass is tissue: this flattens white filling, its soft edge and glare.
    density = np.maximum(density - glass, 0)
    hidden = _dilate(_is_ink(density), round(2 * sigma))
    clear = ~hidden
    if not clear.any():
        return np.zeros(clear.shape, dtype=bool)
    textured = clear & (_texture(density, clear, sigma) > config.min_texture)
    stain = density.max(axis=2) - density.min(axis=2)
    evidence = _joined_to(textured, textured | (clear & (stain > config.min_stain)))
    evidence = _of_nearest(evidence, clear)
    closed = _close(evidence, config.closing_um / mpp)
    filled = _fill_holes(closed, config.max_hole_um2 / mpp**2)
    # The window sees a sharp edge from about one and a third of its sigma away.
    mask = _erode(filled, round(4 / 3 * sigma)) & ~_black_filling(rgb)
    return _without_small(mask, config.min_area_um2 / mpp**2)


def _optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    table = -np.log10((np.arange(256) + 1) / 256)
    return table.astype(np.float32)[rgb]


def _glass_density(density: NDArray[np.float32], min_texture: float) -> NDArray[np.float32]:
    """Return the density of clear glass per channel; zero (white) where the slide shows none.

    It is the bright end of what is smooth and lets light through. Pure white may be filling that
    the scanner never saw, so it counts only where there is no other glass.
    """
    everywhere = np.ones(density.shape[:2], dtype=bool)
    smooth = _texture(density, everywhere, 1.0) < min_texture / 2
    glass = density[smooth & (density.max(axis=2) < GLASS_MAX_DENSITY)]
    seen = glass[glass.max(axis=1) > 0.005]
    if len(seen) < 0.01 * smooth.size:
        return np.zeros(3, dtype=np.float32)
    return np.asarray(np.percentile(seen, 10, axis=0), dtype=np.float32)


def _texture(
    density: NDArray[np.float32], clear: NDArray[np.bool_], sigma: float
) -> NDArray[np.float32]:
    """Return the local standard deviation over ``clear`` pixels, the channels' variances summed."""
    weight = clear.astype(np.float32)[..., None]

    def mean(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        seen = _blur(weight, sigma)
        return np.where(seen > 1e-3, _blur(values * weight, sigma) / np.maximum(seen, 1e-3), 0)

    smoothed = mean(density, sigma / 2)  # the sensor's and the codec's noise is finer than tissue
    variance = mean(smoothed**2, sigma) - mean(smoothed, sigma) ** 2
    return np.sqrt(np.maximum(variance, 0).sum(axis=2))


def _is_ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the colour cannot be a mixture of haematoxylin and eosin.

    Both absorb green most and blue less than green; red is absorbed by haematoxylin alone, about as
    strongly as green. Blue and green inks absorb more red than that, red, black and green inks more
    blue, and a pure blue ink hardly any blue.
    """
    red, green, blue = np.moveaxis(density, 2, 0)
    dense = density.max(axis=2) > INK_MIN_DENSITY
    bluish = (red > 1.4 * green) | ((red > 0.8 * green) & (blue < 0.2 * green))
    return dense & (bluish | (blue > 0.85 * green))


def _black_filling(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the black that reaches the border: what a scanner writes where it has not scanned."""
    black = (rgb.max(axis=2) < 10).astype(np.uint8)
    _, labels = cv2.connectedComponents(black, connectivity=4)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.isin(labels, rim[rim > 0])


def _joined_to(seeds: NDArray[np.bool_], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected parts of ``region`` that hold a seed."""
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    return region & np.isin(labels, np.unique(labels[seeds]))


def _of_nearest(values: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ``values``, taken from the nearest known pixel where not known."""
    if known.all():
        return values
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(labels.max() + 1, dtype=bool)
    of_label[labels[known]] = values[known]
    return of_label[labels]


def _fill_holes(mask: NDArray[np.bool_], max_pixels: float) -> NDArray[np.bool_]:
    """Fill what the mask encloses, except holes of more than ``max_pixels``."""
    height, width = mask.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, across, down, area = stats.T
    inside = (left > 0) & (top > 0) & (left + across < width) & (top + down < height)
    inside[0] = False  # label 0 is the mask itself
    return mask | (inside & (area <= max_pixels))[labels]


def _without_small(mask: NDArray[np.bool_], min_pixels: float) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_pixels
    large[0] = False
    return large[labels]


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return blurred.reshape(values.shape)


def _disc(radius: float) -> NDArray[np.uint8]:
    reach = int(radius)
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return (row**2 + column**2 <= radius**2).astype(np.uint8)


def _dilate(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0)


def _erode(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    return np.asarray(cv2.erode(mask.astype(np.uint8), _disc(radius)) > 0)


def _close(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Close gaps inside the picture; beyond its border is taken for glass, or masks would creep out."""
    margin = int(radius) + 1
    padded = np.pad(mask.astype(np.uint8), margin)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))
    return np.asarray(closed[margin:-margin, margin:-margin] > 0)
