"""A tumour bed's outline: read from GeoJSON, checked, and written as it will be read again.

Coordinates are level-0 pixels from the file's (0, 0), as QuPath counts. A bed is one polygon or
several, with holes or without. What QuPath exports is read as it is: a FeatureCollection, a list of
features, one feature, or a bare geometry.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic_core import from_json
from shapely.geometry import shape

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path, read_regular
from wsi_pipeline.geometry import Box, Size

BED = "bed.geojson"
"""Of a result's files."""

MAX_BYTES = 64 << 20
"""Of an outline."""

OUTSIDE_SHARE = 0.01
"""Share of a bed that may lie beyond the slide, as a hand slips at its edge; it is cut off."""

LEAST_PX = 1000
"""Square pixels of level 0 that a bed has at least: less is no bed, but a unit that was taken for
another."""

Source = Literal["drawn", "proposed"]


@dataclass(frozen=True, eq=False)
class Bed:
    """The outline of a tumour bed.

    Attributes:
        area: in level-0 pixels; whole ones, valid and not empty.
        source: who outlined it.

    """

    area: shapely.MultiPolygon
    source: Source

    @property
    def digest(self) -> str:
        """SHA-256 of the outline, wherever its rings begin."""
        return hashlib.sha256(shapely.to_wkb(shapely.normalize(self.area))).hexdigest()

    def rings(self) -> list[NDArray[np.float64]]:
        """Return all rings, holes too, each float64 [points, 2], closed."""
        return [
            shapely.get_coordinates(ring)
            for part in self.area.geoms
            for ring in (part.exterior, *part.interiors)
        ]


def read_bed(path: Path, l0_size: Size, slide: str) -> Bed:
    """Read the bed that somebody drew.

    Args:
        path: of the GeoJSON.
        l0_size: of the slide's level 0.
        slide: its name, for messages.

    Raises:
        ConfigError: naming the file and what is wrong with it.

    """
    try:
        content = read_regular(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such outline. Check the path of --bed.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(content):,} bytes are no outline of a tumour bed.")
    try:
        found = from_json(content)
    except ValueError as error:
        raise ConfigError(
            f"{path}: this is not JSON ({error}). Export the bed as GeoJSON again."
        ) from error
    _require_slide(path, found, l0_size, slide)
    polygons = [polygon for geometry in _geometries(path, found) for polygon in geometry.geoms]
    if not polygons:
        raise ConfigError(f"{path}: it holds no polygon. Outline the bed and export it again.")
    whole = Box(0, 0, l0_size.width, l0_size.height)
    return drawn_bed(shapely.MultiPolygon(polygons), whole, f"{path}", slide)


def drawn_bed(area: shapely.MultiPolygon, l0_slide: Box, origin: str, slide: str) -> Bed:
    """Return a drawn bed, cut at the slide's edges.

    Raises:
        ConfigError: if it crosses itself, or lies beyond the slide.

    """
    for number, polygon in enumerate(area.geoms, start=1):
        if not polygon.is_valid:
            raise ConfigError(
                f"{origin}: polygon {number} of {len(area.geoms)} is none "
                f"({shapely.is_valid_reason(polygon)}). Draw it without crossing its own line."
            )
    merged = shapely.union_all(list(area.geoms))
    frame = shapely.box(l0_slide.x, l0_slide.y, l0_slide.right, l0_slide.bottom)
    inside = merged.intersection(frame)
    if inside.area < (1 - OUTSIDE_SHARE) * merged.area:
        share = 1 - inside.area / merged.area
        raise ConfigError(
            f"{origin}: {share:.0%} of the bed lies beyond {slide}, which has {l0_slide.width} × "
            f"{l0_slide.height} px. It is another slide's, or not in pixels of its level 0."
        )
    bed = _whole_pixels(inside)
    if bed.area < LEAST_PX:
        raise ConfigError(
            f"{origin}: the bed has {merged.area:,.0f} square pixels, less than a nucleus or two. "
            f"Is it in pixels of the slide's level 0, or perhaps in µm or mm? Export it again."
        )
    return Bed(bed, "drawn")


def proposed_bed(area: shapely.Geometry) -> Bed | None:
    """Return a bed that nobody drew; None if there is nothing of it."""
    bed = _whole_pixels(area)
    return None if bed.is_empty else Bed(bed, "proposed")


def outline_of(path: Path) -> shapely.MultiPolygon:
    """Read the area that `write_bed` wrote: a result's own file, which is known to be whole."""
    parts = [
        part
        for feature in from_json(path.read_bytes())["features"]
        for part in shape(feature["geometry"]).geoms
    ]
    return shapely.MultiPolygon(parts)


def write_bed(path: Path, bed: Bed, *, slide: str, l0_size: Size) -> None:
    """Write a bed for QuPath, for the report's page, and to be read again."""
    polygons = [
        [
            shapely.get_coordinates(ring).astype(int).tolist()
            for ring in (part.exterior, *part.interiors)
        ]
        for part in bed.area.geoms
    ]
    about = {"slide": slide, "width_px": l0_size.width, "height_px": l0_size.height}
    name = "Tumour bed" if bed.source == "drawn" else "Proposed tumour bed"
    content = {
        "type": "FeatureCollection",
        "properties": {"coordinates": "level-0 pixels from the file's (0, 0)", **about},
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": polygons},
                "properties": {
                    "objectType": "annotation",
                    "name": name,
                    "classification": {"name": name, "color": [0, 90, 60]},
                    "source": bed.source,
                },
            }
        ],
    }
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _require_slide(path: Path, found: Any, l0_size: Size, slide: str) -> None:  # noqa: ANN401
    """Refuse an outline that says itself that it is of a slide of another size."""
    about = found.get("properties") if isinstance(found, dict) else None
    if not isinstance(about, dict) or "width_px" not in about or "height_px" not in about:
        return
    said = about["width_px"], about["height_px"]
    if said != (l0_size.width, l0_size.height):
        raise ConfigError(
            f"{path}: it was drawn on a slide of {said[0]} × {said[1]} px "
            f"({about.get('slide', 'unnamed')}), and {slide} has {l0_size.width} × "
            f"{l0_size.height} px. Name that slide's own outline."
        )


def _geometries(path: Path, found: Any) -> list[shapely.MultiPolygon]:  # noqa: ANN401
    """Return what a GeoJSON document outlines, feature by feature."""
    if isinstance(found, list):
        return [one for item in found for one in _geometries(path, item)]
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: this is not GeoJSON. Export the bed as GeoJSON again.")
    kind = found.get("type")
    if kind == "FeatureCollection":
        return _geometries(path, found.get("features"))
    if kind == "Feature":
        return _geometries(path, found.get("geometry"))
    if kind not in ("Polygon", "MultiPolygon"):
        raise ConfigError(
            f"{path}: it holds a {kind if isinstance(kind, str) else 'thing without a type'}, and "
            f"a bed is made of polygons. Outline it as a polygon, and export only that."
        )
    try:
        geometry = shapely.force_2d(shape(found))
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        shapely.GEOSException,
    ) as e:
        raise ConfigError(f"{path}: a polygon cannot be understood ({e}).") from e
    if geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise ConfigError(f"{path}: a polygon has no area. Outline the bed and export it again.")
    return [geometry if kind == "MultiPolygon" else shapely.MultiPolygon([geometry])]


def _whole_pixels(area: shapely.Geometry) -> shapely.MultiPolygon:
    rounded = shapely.set_precision(area, 1)
    parts = [part for part in shapely.get_parts(rounded) if part.geom_type == "Polygon"]
    return shapely.MultiPolygon([shapely.orient_polygons(part) for part in parts if part.area > 0])
