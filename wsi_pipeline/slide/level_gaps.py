"""Where a level of a pyramid shows nothing, so that a finer one is asked what is there.

Writers that were interrupted, and some that save space, leave lower levels without tiles, or with
tiles of one colour, where finer levels hold the slide. What was scanned has noise: a place that is
one and the same colour throughout was either never scanned or never written.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Box

CELL_PX = 32
"""Side of the squares in which what is missing is sought: half of the smallest tiles'."""

RUN_CELLS = 8
"""Cells that are read at once, so that memory has a bound whatever the finer level's size."""

MAX_STEP = 8
"""Intensities by which one blank may differ from another."""


def blank_cells(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which cells of a picture are of one colour: bool [rows, columns] of cells."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % CELL_PX), (0, -width % CELL_PX), (0, 0)), mode="edge")
    shape = padded.shape[0] // CELL_PX, CELL_PX, padded.shape[1] // CELL_PX, CELL_PX, 3
    cells = padded.reshape(shape)
    return np.asarray((cells.max((1, 3)) == cells.min((1, 3))).all(axis=2))


def shows(pixels: NDArray[np.uint8], blank: NDArray[np.uint8]) -> bool:
    """Whether a finer level's pixels, [rows, columns, 3], are more than a blank of one colour."""
    low, high = pixels.min((0, 1)).astype(int), pixels.max((0, 1)).astype(int)
    return bool((low != high).any() or np.abs(low - blank.astype(int)).max() > MAX_STEP)


def cell_box(row: int, column: int) -> Box:
    """Return the pixels of a cell, from the picture's corner."""
    return Box(column * CELL_PX, row * CELL_PX, CELL_PX, CELL_PX)


def middle_of(box: Box) -> Box:
    """Return the middle of a cell, a sixteenth of its area."""
    quarter = max(1, box.width // 4), max(1, box.height // 4)
    return Box(
        box.x + (box.width - quarter[0]) // 2, box.y + (box.height - quarter[1]) // 2, *quarter
    )


def runs_around(cells: NDArray[np.bool_]) -> Iterator[Box]:
    """Give boxes of pixels over the cells and their neighbours, a row of a few cells each.

    What is missing begins and ends within the neighbours, which are not all blank.
    """
    grown = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    for row in range(grown.shape[0]):
        columns = np.flatnonzero(grown[row])
        breaks = np.flatnonzero(np.diff(columns) > 1) + 1
        for run in np.split(columns, breaks) if len(columns) else []:
            for start in range(0, len(run), RUN_CELLS):
                part = run[start : start + RUN_CELLS]
                first, last = cell_box(row, int(part[0])), cell_box(row, int(part[-1]))
                yield Box(first.x, first.y, last.right - first.x, CELL_PX)
