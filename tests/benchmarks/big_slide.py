"""A large slide made by repeating a real one, so that decoding costs what it costs in practice."""

from pathlib import Path

import cv2
import numpy as np
import tifffile

from tests.helpers import real_slides
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.slide import Slide

_CMU = real_slides.SLIDES / "cmu-1-small-region.svs"
SAMPLE = _CMU if _CMU.exists() else real_slides.SAMPLE
"""OpenSlide's; where it is not beside the checkout, the slide of `make demo`."""


def build(path: Path, repeats: int, *, source: Path = SAMPLE, colour: str = "420") -> None:
    """Write a JPEG pyramid at about 0.25 µm/px: the source at twice its size, repeated.

    The layout is Aperio's: 256 px tiles, quality 85, and levels at 1/4 and 1/16. Repeats are
    written tile row by tile row from one picture, so memory does not grow with them.

    Args:
        path: to write.
        repeats: of the picture, across and down.
        source: the picture.
        colour: "420", or "rgb" as in many of Aperio's own files.

    """
    with Slide.open(source) as slide:
        size, mpp = slide.l0_size, Mpp(slide.mpp / 2)
        rgb = slide.read(Box(0, 0, size.width, size.height), Size(size.width, size.height))
    rgb = cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    # Whole tiles of every level, so that repeats meet at tile borders.
    height, width = (side // 4096 * 4096 or 4096 for side in rgb.shape[:2])
    rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC))
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for downsample in (1, 4, 16):
            level = cv2.resize(
                rgb, (width // downsample, height // downsample), interpolation=cv2.INTER_AREA
            )
            density = 1e4 / (mpp * downsample)
            rows, columns = level.shape[0] // 256, level.shape[1] // 256
            tiff.write(
                (
                    level[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256]
                    for _ in range(repeats)
                    for row in range(rows)
                    for _ in range(repeats)
                    for column in range(columns)
                ),
                shape=(level.shape[0] * repeats, level.shape[1] * repeats, 3),
                dtype=np.uint8,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={
                    "level": 85,
                    **({"outcolorspace": "rgb"} if colour == "rgb" else {}),
                },
                subfiletype=1 if downsample > 1 else 0,
                resolution=(density, density),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
