"""A generated picture with its truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import BoolField
from wsi_pipeline.model.architecture import CLASSES

BACKGROUND, LYMPHOCYTE, NORMAL, MALIGNANT = range(len(CLASSES))


@dataclass(frozen=True)
class Patch:
    """A generated picture and its truth; all arrays are ``[size, size]`` at 0.5 µm/px."""

    rgb: NDArray[np.uint8]
    """``[size, size, 3]``"""
    mask: NDArray[np.uint8]
    """class of the nucleus at each pixel, in the order of ``CLASSES``"""
    tumour: BoolField
    """pixels of malignant cells, nucleus and cytoplasm"""
    tissue: BoolField
    """pixels of the section, holes included"""

    @property
    def cellularity(self) -> float:
        """Area of malignant cells over area of tissue; 0 where there is no tissue."""
        return float(self.tumour.sum() / max(1, self.tissue.sum()))

    def window(self, x: int, y: int, size: int) -> "Patch":
        """Cut out a square with its exact truth; ``x, y`` is its corner."""
        rows, columns = slice(y, y + size), slice(x, x + size)
        return Patch(
            self.rgb[rows, columns],
            self.mask[rows, columns],
            self.tumour[rows, columns],
            self.tissue[rows, columns],
        )
