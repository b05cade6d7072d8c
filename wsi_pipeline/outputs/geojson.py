"""``tiles.geojson``: the score map as objects that QuPath opens by drag and drop.

- One *detection* per scored cell: a square with the measurement ``Cellularity`` (0 to 1) in the
  colour of the overlay. Beyond 20 000 squares, which is what QuPath still handles at ease, 2 × 2,
  4 × 4, … cells are averaged into one; the detections' names and the file's properties say so.
- One locked *annotation* per threshold (10, 30, 70 %): the merged cells at or above it, holes and
  all, with their mean as measurement. A threshold that no cell reaches has none.

Coordinates are whole level-0 pixels from the file's (0, 0), which is how QuPath counts, whatever
the slide's bounds. Geometry follows RFC 7946 (closed rings, exteriors anticlockwise in x and y).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.polygon import orient

from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.colours import colourise
from wsi_pipeline.outputs.score_map import THRESHOLDS, ScoreMap

MAX_DETECTIONS = 20_000


def write_geojson(path: Path, score_map: ScoreMap, l0_bounds: Box) -> None:
    """Write detections and regions as a GeoJSON FeatureCollection, one feature a line.

    Args:
        path: the file to write.
        score_map: the map.
        l0_bounds: the slide's bounds, at which border cells are cut off.

    """
    factor = detection_factor(score_map)
    about = {
        "coordinates": "level-0 pixels from the file's (0, 0)",
        "cells_averaged_per_detection": f"{factor} × {factor}",
        "detection_side_um": round(score_map.cell_um * factor, 3),
    }
    with (
        atomic_path(path) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.write(f'{{"type":"FeatureCollection","properties":{_json(about)},"features":[')
        separator = "\n"
        for feature in _features(score_map, factor, l0_bounds):
            file.write(separator + _json(feature))
            separator = ",\n"
        file.write("\n]}\n")


def detection_factor(score_map: ScoreMap) -> int:
    """Return how many cells a side go into one detection: 1, or 2, 4, … on large maps."""
    factor = 1
    while np.isfinite(score_map.coarsened(factor).cellularity).sum() > MAX_DETECTIONS:
        factor *= 2
    return factor


def region(score_map: ScoreMap, threshold: float, l0_bounds: Box) -> shapely.MultiPolygon:
    """Return the union of the cells at or above a threshold, in whole level-0 pixels."""
    squares, _ = _squares(score_map, score_map.cellularity >= threshold, l0_bounds)
    # Neighbouring cells share corners and overlap nowhere: unions of such coverages are fast.
    merged = shapely.coverage_union_all(shapely.box(*squares.T))
    # With no tolerance this only drops vertices within straight edges: nothing to preserve.
    merged = shapely.simplify(merged, 0, preserve_topology=False)
    parts = shapely.get_parts(shapely.normalize(merged))
    return shapely.MultiPolygon([orient(part) for part in parts if not part.is_empty])


def _features(score_map: ScoreMap, factor: int, l0_bounds: Box) -> Iterator[dict[str, Any]]:
    for threshold in THRESHOLDS:
        above = score_map.cellularity >= threshold
        if above.any():
            yield _annotation(
                region(score_map, threshold, l0_bounds),
                threshold,
                mean=float(score_map.cellularity[above].mean(dtype=np.float64)),
            )
    coarse = score_map.coarsened(factor)
    squares, cellularity = _squares(coarse, np.isfinite(coarse.cellularity), l0_bounds)
    named = {} if factor == 1 else {"name": f"mean of {factor} × {factor} cells"}
    colours = colourise(cellularity).tolist()
    for (left, top, right, bottom), value, colour in zip(
        squares.tolist(), cellularity.tolist(), colours, strict=True
    ):
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "detection",
                **named,
                "color": colour,
                "measurements": {"Cellularity": round(value, 4)},
            },
        }


def _annotation(shape: shapely.MultiPolygon, threshold: float, mean: float) -> dict[str, Any]:
    polygons = [
        [
            shapely.get_coordinates(ring).astype(int).tolist()
            for ring in (part.exterior, *part.interiors)
        ]
        for part in shape.geoms
    ]
    return {
        "type": "Feature",
        "geometry": {"type": "MultiPolygon", "coordinates": polygons},
        "properties": {
            "objectType": "annotation",
            "classification": {
                "name": f"Cellularity ≥ {threshold:.0%}",
                "color": colourise(threshold).tolist(),
            },
            "isLocked": True,
            "measurements": {"Cellularity": round(mean, 4)},
        },
    }


def _squares(
    score_map: ScoreMap, chosen: NDArray[np.bool_], l0_bounds: Box
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the chosen cells, cut at the bounds, and their values.

    Returns:
        int64 [N, 4] (left, top, right, bottom) in level-0 pixels, and float32 [N].

    """
    x, y = score_map.l0_edges()
    x, y = x.clip(l0_bounds.x, l0_bounds.right), y.clip(l0_bounds.y, l0_bounds.bottom)
    rows, columns = np.nonzero(chosen & (np.diff(y) > 0)[:, None] & (np.diff(x) > 0))
    squares = np.column_stack([x[columns], y[rows], x[columns + 1], y[rows + 1]])
    return squares, score_map.cellularity[rows, columns]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
