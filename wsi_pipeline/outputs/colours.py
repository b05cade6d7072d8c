"""The colours of cellularity, and the legend that explains them.

The scale runs from 0 to 100 % on every slide, never stretched to the slide's own range, so a colour
means the same everywhere. It is viridis without its first quarter: perceptually uniform, the same
to the common colour deficiencies, and from blue to yellow of no colour that H&E has. Of what was
tried on breast sections (a frozen one, a pale one and a carcinoma) all of viridis begins with the
purple of haematoxylin, cividis turns grey over stained tissue, plasma passes for eosin, and a scale
from light to dark blue hides the nuclei where they matter most. Those that are uniform can be had
by name.
"""

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from wsi_pipeline.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

# matplotlib is imported where it is used: half of the commands' start would be its.

Palette = Literal["blue-yellow", "viridis", "cividis", "plasma"]
"""Names of scales; "blue-yellow" is viridis from its blue on."""

DEFAULT_PALETTE: Palette = "blue-yellow"

OPACITY = 0.45
"""Share of the map's colour where it covers the slide; the rest is the slide in its own stain."""

TISSUE_RGB = (217, 170, 203)
"""About the mean colour of stained tissue, under the colours of the legend."""

_BLUE_OF_VIRIDIS = 0.25

SHOWN_FROM = 0.05
"""Below this a cellularity has no colour: the slide is shown as it is. Fat, stroma and healthy
tissue, most of many sections, would lie under the darkest wash of all."""


def colourise(cellularity: ArrayLike, palette: Palette = DEFAULT_PALETTE) -> NDArray[np.uint8]:
    """Return the colour of each cellularity on the fixed scale of 0 to 1.

    Args:
        cellularity: float [...], 0 to 1; what is outside is shown as the nearer end.
        palette: the scale.

    Returns:
        uint8 [..., 3], RGB; black where the cellularity is NaN.

    """
    cellularity = np.asarray(cellularity, np.float32)
    known = np.isfinite(cellularity)
    steps = np.rint(np.clip(np.where(known, cellularity, 0), 0, 1) * 255).astype(np.uint8)
    return np.where(known[..., None], colours(palette)[steps], 0).astype(np.uint8)


def over_tissue(opacity: float, palette: Palette = DEFAULT_PALETTE) -> NDArray[np.uint8]:
    """Return a scale as it looks on the slide, uint8 [256, 3], RGB."""
    blended = opacity * colours(palette) + (1 - opacity) * np.array(TISSUE_RGB)
    return np.asarray(np.rint(blended), np.uint8)


def colour_map(opacity: float, palette: Palette = DEFAULT_PALETTE) -> "ListedColormap":
    """Return `over_tissue` for matplotlib, white where the slide is shown as it is."""
    from matplotlib.colors import ListedColormap

    scale = over_tissue(opacity, palette) / 255
    scale[: round(255 * SHOWN_FROM)] = 1
    return ListedColormap(scale)


def write_legend(path: Path, opacity: float = OPACITY, palette: Palette = DEFAULT_PALETTE) -> None:
    """Write the colour scale, 0 to 100 %, as a PNG: pure, and as it looks over tissue."""
    with atomic_path(path) as partial:
        _legend(480, opacity, palette).save(partial)


def _legend(height_px: int, opacity: float, palette: Palette) -> Image.Image:
    """Draw the colour scale; what has no colour on the slide has none here."""
    from matplotlib.figure import Figure

    dots_per_inch = 100
    figure = Figure(figsize=(1.3, height_px / dots_per_inch), dpi=dots_per_inch)
    axes = figure.add_axes((0.1, 0.05, 0.36, 0.9))
    for column, scale in enumerate((colours(palette), over_tissue(opacity, palette))):
        axes.imshow(
            scale[round(255 * SHOWN_FROM) :][::-1, None],
            aspect="auto",
            extent=(column, column + 1, 100 * SHOWN_FROM, 100),
            interpolation="nearest",
        )
    axes.set_xlim(0, 2)
    axes.set_ylim(0, 100)
    axes.set_xticks([])
    axes.set_yticks(range(0, 101, 10))
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(f"Cellularity (%); right: over tissue, at {opacity:.0%}", fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


@cache
def colours(palette: Palette = DEFAULT_PALETTE) -> NDArray[np.uint8]:
    """Return a scale as uint8 [256, 3], RGB."""
    import matplotlib as mpl

    from_blue = palette == "blue-yellow"
    first = _BLUE_OF_VIRIDIS if from_blue else 0.0
    scale = mpl.colormaps["viridis" if from_blue else palette]
    return np.asarray(np.rint(scale(np.linspace(first, 1, 256))[:, :3] * 255), np.uint8)
