"""What `Slide` needs of a library that decodes slides, and what its readers share."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Literal, Protocol

import numpy as np

from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.slide.resample import Rgb, area_mean
from wsi_pipeline.slide.stated_mpp import Statement
from wsi_pipeline.slide.tiff.compressed_tiles import Rescue

Backend = Literal["auto", "openslide", "tiffslide"]
APERIO, DICOM, GENERIC_TIFF = "aperio", "dicom", "generic-tiff"
PLAIN_VENDORS = frozenset({APERIO, GENERIC_TIFF})
"""Where both readers agree pixel by pixel, tiffslide is chosen: it decodes three times as fast."""
SHRUNK_AT_ONCE_PX = 1 << 24
"""What is read at most to be shrunk by a reader that has no better way."""


class Reader(Protocol):
    """What `Slide` needs of a reading library. Reads stay within the level."""

    vendor: str
    sizes: tuple[Size, ...]
    """Of all levels."""
    downsamples: tuple[float | None, ...]
    """Of the levels, where the format itself says it; None where it is for the sizes to tell."""
    l0_bounds: Box | None
    mpp: Statement | None
    """What the format itself says; what every TIFF may say is not the reader's to tell."""
    objective_power: Statement | None
    shrinks: tuple[tuple[int, ...], ...]
    """For each level, by which whole numbers it is read smaller for less than at its full size."""
    rescue: Rescue | None
    """Asked for the tiles that cannot be decoded, where the library says which they are."""

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level; raises whatever the library raises.

        Args:
            level: its index.
            box: in pixels of the level at one part in `shrink` of its sides.
            shrink: 1, or what the reader in use offers for the level: the other one does it, too.

        """
        ...

    def is_spent(self, error: Exception) -> bool:
        """Tell whether it can read nothing more after this error."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def shrunk(read: Callable[[Box], Rgb], box: Box, shrink: int) -> Rgb:
    """Read a box at a part of its size by area means, in bands whose memory has a bound."""
    rows = max(1, SHRUNK_AT_ONCE_PX // (box.width * shrink**2))
    bands = [
        area_mean(read(Box(*(side * shrink for side in astuple(band)))), shrink, shrink)
        for top in range(box.y, box.bottom, rows)
        for band in [Box(box.x, top, box.width, rows).intersection(box)]
    ]
    return np.concatenate(bands)


def sizes_of(dimensions: Sequence[tuple[int, int]]) -> tuple[Size, ...]:
    """Return the sizes of levels, given (width, height) of each.

    Raises:
        ValueError: if a level has no pixels.

    """
    if any(min(sides) < 1 for sides in dimensions):
        raise ValueError("a level of the pyramid has no pixels")
    return tuple(Size(width, height) for width, height in dimensions)
