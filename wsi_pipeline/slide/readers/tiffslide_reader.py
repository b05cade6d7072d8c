"""Slides read by tiffslide: TIFFs, by paths and URLs.

Of plain tiled TIFFs tiffslide reads the headers alone, and `slide.tiff.compressed_tiles` the tiles.
"""

import warnings
from contextlib import ExitStack
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import tiffslide

from wsi_pipeline.errors import ColourError
from wsi_pipeline.files import open_binary
from wsi_pipeline.geometry import Box
from wsi_pipeline.slide.readers.protocol import APERIO, GENERIC_TIFF, shrunk, sizes_of
from wsi_pipeline.slide.resample import Rgb
from wsi_pipeline.slide.stated_mpp import length_statement, power_statement
from wsi_pipeline.slide.tiff.colour import ColourTags, over_white
from wsi_pipeline.slide.tiff.compressed_tiles import (
    Rescue,
    SharedFile,
    TiledLevels,
    guard,
    plain_pages,
)

# It tells the terminal, and not the caller, which formats it knows little of.
warnings.filterwarnings("ignore", module="tiffslide")

TIFFSLIDE_MPP = ("tiffslide.mpp-x", "tiffslide.mpp-y")


class TiffSlideReader:
    """Reads TIFFs, by paths and URLs."""

    def __init__(self, location: str) -> None:
        self._file = ExitStack()
        try:
            # Opened here, since tiffslide hands names to fsspec.
            file: Any = self._file.enter_context(open_binary(location))
            self._slide = tiffslide.TiffSlide(file)
            self._read_header(file, location)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, file: BinaryIO, location: str) -> None:
        properties = self._slide.properties
        self.vendor = str(properties["tiffslide.vendor"] or GENERIC_TIFF)
        self.sizes = sizes_of(self._slide.level_dimensions)
        self.downsamples: tuple[float | None, ...] = (None,) * len(self.sizes)
        self.l0_bounds: Box | None = None
        x, y = ("aperio.MPP",) * 2 if self.vendor == APERIO else TIFFSLIDE_MPP
        self.mpp = (
            None
            if self.vendor == GENERIC_TIFF
            else length_statement(_text(properties.get(x)), _text(properties.get(y)))
        )
        self.objective_power = power_statement(_text(properties["tiffslide.objective-power"]))
        series = self._slide.ts_tifffile.series[properties["tiffslide.series-index"]]
        for level in series.levels:
            guard(level.keyframe, location)
        pages = plain_pages(series, properties)
        self._tiles = None if pages is None else TiledLevels(pages, SharedFile(file))
        self.shrinks = self._tiles.shrinks if self._tiles else ((),) * len(self.sizes)
        self._extra: tuple[int, ...] = ()
        for level in series.levels:
            tags = ColourTags.of(level.keyframe)
            refusal = tags.refusal() or (None if self._tiles else tags.refusal_unless_tiled())
            if refusal:
                raise ColourError(f"{location}: {refusal}.")
            self._extra = tags.extra

    @property
    def rescue(self) -> Rescue | None:
        """Asked for the tiles that cannot be decoded, where the library says which they are."""
        return self._tiles.rescue if self._tiles else None

    @rescue.setter
    def rescue(self, rescue: Rescue | None) -> None:
        if self._tiles:
            self._tiles.rescue = rescue

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level, shrunk in the decoder or by their area mean."""
        if self._tiles is not None:
            return self._tiles.read(level, box, shrink)
        if shrink > 1:
            return shrunk(partial(self.read_level, level), box, shrink)
        # The library divides by its own downsample and truncates: stay off the rounding edge.
        downsample = self._slide.level_downsamples[level]
        nudge = 1e-6 if downsample > 1 else 0.0
        l0_x, l0_y = (int(np.ceil(start * downsample + nudge)) for start in (box.x, box.y))
        pixels = self._slide.read_region(
            (l0_x, l0_y), level, (box.width, box.height), as_array=True
        )
        return np.ascontiguousarray(over_white(pixels, self._extra))

    def is_spent(self, error: Exception) -> bool:
        """Tell whether the file handle may have gone stale; a damaged tile does no harm."""
        return isinstance(error, OSError)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
        self._file.close()


def _text(value: object) -> str | None:
    return None if value is None else str(value)
