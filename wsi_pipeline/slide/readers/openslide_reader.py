"""Slides read by OpenSlide: every vendor's format that it knows."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import openslide

from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.slide.readers.protocol import GENERIC_TIFF, PLAIN_VENDORS, shrunk, sizes_of
from wsi_pipeline.slide.readers.quiet_libraries import hushed
from wsi_pipeline.slide.resample import Rgb
from wsi_pipeline.slide.stated_mpp import length_statement, power_statement
from wsi_pipeline.slide.tiff.colour import UNASSOCIATED, over_white
from wsi_pipeline.slide.tiff.compressed_tiles import Rescue, require_believed

_DICOM_SPACING = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[{}]"
VENDORS_MPP = (
    (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y, "µm"),
    ("aperio.MPP", "aperio.MPP", "µm"),
    (
        "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X",
        "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_Y",
        "µm",
    ),
    ("ventana.ScanRes", "ventana.ScanRes", "µm"),
    (_DICOM_SPACING.format(1), _DICOM_SPACING.format(0), "mm"),
)
"""OpenSlide's properties of the pixel size along x and y: what it understands, then a vendor's."""
VENDORS_POWER = (
    "aperio.AppMag",
    "dicom.ObjectiveLensPower",
    "hamamatsu.SourceLens",
    "leica.objective",
    "mirax.GENERAL.OBJECTIVE_MAGNIFICATION",
    "sakura.NominalLensMagnification",
    "trestle.Objective Power",
    "ventana.Magnification",
)


class OpenSlideReader:
    """Reads what OpenSlide reads."""

    def __init__(self, location: str) -> None:
        self.rescue: Rescue | None = None
        self._location = location
        with hushed():
            self._slide = openslide.OpenSlide(location)
        try:
            self._read_header()
        except BaseException:
            self._slide.close()
            raise

    def _read_header(self) -> None:
        properties = self._slide.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.sizes = sizes_of(self._slide.level_dimensions)
        self.downsamples = tuple(
            None if math.isclose(own, divided, rel_tol=1e-9) else own
            for own, divided in zip(
                self._slide.level_downsamples, _quotients(self.sizes), strict=True
            )
        )
        self.shrinks: tuple[tuple[int, ...], ...] = ((),) * len(self.sizes)
        # The library leaves out what it does not understand, and keeps it under a vendor's name.
        stated = (
            length_statement(properties.get(x), properties.get(y), unit)
            for x, y, unit in VENDORS_MPP
        )
        self.mpp = None if self.vendor == GENERIC_TIFF else next(filter(None, stated), None)
        powers = map(properties.get, (openslide.PROPERTY_NAME_OBJECTIVE_POWER, *VENDORS_POWER))
        self.objective_power = power_statement(next(filter(None, powers), None))
        bounds = [
            properties.get(name)
            for name in (
                openslide.PROPERTY_NAME_BOUNDS_X,
                openslide.PROPERTY_NAME_BOUNDS_Y,
                openslide.PROPERTY_NAME_BOUNDS_WIDTH,
                openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
            )
        ]
        known = [int(value) for value in bounds if value is not None]
        self.l0_bounds = Box(*known) if len(known) == len(bounds) else None
        if self.vendor in PLAIN_VENDORS:
            require_believed(self._location)

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level, shrunk by their area mean."""
        if shrink > 1:
            return shrunk(partial(self.read_level, level), box, shrink)
        # The library wants level-0 coordinates and divides by its own downsample.
        downsample = self._slide.level_downsamples[level]
        l0_corner = (round(box.x * downsample), round(box.y * downsample))
        rgba = np.asarray(self._slide.read_region(l0_corner, level, (box.width, box.height)))
        return np.ascontiguousarray(over_white(rgba, (UNASSOCIATED,)))

    def is_spent(self, error: Exception) -> bool:
        """Tell whether the error is the library's own: it then refuses all further reads."""
        return isinstance(error, openslide.OpenSlideError)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def detected_vendor(location: str) -> str | None:
    """Return the vendor by OpenSlide's word; None if it does not know the file."""
    with hushed():
        vendor: str | None = openslide.OpenSlide.detect_format(location)
    return vendor


def _quotients(sizes: Sequence[Size]) -> Iterator[float]:
    """Give what OpenSlide takes for the scales of levels of which a format says none."""
    for size in sizes:
        yield (sizes[0].width / size.width + sizes[0].height / size.height) / 2
