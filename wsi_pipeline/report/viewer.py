"""The picture of the page: the slide, its maps, its tissue and its bed, to zoom, pan and draw on.

Places are in mm from the corner of the slide's level 0, y upwards and so negative, since Bokeh's
scale bar and axes know lengths. The page's own script (`page.js`) moves what is here.
"""

import base64
import io

import cv2
import numpy as np
import shapely
from bokeh.models import (
    ColumnDataSource,
    FreehandDrawTool,
    LinearColorMapper,
    MetricLength,
    PolyDrawTool,
    PolyEditTool,
    Range1d,
    ScaleBar,
    WMTSTileSource,
)
from bokeh.plotting import figure
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.bed.outline import Bed
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.colours import OPACITY, SHOWN_FROM, Palette, colours
from wsi_pipeline.outputs.contours import contours_of
from wsi_pipeline.outputs.maps import Maps
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.pages import data_uri
from wsi_pipeline.report.shown import PICTURE_PX, TILE_PX, Shown, TileSquare

STEPS = 250
"""A cellularity is told in as many steps of a byte, counted from 1; 0 is none."""

NEAREST_MM = 0.05
"""Width of the smallest part of a slide that fills the picture."""

PALETTES: dict[Palette, str] = {
    "blue-yellow": "blue to yellow",
    "viridis": "viridis",
    "cividis": "cividis",
    "plasma": "plasma",
}

_JPEG_QUALITY = 85
_HEIGHT_PX = 640
_BED_COLOUR = "#00684a"
_LINE_WIDTHS = {0.1: 1.0, 0.3: 1.75, 0.7: 2.75}
_TISSUE_COLOUR = "#444444"


def viewer(shown: Shown) -> figure:
    """Return the figure."""
    bounds, mm = shown.maps.l0_bounds, shown.maps.coarse.mpp / 1000
    left, right = bounds.x * mm, bounds.right * mm
    top, bottom = -bounds.y * mm, -bounds.bottom * mm
    plot = figure(
        x_range=Range1d(left, right, min_interval=NEAREST_MM),
        y_range=Range1d(bottom, top),
        match_aspect=True,
        height=_HEIGHT_PX,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        toolbar_location="above",
        background_fill_color="#f4f4f4",
        name="viewer",
    )
    plot.toolbar.logo = None
    plot.axis.visible = False
    plot.grid.visible = False
    plot.image_url(
        url=[_uri(shown.rgb)], x=left, y=top, w=right - left, h=top - bottom, anchor="top_left"
    )
    if shown.tiles is not None:
        _add_tiles(plot, shown.tiles, mm)
    _draw_map(plot, shown.maps.coarse, "tiles", visible=shown.maps.fine is None)
    if shown.maps.fine is not None:
        _draw_map(plot, shown.maps.fine, "fine", visible=True)
    lines = contours_of(shown.maps.shown)
    for level, width in _LINE_WIDTHS.items():
        of_level = [line.l0_xy * mm for line in lines if line.level == level]
        for colour, more in (("white", 1.5), ("#191919", 0.0)):
            plot.multi_line(
                xs=[points[:, 0] for points in of_level],
                ys=[-points[:, 1] for points in of_level],
                line_color=colour,
                line_width=width + more,
                name="lines",
            )
    outline = _outline(shown.mask, bounds)
    plot.multi_line(
        xs=[points[:, 0] * mm for points in outline],
        ys=[-points[:, 1] * mm for points in outline],
        line_color=_TISSUE_COLOUR,
        line_dash="dotted",
        visible=False,
        name="tissue",
    )
    tiles = shown.flagged.T * mm
    plot.quad(
        left=tiles[0],
        top=-tiles[1],
        right=tiles[2],
        bottom=-tiles[3],
        fill_alpha=0,
        line_alpha=0.4,
        line_color="#b00020",
        hatch_pattern="/",
        hatch_color="#b00020",
        hatch_alpha=0.7,
        visible=False,
        name="flagged",
    )
    _draw_bed(plot, shown.bed, mm)
    plot.add_layout(
        ScaleBar(
            range=plot.x_range,
            unit="mm",
            dimensional=MetricLength(),
            orientation="horizontal",
            location="bottom_right",
            background_fill_alpha=0.85,
        )
    )
    return plot


def map_data(maps: Maps) -> dict[str, object]:
    """Return the finest map for the page's script: where it lies, and its cells as base64."""
    shown = maps.shown
    rows, columns = shown.cellularity.shape
    return {
        "x": shown.l0_origin[0],
        "y": shown.l0_origin[1],
        "cell": shown.l0_cell,
        "rows": rows,
        "columns": columns,
        "mpp": float(shown.mpp),
        "score": _base64(in_steps(shown)),
        "tissue": _base64(np.rint(255 * maps.tissue).astype(np.uint8)),
        "unread": _base64(maps.unread.astype(np.uint8)),
    }


def in_steps(score_map: ScoreMap) -> NDArray[np.uint8]:
    """Return a map in bytes: 0 is none, 1 is 0 % and 251 is 100 %."""
    known = np.isfinite(score_map.cellularity)
    steps = 1 + np.rint(STEPS * np.where(known, score_map.cellularity, 0))
    return np.where(known, steps, 0).astype(np.uint8)


def hex_palettes() -> dict[str, list[str]]:
    """Return the scales by name, from 0 to 100 %, each colour as ``#rrggbb``."""
    return {
        name: [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours(name).tolist()]
        for name in PALETTES
    }


def _add_tiles(plot: figure, square: TileSquare, mm: float) -> None:
    """Show the slide's own pixels, as finely as the screen does."""
    side = TILE_PX * 2**square.zooms * mm
    source = WMTSTileSource(
        url="tiles/{Z}/{X}/{Y}.jpg",
        tile_size=TILE_PX,
        min_zoom=0,
        max_zoom=square.zooms,
        initial_resolution=side / TILE_PX,
        x_origin_offset=-square.l0_x * mm,
        y_origin_offset=side + square.l0_y * mm,
        wrap_around=False,
        snap_to_zoom=False,
    )
    plot.add_tile(source, name="slide")


def _draw_map(plot: figure, score_map: ScoreMap, name: str, *, visible: bool) -> None:
    mm = score_map.mpp / 1000
    rows, columns = score_map.cellularity.shape
    x, y = score_map.l0_origin
    colours_of = LinearColorMapper(
        palette=hex_palettes()["blue-yellow"],
        low=1 + STEPS * SHOWN_FROM,
        high=1 + STEPS,
        low_color="rgba(0, 0, 0, 0)",
        name=f"{name} colours",
    )
    plot.image(
        image=[np.ascontiguousarray(in_steps(score_map)[::-1])],
        x=x * mm,
        y=-(y + rows * score_map.l0_cell) * mm,
        dw=columns * score_map.l0_cell * mm,
        dh=rows * score_map.l0_cell * mm,
        color_mapper=colours_of,
        global_alpha=OPACITY,
        visible=visible,
        name=name,
    )


def _draw_bed(plot: figure, bed: Bed | None, mm: float) -> None:
    """Draw the bed, and give the plot the tools that draw and edit it."""
    rings = [] if bed is None else bed.rings()
    source = ColumnDataSource(
        {
            "xs": [(ring[:-1, 0] * mm).tolist() for ring in rings],
            "ys": [(-ring[:-1, 1] * mm).tolist() for ring in rings],
        },
        name="bed",
    )
    drawn = plot.patches(
        xs="xs",
        ys="ys",
        source=source,
        fill_color=_BED_COLOUR,
        fill_alpha=0.04,
        line_color=_BED_COLOUR,
        line_width=3,
        line_dash="dashed" if bed is None or bed.source == "proposed" else "solid",
        name="bed outline",
    )
    corners = plot.scatter([], [], size=9, fill_color="white", line_color=_BED_COLOUR)
    plot.add_tools(
        FreehandDrawTool(renderers=[drawn], description="Draw the tumour bed", name="draw"),
        PolyDrawTool(renderers=[drawn], description="Draw it by its corners", name="corners"),
        PolyEditTool(
            renderers=[drawn], vertex_renderer=corners, description="Edit its corners", name="edit"
        ),
    )


def _outline(mask: NDArray[np.bool_], bounds: Box) -> list[NDArray[np.float64]]:
    """Return the tissue's outlines in level-0 pixels, each float64 [points, 2]."""
    found, _ = cv2.findContours(
        np.pad(mask, 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    scale = np.array([bounds.width / mask.shape[1], bounds.height / mask.shape[0]])
    outlines = []
    for ring in found:
        if len(ring) > 2:
            line = shapely.LinearRing(ring[:, 0].astype(np.float64) - 0.5).simplify(1.0)
            outlines.append(shapely.get_coordinates(line) * scale + (bounds.x, bounds.y))
    return outlines


def _uri(rgb: NDArray[np.uint8]) -> str:
    encoded = io.BytesIO()
    picture = Image.fromarray(rgb)
    picture.thumbnail((PICTURE_PX, PICTURE_PX))
    picture.save(encoded, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return data_uri("image/jpeg", encoded.getvalue())


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
