"""What was filled in where nothing was scanned, and dark fields.

What is filled in is rarely exactly black or white: exports leave any value, with the codec's
ringing or noise. It is told by two things that nothing on a slide has:

* It is black, flat and grey to within a level or two. The black ink of margins is brown or violet
  in transmitted light, pen bluish, and nuclei and folds hold the hues of their stains.
* It reaches the border, over some area, with one and the same colour, whatever that is. Glass and
  tissue vary.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

BLACK_BELOW = 64
"""Intensity below which flat grey is a filling wherever it lies."""

ANY_HUE_BELOW = 10
"""Intensity below which hues say nothing."""

MAX_HUE = 2.5
"""Difference of the channels, in intensities, up to which a pixel is grey."""

MAX_RANGE = 4.0
"""Difference, of neighbours and over a whole frame, up to which a colour is one."""

WHITE_ABOVE = 250
"""Intensity of all channels: as good as glass, which may well be overexposed."""

DARKER = 0.85
"""Of the brightest, which is glass: a frame that is as bright must be of one colour to the
last intensity and cover a whole side, or even glass would pass for one."""

WHOLE_SIDE = 0.95

LEAST_PX = 5
"""Side of the smallest square that is a filling, in pixels of some 4 to 8 µm."""

LEAST_FRAME = 0.005
"""Share of the picture that a frame has at least."""

GROWTH_PX = 2
"""By so much flatness misses the edges: its window and the smoothing before it."""

MAX_STEP = 12
"""What the codec's ringing adds there, in intensities."""

LIT_ABOVE = 40
GLASS_ABOVE = 102
"""Intensity of all channels: glass lets through two fifths of the light."""
LEAST_GLASS = 0.01
LEAST_DARK = 0.2
"""Share of a dark field that is dark."""


def unscanned(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what was filled in, bool [H, W], of RGB [H, W, 3] at about 8 µm/px."""
    return black(rgb) | _frame(rgb)


def black(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the black that was filled in, bool [H, W], of RGB [H, W, 3] at 4 to 8 µm/px."""
    smooth = _smooth(rgb)
    level, least = smooth.max(axis=2), smooth.min(axis=2)
    grey = (level - least <= MAX_HUE) | (level < ANY_HUE_BELOW)
    flat = _range(smooth).max(axis=2) <= MAX_RANGE
    return _grown(_opened(flat & grey & (level < BLACK_BELOW)), rgb)


def black_fraction(rgb: NDArray[np.uint8]) -> float:
    """Return the share of a tile, RGB [H, W, 3] at 0.5 µm/px, that was never scanned and is black.

    Judged at 4 µm/px, as ink is.
    """
    height, width = rgb.shape[:2]
    size = max(1, width // 8), max(1, height // 8)
    reduced = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return float(black(reduced).mean())


def between(hidden: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the hidden pixels that have tissue on two opposite sides, across what is hidden."""
    return hidden & (
        _between_along_rows(hidden, tissue) | _between_along_rows(hidden.T, tissue.T).T
    )


def is_dark_field(rgb: NDArray[np.uint8]) -> bool:
    """Tell a picture of light on a dark field, as fluorescence is, from one of stained tissue.

    Stain takes light away: its section lies on bright glass or fills the picture, and lets some
    light through in every channel. Light that shines has all shades down to the field's.

    Args:
        rgb: uint8 [H, W, 3], at some 8 µm/px.

    """
    level, least = rgb.max(axis=2), rgb.min(axis=2)
    smooth = _range(_smooth(rgb)).max(axis=2) <= MAX_RANGE
    if np.mean(smooth & (least > GLASS_ABOVE)) > LEAST_GLASS:
        return False
    filling = cv2.dilate(black(rgb).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    lit = ~filling & (level >= LIT_ABOVE)
    if not lit.any():
        return False
    # Eosin and haematoxylin may swallow all of the green, but never the red or blue as well.
    one_hued = np.median(np.median(rgb[lit], axis=1)) < LIT_ABOVE
    dim = np.mean(level[lit] < GLASS_ABOVE) > 0.5
    return bool(one_hued or (dim and np.mean(level < BLACK_BELOW) > LEAST_DARK))


def _frame(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what is of one colour and reaches the border."""
    smooth = _smooth(rgb)
    flat = _opened(_range(smooth).max(axis=2) <= MAX_RANGE)
    level = smooth.max(axis=2)
    seen = level[smooth.min(axis=2) < WHITE_ABOVE]
    if not len(seen):
        return np.zeros(flat.shape, np.bool_)
    as_bright = DARKER * np.percentile(seen, 99)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    frame = np.zeros(flat.shape, np.bool_)
    for label in np.unique(rim[rim > 0]):
        if stats[label, cv2.CC_STAT_AREA] < LEAST_FRAME * flat.size:
            continue
        part = labels == label
        is_darker = np.median(level[part]) < as_bright
        low, high = np.percentile((smooth if is_darker else rgb)[part], [2, 98], axis=0)
        sides = part[0], part[-1], part[:, 0], part[:, -1]
        covers_side = max(side.mean() for side in sides) > WHOLE_SIDE
        most = MAX_RANGE if is_darker else 0
        if (high - low).max() <= most and low.min() < WHITE_ABOVE and (is_darker or covers_side):
            frame |= part
    return _grown(frame, rgb)


def _smooth(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    smooth = cv2.blur(rgb.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth, np.float32)


def _range(values: NDArray[np.float32]) -> NDArray[np.float32]:
    square = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(values, square) - cv2.erode(values, square), np.float32)


def _grown(filling: NDArray[np.bool_], rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Add the edges of what is flat, as far as they are of its colour."""
    if not filling.any():
        return filling
    square = np.ones((2 * GROWTH_PX + 1, 2 * GROWTH_PX + 1), np.uint8)
    nearby = cv2.dilate(np.where(filling[..., None], rgb, np.uint8(0)), square)
    alike = np.abs(rgb.astype(np.int16) - nearby).max(axis=2) <= MAX_STEP
    return np.asarray(filling | (alike & (cv2.dilate(filling.astype(np.uint8), square) > 0)))


def _opened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    square = np.ones((LEAST_PX, LEAST_PX), np.uint8)
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, square) > 0)


def _between_along_rows(hidden: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    def of_left(hidden: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether the nearest visible pixel to the left is tissue; beyond the border none is."""
        columns = np.where(hidden, -1, np.arange(hidden.shape[1]))
        nearest = np.maximum.accumulate(columns, axis=1)
        found = np.take_along_axis(tissue, np.maximum(nearest, 0), axis=1)
        return np.asarray(found & (nearest >= 0))

    return of_left(hidden, tissue) & of_left(hidden[:, ::-1], tissue[:, ::-1])[:, ::-1]
