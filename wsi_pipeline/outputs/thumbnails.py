"""Pictures of a whole slide for reports: the slide by itself, and what was taken for tissue."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.tissue import outline_picture

PNG_EFFORT = 3
"""Of 9: a second less for each picture, and a tenth more bytes."""

LONG_SIDE_PX = 1600


def picture_mpp(slide: Slide, long_side_px: int = LONG_SIDE_PX) -> Mpp:
    """Return the pixel size at which the slide's long side is so long, or its own if coarser."""
    l0_long_side = max(slide.l0_bounds.width, slide.l0_bounds.height)
    return Mpp(slide.mpp * max(1.0, l0_long_side / long_side_px))


def write_thumbnail(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 [rows, columns, 3], as a PNG."""
    with atomic_path(path) as partial:
        Image.fromarray(rgb).save(partial, compress_level=PNG_EFFORT)


def write_tissue_pictures(folder: Path, slide: Slide, mask: NDArray[np.bool_]) -> None:
    """Write ``thumbnail.png``, ``tissue-outline.png`` and ``tissue.png``, the mask as it is.

    Args:
        folder: where the pictures go; it exists.
        slide: the slide.
        mask: bool [rows, columns] over the slide's bounds, True where there is tissue.

    """
    picture = slide.thumbnail(picture_mpp(slide))
    size = (picture.shape[1], picture.shape[0])
    drawn = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    write_thumbnail(folder / "thumbnail.png", picture)
    write_thumbnail(
        folder / "tissue-outline.png", outline_picture(picture, np.asarray(drawn, np.bool_))
    )
    with atomic_path(folder / "tissue.png") as partial:
        Image.fromarray(mask.astype(np.uint8) * 255).save(partial)
