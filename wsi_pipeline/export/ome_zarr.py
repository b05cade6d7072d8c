"""A result as OME-Zarr (NGFF 0.5): the maps and the slide under them, each where it lies.

::

    RESULT.ome.zarr/
        cellularity         float32 [y, x], NaN where nothing was scored
        cellularity-fine    the same in cells of 32 µm, of models that tell
        classes             float32 [c, y, x], shares of the nuclei's classes in cells of the map
        overlay             uint8 [c, y, x], the slide with the map over it

All are multiscale, with axes in µm from the corner of level 0 of the slide. A pixel has the
coordinates of its middle, as viewers have it: the first pixel of a map lies half a cell inside its
corner, and everything lies on everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import ResultError
from wsi_pipeline.export.finished import (
    FINE_MAP,
    MAP,
    OVERLAY,
    TILES,
    new_store,
    own_file,
    scored_summary,
)
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.geometry import Size
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.score_map import ScoreMap, blend
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.tile_table import read_parquet

VERSION = "0.5"
SMALLEST = 64
"""Cells of the long side at which a pyramid ends."""

_CHUNK = 512
_CLASS_COLOURS = ("808080", "00C800", "285AFF", "EB1E1E", "FFC800", "00C8C8")
"""Of classes in their order, as `training.seg` draws them, but for the background."""


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Attributes:
        path: of its array, in the image's group.
        pixel_um: side of a pixel.
        corner_um: (x, y) of the outer corner of its first pixel.

    """

    path: str
    pixel_um: float
    corner_um: tuple[float, float]


def write_ome_zarr(folder: Path, target: Path) -> Path:
    """Write a finished result as OME-Zarr; it appears under its name when it is complete.

    Args:
        folder: the slide's results.
        target: the new store; must not exist.

    Raises:
        ResultError: if there is no scored result, or a file of it is missing or damaged.
        OutputError: if the target exists, or cannot be written.

    """
    summary = scored_summary(folder)
    with new_store(target) as partial:
        root = zarr.create_group(str(partial), zarr_format=3)
        coarse = read_cellularity(own_file(folder, summary, MAP))
        _write_map(root.create_group("cellularity"), coarse, summary)
        if FINE_MAP in summary.outputs:
            fine = read_cellularity(own_file(folder, summary, FINE_MAP))
            _write_map(root.create_group("cellularity-fine"), fine, summary)
        shares = class_shares(own_file(folder, summary, TILES), coarse)
        if shares:
            _write_classes(root.create_group("classes"), shares, coarse, summary)
        overlay = own_file(folder, summary, OVERLAY)
        _write_overlay(root.create_group("overlay"), overlay, coarse, summary)
    return target


def class_shares(tiles: Path, score_map: ScoreMap) -> dict[str, NDArray[np.float32]]:
    """Lay the tiles' shares of classes out on the map's cells, as their scores are.

    Args:
        tiles: the result's ``tiles.parquet``.
        score_map: its map.

    Returns:
        float32 [rows, columns] of each class, NaN where nothing was scored; empty of models that
        tell no classes.

    """
    table, made = read_parquet(tiles)
    tiling, classes = TilingFacts.model_validate(made["tiling"]), made["scoring"]["classes"]
    if not np.isfinite(table.class_fraction).any():
        return {}
    rows, columns = score_map.cellularity.shape
    m_tile = tiling.grid.tile_px / tiling.grid.stride_px
    return {
        name: blend(table.class_fraction[:, number], table.m_xy, Size(columns, rows), m_tile)
        for number, name in enumerate(classes)
    }


def _write_classes(
    group: zarr.Group,
    shares: dict[str, NDArray[np.float32]],
    score_map: ScoreMap,
    summary: SlideSummary,
) -> None:
    levels, corner = [], _corner_um(score_map)
    pyramids = [_pyramid(replace(score_map, cellularity=share)) for share in shares.values()]
    for number, parts in enumerate(zip(*pyramids, strict=True)):
        _write(group, str(number), np.stack([part.cellularity for part in parts]), ("c", "y", "x"))
        levels.append(Level(str(number), parts[0].cell_um, corner))
    window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    channels = [
        {"label": name, "color": _CLASS_COLOURS[place % len(_CLASS_COLOURS)], "window": window}
        for place, name in enumerate(shares)
    ]
    axes = [{"name": "c", "type": "channel"}, *_space("y", "x")]
    _describe(group, levels, axes, channels, summary)


def _corner_um(score_map: ScoreMap) -> tuple[float, float]:
    x, y = score_map.l0_origin
    return x * score_map.mpp, y * score_map.mpp


def _write_map(group: zarr.Group, score_map: ScoreMap, summary: SlideSummary) -> None:
    levels, corner = [], _corner_um(score_map)
    for number, level in enumerate(_pyramid(score_map)):
        _write(group, str(number), level.cellularity, ("y", "x"))
        levels.append(Level(str(number), level.cell_um, corner))
    window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    channels = [{"label": "Cellularity (0 to 1)", "color": "FDE725", "window": window}]
    _describe(group, levels, _space("y", "x"), channels, summary)


def _pyramid(score_map: ScoreMap) -> Iterator[ScoreMap]:
    """Yield the map and its halves, each of means over scored cells."""
    factor = 1
    while True:
        level = score_map.coarsened(factor)
        yield level
        if max(level.cellularity.shape) <= SMALLEST:
            return
        factor *= 2


def _write_overlay(
    group: zarr.Group, path: Path, score_map: ScoreMap, summary: SlideSummary
) -> None:
    """Copy the overlay's levels, strip by strip: memory does not grow with the slide.

    It shows what the maps do, and begins at their corner.
    """
    levels, corner = [], _corner_um(score_map)
    try:
        with tifffile.TiffFile(path) as tiff:
            for number, page in enumerate(tiff.pages):
                rows, columns = page.shape[:2]
                array = _make(group, str(number), (3, rows, columns), "uint8", ("c", "y", "x"))
                for top, strip in _strips(page):
                    array[:, top : top + len(strip)] = strip.transpose(2, 0, 1)
                levels.append(Level(str(number), _pixel_um(page), corner))
    except (tifffile.TiffFileError, ValueError, RuntimeError, KeyError) as error:
        raise ResultError(f"{path}: cannot be read ({error}). Run `wsi heatmap` again.") from error
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    colours = ("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF")
    channels = [{"label": name, "color": hue, "window": window} for name, hue in colours]
    axes = [{"name": "c", "type": "channel"}, *_space("y", "x")]
    _describe(group, levels, axes, channels, summary)


def _strips(page: Any) -> Iterator[tuple[int, NDArray[np.uint8]]]:  # noqa: ANN401 - tifffile's
    """Yield rows of tiles of a page, each with the row of pixels that it begins at."""
    rows, columns, side = page.imagelength, page.imagewidth, page.tilelength
    strip, top = np.full((side, columns, 3), 255, np.uint8), 0
    for segment, (_, _, row, column, _), shape in page.segments():
        if row != top:
            yield top, strip[: min(side, rows - top)]
            strip, top = np.full((side, columns, 3), 255, np.uint8), row
        if segment is not None:
            height, width = shape[1], min(shape[2], columns - column)
            strip[:height, column : column + width] = segment[0, :, :width][:height]
    yield top, strip[: min(side, rows - top)]


def _pixel_um(page: Any) -> float:  # noqa: ANN401 - tifffile's
    numerator, denominator = page.tags["XResolution"].value
    return float(1e4 * denominator / numerator)


def _write(group: zarr.Group, name: str, values: NDArray[Any], axes: tuple[str, ...]) -> None:
    array = _make(group, name, values.shape, str(values.dtype), axes)
    array[:] = values


def _make(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, axes: tuple[str, ...]
) -> Any:  # noqa: ANN401 - zarr's
    chunks = tuple(
        1 if axis == "c" else min(_CHUNK, length) for axis, length in zip(axes, shape, strict=True)
    )
    fill = float("nan") if dtype == "float32" else 0
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, dimension_names=axes
    )


def _space(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "type": "space", "unit": "micrometer"} for name in names]


def _describe(
    group: zarr.Group,
    levels: list[Level],
    axes: list[dict[str, str]],
    channels: list[dict[str, Any]],
    summary: SlideSummary,
) -> None:
    def transforms(level: Level) -> list[dict[str, Any]]:
        x, y = (corner + level.pixel_um / 2 for corner in level.corner_um)
        leading = [1.0] * (len(axes) - 2), [0.0] * (len(axes) - 2)
        return [
            {"type": "scale", "scale": [*leading[0], level.pixel_um, level.pixel_um]},
            {"type": "translation", "translation": [*leading[1], y, x]},
        ]

    name = f"{summary.provenance.slide.name}: {group.basename}"
    made = summary.provenance
    group.attrs.update(
        {
            "ome": {
                "version": VERSION,
                "multiscales": [
                    {
                        "name": name,
                        "axes": axes,
                        "datasets": [
                            {"path": level.path, "coordinateTransformations": transforms(level)}
                            for level in levels
                        ],
                        "type": "mean over scored cells",
                    }
                ],
                "omero": {"channels": [{"active": True, **channel} for channel in channels]},
            },
            "wsi-pipeline": {
                "slide": made.slide.name,
                "slide_digest": made.slide.digest,
                "model": f"{made.bundle.name} {made.bundle.version}",
                "bundle_digest": made.bundle.digest,
                "use": "Research use only; not a medical device.",
            },
        }
    )
