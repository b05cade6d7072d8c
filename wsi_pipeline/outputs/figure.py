"""The map over the slide's thumbnail as a matplotlib figure: ``overlay.png``, and for notebooks."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.colours import colour_map
from wsi_pipeline.outputs.estimate import Estimate
from wsi_pipeline.outputs.overlay import Drawn
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.thumbnails import PNG_EFFORT
from wsi_pipeline.shown import shown

LONGEST_NAME = 48
"""Letters of a slide's name that a title shows."""

WIDTH_IN = 6.4
"""Of a figure, in inches."""

_DOTS_PER_INCH = 110

_BESIDE_IN = 1.1
"""What the colour bar takes of the width."""

_PICTURE_IN = 14.0
"""Width of ``overlay.png``, at `_DOTS_PER_INCH`."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is drawn.

    Attributes:
        rgb: uint8 [rows, columns, 3], the slide within `l0_bounds` at any resolution.
        l0_bounds: in level-0 pixels.
        drawn: the map, and how it is drawn.

    """

    rgb: NDArray[np.uint8]
    l0_bounds: Box
    drawn: Drawn


def draw(axes: Axes, drawing: Drawing) -> None:
    """Draw the map over the slide, with a scale bar and a colour bar, in µm from level 0's corner.

    Args:
        axes: to draw on; a colour bar takes some of their room.
        drawing: what is drawn.

    """
    bounds, config = drawing.l0_bounds, drawing.drawn.config
    mpp = drawing.drawn.score_map.mpp
    left_um, right_um = bounds.x * mpp, bounds.right * mpp
    top_um, bottom_um = bounds.y * mpp, bounds.bottom * mpp
    axes.imshow(
        drawing.drawn.over(drawing.rgb, bounds),
        extent=(left_um, right_um, bottom_um, top_um),
    )
    axes.set(xticks=[], yticks=[], xlim=(left_um, right_um), ylim=(bottom_um, top_um))
    length_um = scale_bar_um(right_um - left_um)
    bar = AnchoredSizeBar(
        axes.transData,
        length_um,
        length_text(length_um),
        loc="lower right",
        size_vertical=(bottom_um - top_um) / 150,
        borderpad=0.5,
        sep=4,
    )
    axes.add_artist(bar)
    axes.figure.colorbar(
        ScalarMappable(Normalize(0, 1), colour_map(config.opacity, config.palette)),
        ax=axes,
        label=f"Cellularity of the tissue; colours at {config.opacity:.0%} over it",
        format=PercentFormatter(1, symbol=" %"),
        ticks=np.linspace(0, 1, 6).tolist(),
        shrink=0.8,
    )


def entitle(axes: Axes, said: SlideSummary | Estimate) -> None:
    """Write above a drawing which slide it is, what its figure is a mean of, and of which model."""
    bundle = said.provenance.bundle
    what = ", a demonstration model" if bundle.demonstration else ""
    lines = [
        _short(said.provenance.slide.name),
        *(_of_estimate(said) if isinstance(said, Estimate) else _of_summary(said)),
        f"{_short(bundle.name)} {_short(bundle.version)}{what}. Research use only.",
    ]
    # Not as mathematics: a name may hold dollar signs.
    axes.set_title("\n".join(map(shown, lines)), loc="left", fontsize="small", parse_math=False)


def _of_summary(summary: SlideSummary) -> list[str]:
    cellularity = summary.cellularity
    if cellularity is None:
        return []
    interval = cellularity.mean_95_interval
    within = (
        f" (95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %)"
        if interval
        else ""
    )
    return [f"Mean over all tissue {100 * cellularity.mean:.1f} %{within}"]


def _of_estimate(estimate: Estimate) -> list[str]:
    where = {"tissue": "all tissue", "bed": "the tumour bed"}[estimate.of]
    bounds = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"
    within = f" ({100 * estimate.level:.0f} % interval {bounds})"
    return [
        f"Mean over {where} about {100 * estimate.mean:.1f} %{within}",
        f"Estimated from {estimate.scored:,} of {estimate.tiles:,} tiles; nothing else was scored",
    ]


def write_picture(path: Path, drawing: Drawing, said: SlideSummary | Estimate) -> None:
    """Write a drawing with its title as a PNG, as wide as a screen."""
    size_in = (_PICTURE_IN, height_in(drawing, _PICTURE_IN))
    figure = Figure(figsize=size_in, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    draw(axes, drawing)
    entitle(axes, said)
    options = {"compress_level": PNG_EFFORT}
    with atomic_path(path) as partial:
        # matplotlib would name its version, and two machines would give two files.
        about = {"Software": None}
        figure.savefig(partial, format="png", metadata=about, pil_kwargs=options)


def height_in(drawing: Drawing, width_in: float) -> float:
    """Return the height of a figure of this width that the slide's shape fills, in inches."""
    bounds = drawing.l0_bounds
    return min(2 * width_in, (width_in - _BESIDE_IN) * bounds.height / bounds.width + 0.6)


def picture_of(drawing: Drawing, width_px: int) -> Image.Image:
    """Return a drawing without a title as a picture, in RGB."""
    width_in = width_px / _DOTS_PER_INCH
    size_in = (width_in, height_in(drawing, width_in))
    figure = Figure(figsize=size_in, dpi=_DOTS_PER_INCH, layout="constrained")
    draw(figure.add_subplot(), drawing)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


def scale_bar_um(width_um: float) -> float:
    """Return a round length, 1, 2 or 5 times a power of ten, of at most a quarter of the width."""
    most = width_um / 4
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def length_text(length_um: float) -> str:
    """Return a length with its unit."""
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def _short(name: str) -> str:
    """Return the beginning and the end of a name that is too long for a title."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
