"""The colours of cellularity, and the legend that explains them.

The scale is viridis, always from 0 to 100 %, never stretched to the slide's own range, so a colour
means the same on every slide. It is perceptually uniform and reads the same with the common colour
deficiencies. Of the maps that are (cividis, inferno and plasma were tried on breast sections) it is
the one whose blues, greens and yellows H&E itself does not have: blended over stained tissue
cividis turns grey, and inferno and plasma pass for eosin.
"""

import io
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from wsi_pipeline.files import atomic_path

COLOUR_MAP = "viridis"

SHOWN_FROM = 0.05
"""Below this a cellularity has no colour: the slide is shown as it is. Fat, stroma and healthy
tissue, most of many sections, would lie under the darkest wash of all."""


def colourise(cellularity: ArrayLike) -> NDArray[np.uint8]:
    """Return the colour of each cellularity on the fixed scale of 0 to 1.

    Args:
        cellularity: float [...], 0 to 1; what is outside is shown as the nearer end.

    Returns:
        uint8 [..., 3], RGB; black where the cellularity is NaN.

    """
    cellularity = np.asarray(cellularity, np.float32)
    known = np.isfinite(cellularity)
    steps = np.rint(np.clip(np.where(known, cellularity, 0), 0, 1) * 255).astype(np.uint8)
    return np.where(known[..., None], _colours()[steps], 0).astype(np.uint8)


def write_legend(path: Path) -> None:
    """Write the colour scale, 0 to 100 %, as a PNG."""
    with atomic_path(path) as partial:
        legend(height_px=480).save(partial)


def legend(height_px: int) -> Image.Image:
    """Draw the colour scale, 0 to 100 %, as an RGB picture of this height in pixels.

    What has no colour on the slide has none here.
    """
    dots_per_inch = 100
    figure = Figure(figsize=(1.1, height_px / dots_per_inch), dpi=dots_per_inch)
    axes = figure.add_axes((0.12, 0.05, 0.2, 0.9))
    shown = _colours()[round(255 * SHOWN_FROM) :]
    axes.imshow(
        shown[::-1, None],
        aspect="auto",
        extent=(0, 1, 100 * SHOWN_FROM, 100),
        interpolation="nearest",
    )
    axes.set_ylim(0, 100)
    axes.set_xticks([])
    axes.set_yticks(range(0, 101, 10))
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("Cellularity (%)")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


@cache
def _colours() -> NDArray[np.uint8]:
    """Return the colour map as uint8 [256, 3], RGB."""
    colours = mpl.colormaps[COLOUR_MAP](np.arange(256))[:, :3]
    return np.asarray(np.rint(colours * 255), np.uint8)
