"""The score map drawn over the slide: ``overlay.tif``, and what pictures for reports draw too.

Colour lies on tissue alone, over the slide in its own stain; where nothing was scored, or less than
5 %, the slide is as it is. Lines run where cellularity passes 10, 30 and 70 %.

Cells are drawn as they are, with hard borders: interpolated colours would claim a resolution that
the scores do not have.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.errors import SlideError, SlideUnavailableError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.outputs.colours import (
    DEFAULT_PALETTE,
    OPACITY,
    SHOWN_FROM,
    Palette,
    colourise,
)
from wsi_pipeline.outputs.contours import Line, contours_of, draw_contours
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.slide.pyramid import best_level
from wsi_pipeline.slide.slide import Slide

log = logging.getLogger(__name__)

_TILE = 512
_SMALLEST_LEVEL = 1024  # px on the long side: one screen
_LONG_SIDE = 2000  # px that even a small slide's overlay has, if the slide itself does
_LARGEST_READ = 4096  # px, side of what is read of one of the slide's levels at once
_ENCODED_AT_ONCE = 2**25  # bytes of tiles that wait for tifffile's encoding threads
_UNREADABLE_GREY = 190


class OverlayConfig(BaseModel):
    """How the score map is drawn over the slide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: Annotated[Mpp, Field(gt=0, le=8)] = Mpp(2.0)
    """Pixel size of the full resolution, in µm; finer for small slides, see `l0_per_pixel`."""
    opacity: Annotated[float, Field(gt=0, le=1)] = OPACITY
    """Share of the map's colour where it covers the slide; the rest is the slide itself."""
    palette: Palette = DEFAULT_PALETTE
    """The scale of colours."""
    contours: bool = True
    """Whether lines are drawn at 10, 30 and 70 %."""
    jpeg_quality: Annotated[int, Field(ge=50, le=100)] = 85


@dataclass(frozen=True, eq=False)
class Drawn:
    """A map as it is drawn over any picture of its slide."""

    score_map: ScoreMap
    config: OverlayConfig
    lines: list[Line]

    @classmethod
    def of(cls, score_map: ScoreMap, config: OverlayConfig | None = None) -> Self:
        """Find the lines of a map, if they are wanted."""
        config = config or OverlayConfig()
        return cls(score_map, config, contours_of(score_map) if config.contours else [])

    def over(self, rgb: NDArray[np.uint8], l0_box: Box) -> NDArray[np.uint8]:
        """Draw it over a picture of part of the slide; see `draw_over`."""
        config = self.config
        drawn = draw_over(rgb, l0_box, self.score_map, config.opacity, config.palette)
        return draw_contours(drawn, l0_box, self.lines)


def draw_over(
    rgb: NDArray[np.uint8],
    l0_box: Box,
    score_map: ScoreMap,
    opacity: float = OPACITY,
    palette: Palette = DEFAULT_PALETTE,
) -> NDArray[np.uint8]:
    """Blend the score map over a picture of part of the slide.

    Args:
        rgb: uint8 [rows, columns, 3], the slide within ``l0_box`` at any resolution.
        l0_box: what the picture shows, in level-0 pixels.
        score_map: the map; where it is NaN or below ``SHOWN_FROM``, and beyond it, the picture
            stays as it is.
        opacity: share of the map's colour in the result; the rest is the picture.
        palette: the scale of colours.

    Returns:
        uint8 [rows, columns, 3].

    """
    height, width = rgb.shape[:2]
    # One more row and column of NaN, which everything beyond the map is sent to.
    cells = np.pad(score_map.cellularity, ((0, 1), (0, 1)), constant_values=np.nan)
    x, y = score_map.l0_origin
    columns = _cell_of(l0_box.x - x, l0_box.width / width, width, score_map.l0_cell, cells.shape[1])
    rows = _cell_of(l0_box.y - y, l0_box.height / height, height, score_map.l0_cell, cells.shape[0])
    # Of the map only what the picture needs, as colours; then one cell for each pixel.
    needed_rows, rows = np.unique(rows, return_inverse=True)
    needed_columns, columns = np.unique(columns, return_inverse=True)
    cells = cells[np.ix_(needed_rows, needed_columns)]
    coloured = cells >= SHOWN_FROM
    if not coloured.any():
        return rgb
    colour = colourise(cells, palette).take(rows, 0).take(columns, 1)
    blended = cv2.addWeighted(colour, opacity, rgb, 1 - opacity, 0)
    covered = coloured.astype(np.uint8).take(rows, 0).take(columns, 1)
    return np.asarray(cv2.copyTo(blended, covered, rgb.copy()), np.uint8)


def l0_per_pixel(l0_bounds: Box, mpp: Mpp, config: OverlayConfig) -> int:
    """Return the side of an overlay pixel in level-0 pixels.

    The whole number nearest to the configured µm, so that no pixel lies between two; less for a
    slide so small that its long side would fall below 2000 px, but never finer than the slide.
    """
    for_small = max(l0_bounds.width, l0_bounds.height) // _LONG_SIDE
    return max(1, min(round(config.mpp / mpp), for_small))


def write_overlay(path: Path, slide: Slide, drawing: Drawn) -> None:
    """Write the slide with the map over it as a tiled, pyramidal RGB TIFF.

    All of the slide's bounds are drawn, tile by tile and for each level straight from the slide, so
    memory does not grow with the slide. Levels are reduced-resolution directories of a generic
    TIFF, which OpenSlide (and so QuPath), tiffslide and tifffile read as a pyramid and Bio-Formats
    at full resolution; the resolution tags give the pixel size. What cannot be read is grey.
    """
    bounds, config = slide.l0_bounds, drawing.config
    finest = l0_per_pixel(bounds, slide.mpp, config)
    unreadable: list[Box] = []
    with (
        atomic_path(path) as partial,
        tifffile.TiffWriter(partial) as tiff,
    ):
        for level, l0_px in enumerate(_level_pixels(bounds, finest)):
            pixels_per_cm = 1e4 / (l0_px * slide.mpp)
            tiff.write(
                _tiles(slide, l0_px, drawing, unreadable),
                shape=(-(-bounds.height // l0_px), -(-bounds.width // l0_px), 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": config.jpeg_quality},
                buffersize=_ENCODED_AT_ONCE,
                resolution=(pixels_per_cm, pixels_per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=tifffile.FILETYPE.REDUCEDIMAGE if level else None,
                description=None if level else f"Cellularity 5-100 % in {config.palette} over H&E",
                metadata=None,
                software="wsi-pipeline",
            )
    if unreadable:
        log.warning(
            "%s: %d tiles of the overlay cannot be read and are grey", slide.name, len(unreadable)
        )


def _cell_of(
    l0_start: float, l0_px: float, count: int, l0_cell: float, beyond: int
) -> NDArray[np.intp]:
    """Return the cell in which each of ``count`` pixel centres lies, the last one if in none.

    Args:
        l0_start: where the first pixel begins, level-0 pixels from the map's corner.
        l0_px: side of a pixel in level-0 pixels.
        count: number of pixels.
        l0_cell: side of a cell in level-0 pixels.
        beyond: number of cells, of which the last stands for all that is beyond the map.

    """
    cell = np.floor((l0_start + (np.arange(count) + 0.5) * l0_px) / l0_cell).astype(np.intp)
    return np.where((cell >= 0) & (cell < beyond), cell, beyond - 1)


def _level_pixels(l0_bounds: Box, finest: int) -> Iterator[int]:
    """Yield the pixel's side of each level in level-0 pixels, doubling until a screen holds it."""
    l0_px = finest
    yield l0_px
    while max(l0_bounds.width, l0_bounds.height) > _SMALLEST_LEVEL * l0_px:
        l0_px *= 2
        yield l0_px


def _tiles(
    slide: Slide, l0_px: int, drawing: Drawn, unreadable: list[Box]
) -> Iterator[NDArray[np.uint8]]:
    """Yield one level's tiles, row by row, each uint8 [512, 512, 3]; white beyond the slide.

    What cannot be read is grey and is added to ``unreadable``.
    """
    bounds, l0_tile = slide.l0_bounds, _TILE * l0_px
    for top in range(bounds.y, bounds.bottom, l0_tile):
        for left in range(bounds.x, bounds.right, l0_tile):
            l0_box = Box(left, top, l0_tile, l0_tile)
            try:
                rgb = read_square(slide, l0_box, _TILE)
            except SlideUnavailableError:
                raise
            except SlideError:
                unreadable.append(l0_box)
                rgb = np.full((_TILE, _TILE, 3), _UNREADABLE_GREY, np.uint8)
            yield drawing.over(rgb, l0_box)


def read_square(slide: Slide, l0_box: Box, side: int) -> NDArray[np.uint8]:
    """Read a square region as ``side`` × ``side`` pixels, in memory that has a bound.

    A slide without low resolutions is read in quarters of quarters: one tile of the coarsest level
    may be all of its level 0.
    """
    l0_px = l0_box.width // side
    level = slide.levels[best_level(slide.levels, l0_px)]
    if l0_box.width <= _LARGEST_READ * level.downsample or side == 1:
        return slide.read(l0_box, Size(side, side))
    half, l0_half = side // 2, l0_box.width // 2
    rgb = np.empty((side, side, 3), np.uint8)
    for row, column in np.ndindex(2, 2):
        quarter = Box(l0_box.x + column * l0_half, l0_box.y + row * l0_half, l0_half, l0_half)
        spot = np.s_[row * half : (row + 1) * half, column * half : (column + 1) * half]
        rgb[spot] = read_square(slide, quarter, half)
    return rgb
