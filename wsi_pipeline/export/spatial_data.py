"""A result as SpatialData, the form that scanpy, squidpy and napari-spatialdata work on.

::

    RESULT.spatialdata.zarr/
        images/slide             the thumbnail, uint8 [c, y, x]
        images/cellularity       float32 [1, y, x], NaN where nothing was scored
        images/cellularity_fine  the same in cells of 32 µm, of models that tell
        labels/tissue            1 is tissue
        shapes/tiles             the tiles as squares
        shapes/bed               the tumour bed's parts, where there is one
        tables/scores            AnnData: score and shares of classes as X, all else as obs

All lie in two coordinate systems: ``global``, the slide's level-0 pixels from the file's (0, 0),
and ``micrometer``.
"""

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale, Sequence, Translation

from wsi_pipeline.bed.outline import outline_of
from wsi_pipeline.export.finished import (
    BED,
    FINE_MAP,
    MAP,
    THUMBNAIL,
    TILES,
    TISSUE,
    new_store,
    own_file,
    scored_summary,
)
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.tile_table import metadata_of
from wsi_pipeline.outputs.write import read_mask, read_thumbnail

PIXELS, MICROMETRES = "global", "micrometer"
"""Names of the coordinate systems."""

_SCORE = "cellularity"
_REGION, _INSTANCE = "region", "tile"

Frames = dict[str, Any]
"""How an element gets into each coordinate system."""


def write_spatial_data(folder: Path, target: Path) -> Path:
    """Write a finished result as SpatialData; it appears under its name when it is complete.

    Args:
        folder: the slide's results.
        target: the new store; must not exist.

    Raises:
        ResultError: if there is no scored result, or a file of it is missing or damaged.
        OutputError: if the target exists, or cannot be written.

    """
    summary = scored_summary(folder)
    with new_store(target) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)
        spatial_data(folder, summary).write(partial)
    return target


def spatial_data(folder: Path, summary: SlideSummary) -> SpatialData:
    """Return a scored result in memory, as :func:`write_spatial_data` writes it.

    Raises:
        ResultError: if a file of it is missing or damaged.

    """
    stored = pq.read_table(own_file(folder, summary, TILES))
    tiling = TilingFacts.model_validate(metadata_of(stored)["tiling"])
    bounds, mpp = Box(*tiling.l0_bounds), tiling.mpp
    for picture in (THUMBNAIL, TISSUE):
        own_file(folder, summary, picture)
    slide, mask = read_thumbnail(folder), read_mask(folder)
    images = {
        "slide": Image2DModel.parse(
            slide.transpose(2, 0, 1),
            dims=("c", "y", "x"),
            c_coords=["r", "g", "b"],
            transformations=_over(bounds, slide.shape[:2], mpp),
        )
    }
    for name, file in ((_SCORE, MAP), (f"{_SCORE}_fine", FINE_MAP)):
        if file in summary.outputs:
            images[name] = _map(read_cellularity(own_file(folder, summary, file)))
    labels = Labels2DModel.parse(
        mask.astype(np.uint8), dims=("y", "x"), transformations=_over(bounds, mask.shape, mpp)
    )
    level_0 = _frames(1, 1, 0, 0, mpp)
    side = tiling.grid.tile_px * tiling.grid.mpp / mpp
    frame = stored.to_pandas(ignore_metadata=True)
    x, y = frame["l0_x_px"].to_numpy(float), frame["l0_y_px"].to_numpy(float)
    squares = gpd.GeoDataFrame(geometry=shapely.box(x, y, x + side, y + side), index=frame.index)
    shapes = {"tiles": ShapesModel.parse(squares, transformations=level_0)}
    if BED in summary.outputs:
        parts = list(outline_of(own_file(folder, summary, BED)).geoms)
        bed = gpd.GeoDataFrame(geometry=parts)
        shapes["bed"] = ShapesModel.parse(bed, transformations=level_0)
    return SpatialData(
        images=images,
        labels={"tissue": labels},
        shapes=shapes,
        tables={"scores": _table(frame)},
        attrs={"wsi-pipeline": summary.model_dump(mode="json", exclude={"outputs"})},
    )


def _frames(scale_x: float, scale_y: float, x: float, y: float, mpp: float) -> Frames:
    """Return how pixels of a side in level-0 pixels, from a corner on, get into both systems."""
    steps = [Scale([scale_x, scale_y], ("x", "y")), Translation([x, y], ("x", "y"))]
    um = Scale([mpp, mpp], ("x", "y"))
    return {PIXELS: Sequence(steps), MICROMETRES: Sequence([*steps, um])}


def _over(bounds: Box, shape_px: tuple[int, ...], mpp: float) -> Frames:
    """Return where a picture lies that shows the slide's bounds."""
    rows, columns = shape_px
    return _frames(bounds.width / columns, bounds.height / rows, bounds.x, bounds.y, mpp)


def _map(score_map: ScoreMap) -> Any:  # noqa: ANN401 - an xarray of SpatialData's
    cell, (x, y) = score_map.l0_cell, score_map.l0_origin
    return Image2DModel.parse(
        score_map.cellularity[None],
        dims=("c", "y", "x"),
        c_coords=[_SCORE],
        transformations=_frames(cell, cell, x, y, score_map.mpp),
    )


def _table(frame: pd.DataFrame) -> ad.AnnData:
    """Return the tiles' columns, a row each, bound to their squares."""
    measured = [name for name in frame.columns if name == _SCORE or name.startswith("fraction_")]
    values: NDArray[np.float32] = frame[measured].to_numpy(np.float32)
    obs = frame.drop(columns=measured)
    obs[_REGION] = pd.Categorical(["tiles"] * len(frame))
    obs[_INSTANCE] = frame.index
    obs.index = obs.index.astype(str)
    table = ad.AnnData(X=values, obs=obs, var=pd.DataFrame(index=measured))
    return TableModel.parse(table, region="tiles", region_key=_REGION, instance_key=_INSTANCE)
