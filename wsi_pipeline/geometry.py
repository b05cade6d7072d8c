"""Units and frames, declared once.

There are two frames, and the prefix of a variable says which one it is in:

``l0_``
    level-0 pixels of the slide, counted from the file's own (0, 0), as OpenSlide and QuPath do;
    a slide's *bounds* are a box in this frame, never a shift of it
``m_``
    cells of the score map, one per stride, origin at the bounds' corner

Corners are ``(x, y)``; arrays are ``[row, column]``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

Mpp = NewType("Mpp", float)
"""Micrometres per pixel."""

MAX_UPSAMPLING_OF_LEVEL = 1.05
"""Pixels may be coarser than wanted by this much and still be read as they are."""


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
        """Return the common part; its width or height is 0 where there is none.

        >>> Box(0, 0, 10, 10).intersection(Box(4, 6, 10, 10))
        Box(x=4, y=6, width=6, height=4)
        """
        x, y = max(self.x, other.x), max(self.y, other.y)
        width = max(0, min(self.right, other.right) - x)
        height = max(0, min(self.bottom, other.bottom) - y)
        return Box(x, y, width, height)

    def pieces(self, width: int, height: int) -> Iterator["Box"]:
        """Cut the box into pieces of at most the given size, row by row.

        >>> tuple(piece.width for piece in Box(0, 0, 5, 2).pieces(2, 2))
        (2, 2, 1)
        """
        for top in range(self.y, self.bottom, height):
            for left in range(self.x, self.right, width):
                yield Box(left, top, width, height).intersection(self)
