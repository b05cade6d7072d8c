"""Units and frames, declared once.

Three frames, and every variable says by its prefix which it is in:

``l0_``
    level-0 pixels of the slide, counted from the file's own (0, 0), as OpenSlide and QuPath do;
    a slide's *bounds* are a box in this frame, never a shift of it
``t_``
    pixels at the target resolution (0.5 µm/px unless configured), origin at the bounds' corner
``m_``
    cells of the score map, one per stride, origin at the bounds' corner

Corners are ``(x, y)``; arrays are ``[row, column]``.
"""

from dataclasses import dataclass
from typing import NewType

Mpp = NewType("Mpp", float)
"""Micrometres per pixel."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels of the frame that the variable's prefix names."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle in pixels of the frame that the variable's prefix names."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column to the right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.height

    @property
    def size(self) -> Size:
        """The extent alone."""
        return Size(self.width, self.height)

    def intersection(self, other: "Box") -> "Box":
        """Return the common part; its width or height is 0 where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width = max(0, min(self.right, other.right) - x)
        height = max(0, min(self.bottom, other.bottom) - y)
        return Box(x, y, width, height)
