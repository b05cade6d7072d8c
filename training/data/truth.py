"""What is known of a pixel, as one number: its class, that it is one of several, or nothing.

A pixel that was judged has its class, 0 to 3. Some sets know less: that a nucleus is there but not
of which class, or that there is no tumour but not what there is instead. Such a pixel has the
number of a *set* of classes, one of which is true; losses ask for no more than that, and metrics
leave it out. Two numbers are left: nothing is known, and nothing but that a tumour is near.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.model.architecture import CLASSES

IGNORED: Final = 255
"""Nobody judged the pixel: losses and confusion matrices leave it out."""

TUMOUR_NEAR: Final = 254
"""Nobody judged the pixel, but some of the picture's pixels that are so marked are malignant."""

_SET: Final = 1 << len(CLASSES)


def one_of(*names: str) -> int:
    """Return the number of pixels that are of one of these classes."""
    if len(names) == 1:
        return CLASSES.index(names[0])
    return _SET | sum(1 << CLASSES.index(name) for name in names)


NUCLEUS: Final = one_of("lymphocyte", "normal", "malignant")
"""A nucleus of unknown class."""
BENIGN_NUCLEUS: Final = one_of("lymphocyte", "normal")
NO_TUMOUR: Final = one_of("background", "lymphocyte", "normal")
"""Whatever it is, it is not malignant."""

EVERYTHING: Final = _SET - 1


def _possible() -> NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    table[: len(CLASSES)] = 1 << np.arange(len(CLASSES))
    table[_SET : 2 * _SET] = np.arange(_SET)
    table[[IGNORED, TUMOUR_NEAR]] = EVERYTHING
    return table


POSSIBLE: Final = _possible()
"""``[256]``: which classes a pixel of a number may be of, a bit each; 0 where there is no such
number."""


def _numbers() -> NDArray[np.uint8]:
    table = np.arange(_SET, 2 * _SET, dtype=np.uint8)
    table[1 << np.arange(len(CLASSES))] = np.arange(len(CLASSES))
    table[[0, EVERYTHING]] = IGNORED
    return table


NUMBER_OF: Final = _numbers()
"""``[16]``: the number of each set of classes, the inverse of ``POSSIBLE``."""


def unsure_at_edges(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Let each pixel at the edge of an outline be of what lies on either side of it.

    An outline is drawn to a pixel or two, and a network that is asked for more learns its errors.
    What nobody judged makes nothing unsure.

    Args:
        mask: numbers of pixels, ``[H, W]``.

    """
    own = POSSIBLE[mask]
    known = np.where(own == EVERYTHING, np.uint8(0), own)
    either = known.copy()
    either[1:] |= known[:-1]
    either[:-1] |= known[1:]
    either[:, 1:] |= known[:, :-1]
    either[:, :-1] |= known[:, 1:]
    return np.where(own == EVERYTHING, mask, NUMBER_OF[either])
