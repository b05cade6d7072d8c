"""A finished result, opened: its figures, its tiles, its map, and how they are shown.

Nothing here scores or writes.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from wsi_pipeline.api.html import card, picture_uri
from wsi_pipeline.api.reading import (
    FINE_MAP,
    MAP,
    OUTLINE,
    THUMBNAIL,
    finished_summary,
    l0_bounds_of,
    place_of,
    read_map,
    read_picture,
    read_tiles,
)
from wsi_pipeline.errors import ConfigError, ResultError
from wsi_pipeline.outputs import figure
from wsi_pipeline.outputs.overlay import Drawn
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.words import percent
from wsi_pipeline.scoring.verify import slide_folders
from wsi_pipeline.shown import shown

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

PICTURE_PX = 520
"""Width of the picture that a notebook shows beside the figures."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One slide's result; `score` and `open_result` give it.

    Attributes:
        folder: where its files are.
        summary: all of `summary.json`, frozen. Figures are shares from 0 to 1, and
            `summary.cellularity` is None where `summary.status` is "refused".

    """

    folder: Path
    summary: SlideSummary

    @property
    def name(self) -> str:
        """What the slide is called: its file's name, or its pseudonym."""
        return self.summary.provenance.slide.name

    @cached_property
    def tiles(self) -> "pd.DataFrame":
        """The tissue tiles, a row each, with the columns of `tiles.parquet`.

        `wsi_pipeline.outputs.tile_table` documents them; what is null there is NaN here.

        Raises:
            ResultError: if the slide was refused, or the file is not this result's any more.
            ConfigError: if pandas is not installed.

        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise _lacks("pandas", "Tiles as a table") from error
        return read_tiles(self.folder, self.summary).to_pandas(ignore_metadata=True)

    @cached_property
    def map(self) -> "xr.DataArray":
        """The cellularity map, float32 [y, x], 0 to 1, NaN where nothing was scored.

        `x` and `y` are the centres of its cells in µm from the corner of the slide's level 0. As
        y grows downwards, xarray's own `map.plot` needs ``yincrease=False``. Of its attributes,
        `cell_um` is the side of a cell in µm and `mpp` the µm per level-0 pixel.

        Raises:
            ResultError: if the slide was refused, or the file is not this result's any more.
            ConfigError: if xarray is not installed.

        """
        return self._array(read_map(self.folder, self.summary, MAP))

    @cached_property
    def fine_map(self) -> "xr.DataArray":
        """The map in cells of 32 µm, as `map` is; `outputs.fine_map` tells how it comes about.

        Raises:
            ResultError: if the slide was refused, its model does not tell where cancer lies within
                a tile, or the file is not this result's any more.
            ConfigError: if xarray is not installed.

        """
        return self._array(read_map(self.folder, self.summary, FINE_MAP))

    def _array(self, score_map: ScoreMap) -> "xr.DataArray":
        """Return a map with coordinates."""
        try:
            import xarray as xr
        except ImportError as error:
            raise _lacks("xarray", "A map with coordinates") from error
        made = self.summary.provenance
        rows, columns = score_map.cellularity.shape
        x, y = score_map.l0_origin
        x_um = (x + (np.arange(columns) + 0.5) * score_map.l0_cell) * score_map.mpp
        y_um = (y + (np.arange(rows) + 0.5) * score_map.l0_cell) * score_map.mpp
        return xr.DataArray(
            score_map.cellularity,
            dims=("y", "x"),
            coords={
                "y": ("y", y_um, {"long_name": "distance from the upper edge", "units": "µm"}),
                "x": ("x", x_um, {"long_name": "distance from the left edge", "units": "µm"}),
            },
            name="cellularity",
            attrs={
                "long_name": "cellularity",
                "units": "1",
                "slide": made.slide.name,
                "model": f"{made.bundle.name} {made.bundle.version}",
                "cell_um": float(score_map.cell_um),
                "mpp": float(score_map.mpp),
            },
        )

    def plot(self, axes: "Axes | None" = None, *, opacity: float | None = None) -> "Axes":
        """Draw the map over the slide's thumbnail, with a scale bar and a colour bar.

        Colours run from 0 to 100 % on every slide, as in `overlay.png`; where nothing was scored
        the slide keeps its stain. The axes are in µm, as `map` is: more can be drawn on them.

        Args:
            axes: matplotlib's, to draw on; None makes a figure.
            opacity: share of the map's colour over the slide, 0 to 1; None is the overlay's.

        Returns:
            the axes.

        Raises:
            ResultError: if the slide was refused, or a file is not this result's any more.

        """
        drawing = self._drawing(opacity)
        if axes is None:
            from matplotlib import pyplot as plt

            size_in = (figure.WIDTH_IN, figure.height_in(drawing, figure.WIDTH_IN))
            axes = plt.figure(figsize=size_in, layout="constrained").add_subplot()
        figure.draw(axes, drawing)
        figure.entitle(axes, self.summary)
        return axes

    def _repr_html_(self) -> str:
        try:
            return card(self.summary, self._picture())
        except ResultError as error:
            return card(self.summary, None, str(error))

    def _picture(self) -> str:
        """Return the map over the slide, or a refused slide's tissue, as a small data URI."""
        if self.summary.status == "refused":
            picture = Image.fromarray(read_picture(self.folder, self.summary, OUTLINE))
            picture.thumbnail((PICTURE_PX, PICTURE_PX))
        else:
            picture = figure.picture_of(self._drawing(None), PICTURE_PX)
        return picture_uri(picture)

    def _drawing(self, opacity: float | None) -> figure.Drawing:
        config = self.summary.provenance.config.overlay
        if opacity is not None:
            config = config.model_copy(update={"opacity": opacity})
        finest = FINE_MAP if FINE_MAP in self.summary.outputs else MAP
        return figure.Drawing(
            rgb=read_picture(self.folder, self.summary, THUMBNAIL),
            l0_bounds=l0_bounds_of(self.folder, read_tiles(self.folder, self.summary)),
            drawn=Drawn.of(read_map(self.folder, self.summary, finest), config),
        )

    def __repr__(self) -> str:
        cellularity = self.summary.cellularity
        said = (
            f"refused: {self.summary.reason}"
            if cellularity is None
            else f"mean cellularity {percent(cellularity.mean)} over all tissue"
        )
        return shown(f"<Result of {self.name}: {said}; {self.folder}>")


def open_result(folder: str | Path) -> Result:
    """Open the finished result of one slide.

    Args:
        folder: the slide's own, which holds `summary.json`.

    Raises:
        ResultError: if there is no finished result, it is of another version, or a file of it is
            missing or damaged; the message names it and says what to do.

    """
    place = place_of(folder).absolute()
    return Result(place, finished_summary(place))


def open_results(folder: str | Path) -> list[Result]:
    """Open all finished results below a folder, sorted by their folders' names.

    Slides that are not finished, or whose results are damaged, are left out with a warning each.

    Args:
        folder: the one that was given as `out`.

    Raises:
        ConfigError: if there is no result at all.

    """
    results = []
    for place in slide_folders(place_of(folder).absolute()):
        try:
            results.append(Result(place, finished_summary(place)))
        except ResultError as error:
            warnings.warn(f"Left out. {error}", stacklevel=2)
    return results


def _lacks(package: str, what: str) -> ConfigError:
    return ConfigError(f"{what} takes {package}: `pip install wsi-pipeline[notebook]`.")
