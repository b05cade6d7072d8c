"""Whether the lower levels of a pyramid show what level 0 shows.

Nothing in a plain TIFF says that a picture of half the size is the same section: it may be another
section, a cut-out, or a level whose true scale its padding hides. Its size and tags agree, and only
its pixels tell. So a few spots, spread over the level, are compared with the same places of the
next finer one.
"""

import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.slide.pyramid import Level

log = logging.getLogger(__name__)

SPOTS = 5
"""Along each side: a spot takes a tile of the level and some of the finer one."""

SPOT_PX = 64
MIN_SPOT_PX = 8
MAX_FINER_PX = 512
"""Longest side of what is read of the finer level for a spot."""

COARSER = 4
"""Spots are compared at one part in so many: writers smooth, sharpen and leave out pixels."""

LEAST_CONTRAST = 8.0
"""Standard deviation, in intensities, below which there is nothing to compare."""

LEAST_PX = 64
"""Fewer places than this, of `COARSER` pixels a side, tell nothing."""

LEAST_LIKENESS = 0.8
"""Correlation over the places that were written. The same ones reach 0.9, however a level is made;
those of a level off by 20 of its pixels fall below 0.77, and other sections to 0.2."""

ReadLevel = Callable[[int, Box], NDArray[np.uint8]]
"""Reads whole pixels, uint8 RGB [rows, columns, 3], of a level by its index; may raise."""


def unlike_levels(levels: Sequence[Level | None], read: ReadLevel) -> list[int]:
    """Return the indices of the levels that show something else than the finer ones.

    Levels that show too little to tell, as glass does or what cannot be decoded, are not among
    them.
    """
    placed = [(index, level) for index, level in enumerate(levels) if level is not None]
    placed.sort(key=lambda each: each[1].downsample)
    unlike = []
    finer, *lower = placed
    for index, level in lower:
        if _likeness(finer, (index, level), read) < LEAST_LIKENESS:
            unlike.append(index)
        else:
            finer = index, level
    return unlike


def _likeness(finer: tuple[int, Level], own: tuple[int, Level], read: ReadLevel) -> float:
    """Return the correlation of a level with a finer one over all spots; 1 if there is no telling.

    Both are taken as intensities of each colour, and their means over all spots are removed.
    """
    ours, theirs = [], []
    scale = own[1].downsample / finer[1].downsample
    for spot in _spots(own[1].size, scale):
        left, top = round(spot.x * scale), round(spot.y * scale)
        right, bottom = round(spot.right * scale), round(spot.bottom * scale)
        place = Box(left, top, right - left, bottom - top)
        if place.intersection(Box(0, 0, finer[1].size.width, finer[1].size.height)) != place:
            continue
        try:
            here, there = read(own[0], spot), read(finer[0], place)
        # Damage is for who needs the place to find; decoders raise errors without a common root.
        except Exception as error:  # noqa: BLE001
            log.debug("%s of level %d is not compared: %s", spot, own[0], error)
            continue
        side = spot.width // COARSER
        written = _shrunk(here.astype(np.float32) ** 2, side) - _shrunk(here, side) ** 2 > 0.01
        ours.append(_shrunk(here, side)[written.any(axis=2)])
        theirs.append(_shrunk(there, side)[written.any(axis=2)])
    one, other = (np.concatenate([np.empty((0, 3)), *each]) for each in (ours, theirs))
    if len(one) < LEAST_PX:
        return 1.0
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    if max(one.std(), other.std()) < LEAST_CONTRAST:
        return 1.0
    return float((one * other).mean() / max(one.std() * other.std(), 1.0))


def _spots(size: Size, scale: float) -> list[Box]:
    """Spread squares evenly over a level."""
    side = min(SPOT_PX, int(MAX_FINER_PX / scale), size.width, size.height) // COARSER * COARSER
    if side < MIN_SPOT_PX:
        return []
    columns = np.linspace(0, size.width - side, SPOTS).astype(int)
    rows = np.linspace(0, size.height - side, SPOTS).astype(int)
    return [Box(int(x), int(y), side, side) for y in rows for x in columns]


def _shrunk(rgb: NDArray[np.uint8 | np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(
        cv2.resize(rgb.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32
    )
