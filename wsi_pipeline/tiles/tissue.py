"""Where the tissue is, and which tiles deserve a second look.

Glass is smooth; tissue is not. That, rather than colour, tells them apart here: stain that has bled
over the glass, tinted glass and a warm white balance all give *smooth* colour, which defeats a
threshold on saturation (Otsu's included), while pale fat and loose stroma still show their
membranes and fibres at 8 µm/px. Everything is measured in optical density, so that the brightness
of the lamp does not matter. Colour serves to know ink, which no mixture of haematoxylin and eosin
matches, and smooth stained tissue.
"""

from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.errors import ColourError
from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.unscanned import GLASS_ABOVE, between, black, is_dark_field, unscanned

Positive = Annotated[float, Field(gt=0, le=1e9)]
Micrometres = Annotated[float, Field(gt=0, le=1e4)]
"""Of shapes that are looked for: beyond a centimetre they are as large as the section."""

GLASS_MAX_DENSITY = 0.4
"""Glass lets at least two fifths of the light through (10 ** -0.4) in every channel."""

GLASS_TINT = 0.05
"""Density above clear glass that dirt and uneven light may add."""

INK_MIN_DENSITY = 0.4
"""Paler than this, a hue is too uncertain to be called ink."""

BLURRED_ABOVE = 0.8
"""A tile whose ``blur_score`` is higher is flagged as out of focus."""

INKED_ABOVE = 0.05
"""A tile whose ``pen_fraction`` is higher is flagged as inked."""

MIN_CONTRAST = 0.002
"""Density: a tile of less contrast than this shows nothing but glass."""

MAX_THUMBNAIL_PX = 4_000_000
"""Largest thumbnail that is searched for tissue; it takes about a third of a GiB."""

_DENSITY_OF = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of each 8-bit intensity."""

CONTOUR_COLOUR = (0, 100, 0)


class TissueConfig(BaseModel):
    """How tissue is told from glass. Lengths are in µm on the slide, contrasts in optical density.

    No value is a fine balance: halving or doubling any of them, one at a time, leaves the Dice
    overlap with reference masks of real slides above 0.93.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: Mpp = Field(
        default=Mpp(8.0), ge=0.1, le=1000, description="µm/px at which the mask is computed"
    )
    window_um: Micrometres = Field(
        default=10.0, description="sigma of the window texture is seen in"
    )
    min_texture: Positive = Field(default=0.025, description="density: local deviation of tissue")
    min_stain: Positive = Field(
        default=0.15, description="density: colour that is tissue if smooth"
    )
    closing_um: Micrometres = Field(
        default=48.0, description="gaps narrower than twice this are closed"
    )
    min_width_um: Micrometres = Field(
        default=80.0, description="a piece is kept if a disc this wide (5000 µm²) fits into it"
    )
    max_hole_um2: Positive = Field(default=1e6, description="larger holes of glass stay open")


def tissue_of(slide: Slide, config: TissueConfig) -> NDArray[np.bool_]:
    """Return the tissue of a slide: bool [rows, columns] over exactly its bounds.

    What cannot be decoded counts as tissue: nobody knows what is there. As tissue it counts against
    the coverage, as glass it would vanish.

    Raises:
        SlideError: if nothing at all can be decoded.
        ColourError: if it is not a brightfield slide.
        SlideUnavailableError: if the file cannot be reached now, or is no longer the same.

    """
    mpp = thumbnail_mpp(slide.l0_bounds, slide.mpp, config)
    picture = slide.thumbnail(mpp)
    if is_dark_field(picture):
        raise ColourError(
            f"{slide.name}: it is light on a dark field, as fluorescence is: not a brightfield "
            f"slide. Score the H&E slide of the specimen instead."
        )
    mask = tissue_mask(picture, mpp, config)
    _mark_unreadable(mask, slide)
    return mask


def thumbnail_mpp(l0_bounds: Box, slide_mpp: Mpp, config: TissueConfig) -> Mpp:
    """Return the µm/px at which to look for tissue: the configured one, coarser on huge slides.

    Doubled until the thumbnail has at most `MAX_THUMBNAIL_PX` pixels, so that memory has a bound;
    masks hold their quality up to 16 µm/px, at which that is some 9 cm².
    """
    mpp = config.mpp
    while l0_bounds.width * l0_bounds.height * (slide_mpp / mpp) ** 2 > MAX_THUMBNAIL_PX:
        mpp = Mpp(2 * mpp)
    return mpp


def tissue_mask(
    rgb: NDArray[np.uint8],
    mpp: Mpp,
    config: TissueConfig = TissueConfig(),  # noqa: B008 (frozen)
) -> NDArray[np.bool_]:
    """Return the tissue of a thumbnail: bool [H, W] for RGB [H, W, 3] at ``mpp`` µm/px.

    A pixel is tissue where the optical density varies within a few cells' distance, or where it is
    clearly stained and joined to such a place. Gaps are closed and holes (lumina, fat, tears)
    filled up to ``max_hole_um2``; pieces narrower than ``min_width_um`` all along are dust, hairs
    and edges of the coverslip. Ink hides what is below it, so a pixel under ink is what the nearest
    clear pixel is: ink drawn on glass is glass, ink drawn over tissue is tissue. Black, grey or
    white that was filled in where nothing was scanned is not tissue, but for holes within it.

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


def blur_score(rgb: NDArray[np.uint8]) -> float:
    """Return how blurred a tile, RGB [H, W, 3] at 0.5 µm/px, is: 1 without any fine detail.

    Compares the contrast of neighbouring pixels with that of neighbouring blocks of 4 pixels. On a
    smooth slope, which is what defocus leaves, the one is exactly a quarter of the other and the
    score 1; sharp detail raises the ratio and lowers the score, whatever the tile shows and however
    strongly it is stained. On real slides tiles in focus stay below 0.77 (scans of 0.69 µm/px
    brought to 0.5 included); blurred with a Gaussian of sigma 4 pixels they exceed 0.83, after JPEG
    0.92. Noise passes for detail: in a scan stored without lossy compression, blur may go unseen. A
    tile that shows nothing scores 0.
    """
    density = cv2.LUT(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), _DENSITY_OF)
    fine, coarse = _fine_and_coarse_contrast(np.asarray(density, np.float32))
    if coarse < MIN_CONTRAST:
        return 0.0
    return min(1.0, coarse / 4 / max(fine, 1e-6))


def pen_fraction(rgb: NDArray[np.uint8]) -> float:
    """Return the share of a tile, RGB [H, W, 3] at 0.5 µm/px, that is covered by ink.

    Pen on the slide and the ink that marks a specimen's margins count alike. Judged at 4 µm/px,
    where the coloured fringes of single nuclei no longer show. Translucent
    ink over dense tissue is seen in part only, and ink of the very colours of haematoxylin (navy)
    or eosin (crimson) not at all.
    """
    height, width = rgb.shape[:2]
    size = max(1, width // 8), max(1, height // 8)
    reduced = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    filling = _dilate(black(reduced), 2)
    return float((_ink(_optical_density(reduced)) & ~filling).mean())


def _mark_unreadable(mask: NDArray[np.bool_], slide: Slide) -> None:
    bounds = slide.l0_bounds
    rows, columns = mask.shape
    for l0_box in slide.unreadable:
        left, right = ((x - bounds.x) * columns / bounds.width for x in (l0_box.x, l0_box.right))
        top, bottom = ((y - bounds.y) * rows / bounds.height for y in (l0_box.y, l0_box.bottom))
        mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True


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
    filling = unscanned(rgb)
    density[filling] = 0
    clear = ~_dilate(_ink(density) | filling, round(2 * sigma))
    if not clear.any():
        return np.zeros(clear.shape, dtype=bool)
    textured = clear & (_texture(density, clear, sigma) > config.min_texture)
    stain = _strongest(density) + _strongest(-density)
    evidence = _joined_to(textured, textured | (clear & (stain > config.min_stain)))
    evidence = _of_nearest(evidence, clear) & ~filling
    glassy = _strongest(density) < GLASS_TINT
    max_hole = config.max_hole_um2 / mpp**2
    filled = _fill_holes(_close(evidence, config.closing_um / mpp), glassy, max_hole)
    # The window sees a sharp edge from about one and a third of its sigma away.
    margin = round(4 / 3 * sigma)
    # What was never scanned is tissue where it has tissue on both sides, as a hole in it has. What
    # is bright may be glass that the codec left flat, and is judged as such.
    hidden = filling & (rgb.min(axis=2) < GLASS_ABOVE)
    within = between(hidden, filled) | (filled & ~hidden)
    outside = filling & ~within
    mask = _erode(filled | filling, margin) & ~outside
    # Before closing, or specks that happen to lie close together would pass for a piece.
    solid = _fill_holes(evidence, glassy, max_hole)
    wide = _erode(solid, margin + config.min_width_um / mpp / 2 - 0.5)
    return _joined_to(wide & mask, mask)


def _optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _DENSITY_OF[rgb]


def _strongest(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest of the three channels (numpy is slow over so short an axis)."""
    red, green, blue = cv2.split(density)
    return np.asarray(cv2.max(cv2.max(red, green), blue), dtype=np.float32)


def _fine_and_coarse_contrast(grey: NDArray[np.float32]) -> tuple[float, float]:
    """Return the root mean squares of the Haar details of 1 and of 4 pixels.

    Averaging over 2×2 blocks takes from the mean square just the energy of the detail within them.
    """
    height, width = (length // 8 * 8 for length in grey.shape)
    if height == 0 or width == 0:
        return 0.0, 0.0
    picture = grey[:height, :width]
    energies = [_mean_square(picture)]
    for halving in (2, 4, 8):
        size = width // halving, height // halving
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)
        energies.append(_mean_square(picture))
    fine, _, coarse = np.sqrt(np.maximum(-np.diff(energies), 0))
    return float(fine), float(coarse)


def _mean_square(picture: NDArray[np.float32]) -> float:
    return float(cv2.norm(picture, cv2.NORM_L2SQR)) / picture.size


def _glass_density(density: NDArray[np.float32], min_texture: float) -> NDArray[np.float32]:
    """Return the density of clear glass per channel; zero (white) where the slide shows none.

    It is the bright end of what is smooth and lets light through. Pure white may be filling that
    the scanner never saw, so it counts only where there is no other glass.
    """
    everywhere = np.ones(density.shape[:2], dtype=bool)
    smooth = _texture(density, everywhere, 1.0) < min_texture / 2
    glass = density[smooth & (_strongest(density) < GLASS_MAX_DENSITY)]
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
        if clear.all():
            return _blur(values, sigma)
        seen = np.maximum(_blur(weight, sigma), np.float32(1e-3))
        return np.asarray(_blur(values * weight, sigma) / seen, dtype=np.float32)

    smoothed = mean(density, sigma / 2)  # the sensor's and the codec's noise is finer than tissue
    variance = mean(smoothed**2, sigma) - mean(smoothed, sigma) ** 2
    summed = cv2.transform(np.maximum(variance, 0), np.ones((1, 3), np.float32))
    return np.asarray(np.sqrt(summed), dtype=np.float32)


def _ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the colour cannot be a mixture of haematoxylin and eosin.

    Both absorb green most and blue about half as much; red is absorbed by haematoxylin alone, about
    as strongly as green. Blue and green inks absorb more red than that, a deep blue ink hardly any
    blue, and red, black and green inks more blue. A pale part is ink only where it joins a dense
    one.
    """
    red, green, blue = np.moveaxis(density, 2, 0)
    foreign = (red > 1.4 * green) | (blue > 0.85 * green)
    foreign |= (red > 0.8 * green) & (blue < 0.33 * green)
    strongest = _strongest(density)
    dense = foreign & (strongest > INK_MIN_DENSITY)
    return _joined_to(dense, foreign & (strongest > INK_MIN_DENSITY / 3))


def _joined_to(seeds: NDArray[np.bool_], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected parts of ``region`` that hold a seed."""
    if not seeds.any():
        return np.zeros_like(region)
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    return np.asarray(region & np.isin(labels, np.unique(labels[seeds])))


def _of_nearest(values: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ``values``, taken from the nearest known pixel where not known."""
    if known.all():
        return values
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(labels.max() + 1, dtype=bool)
    of_label[labels[known]] = values[known]
    return np.asarray(of_label[labels])


def _fill_holes(
    mask: NDArray[np.bool_], glassy: NDArray[np.bool_], max_pixels: float
) -> NDArray[np.bool_]:
    """Fill what the mask encloses, except where it is mostly glass and over ``max_pixels``."""
    height, width = mask.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, across, down, area = stats.T
    enclosed = (left > 0) & (top > 0) & (left + across < width) & (top + down < height)
    enclosed[0] = False  # label 0 is the mask itself
    glass_area = np.bincount(labels[glassy], minlength=len(area))
    fills = enclosed & ((area <= max_pixels) | (glass_area < area / 2))
    return np.asarray(mask | fills[labels])


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32).reshape(values.shape)


def _disc(radius: float) -> NDArray[np.uint8]:
    reach = int(radius)
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(row**2 + column**2 <= radius**2, dtype=np.uint8)


def _dilate(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0)


def _erode(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    return np.asarray(cv2.erode(mask.astype(np.uint8), _disc(radius)) > 0)


def _close(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Close gaps inside the picture; beyond its border is glass, or masks would creep out to it."""
    margin = int(radius) + 1
    padded = np.pad(mask.astype(np.uint8), margin)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))
    return np.asarray(closed[margin:-margin, margin:-margin] > 0)
