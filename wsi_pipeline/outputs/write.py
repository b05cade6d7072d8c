"""All files of a result but for its summary, written from a scored store."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.errors import StoreError
from wsi_pipeline.facts import ScoringFacts, TilingFacts
from wsi_pipeline.outputs.cellularity_tiff import write_cellularity
from wsi_pipeline.outputs.colours import write_legend
from wsi_pipeline.outputs.geojson import write_geojson
from wsi_pipeline.outputs.maps import Maps
from wsi_pipeline.outputs.overlay import Drawn, OverlayConfig, write_overlay
from wsi_pipeline.outputs.reliability import Reliability
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.tile_table import write_parquet
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import TileTable
from wsi_pipeline.tiles.store import TileStore

TISSUE = "tissue.png"


def require_scored(store: TileStore) -> None:
    """Check that all tiles of a store are scored.

    Raises:
        StoreError: if not.

    """
    if not store.is_scored:
        raise StoreError(f"{store.path}: not all of its tiles are scored. Run `wsi score` first.")


def write_numbers(
    folder: Path,
    store: TileStore,
    table: TileTable,
    maps: Maps,
    config: OverlayConfig,
    reliability: Reliability,
) -> None:
    """Write the maps and tables of a scored store, for measurement and for viewers.

    Args:
        folder: where the files go; it exists.
        store: the scored tiles.
        table: all that is known of them.
        maps: their maps.
        config: how maps are drawn, for the legend.
        reliability: how far scores are off.

    """
    tiling, scoring = TilingFacts.of(store), ScoringFacts.of(store)
    write_cellularity(folder / "cellularity.ome.tiff", maps.coarse)
    if maps.fine is not None:
        write_cellularity(folder / "cellularity-fine.ome.tiff", maps.fine)
    write_legend(folder / "legend.png", config.opacity, config.palette)
    write_geojson(folder / "tiles.geojson", maps.coarse, maps.l0_bounds)
    write_parquet(
        folder / "tiles.parquet",
        table,
        classes=scoring.classes,
        interval=reliability.of_tiles(table.cellularity),
        metadata={
            "tiling": tiling.model_dump(mode="json"),
            "scoring": scoring.model_dump(mode="json"),
        },
    )


def write_pictures(
    folder: Path,
    slide: Slide,
    picture: NDArray[np.uint8],
    maps: Maps,
    summary: SlideSummary,
    config: OverlayConfig,
) -> None:
    """Write the map over the slide, at full size and as a picture for reports.

    Args:
        folder: where the files go; it exists.
        slide: the slide that the maps are of.
        picture: uint8 [rows, columns, 3], the slide's bounds, to draw the picture on.
        maps: the finest of them is drawn.
        summary: the figures, for the title.
        config: how the map is drawn.

    Raises:
        SlideError: if the slide can no longer be read.

    """
    from wsi_pipeline.outputs.figure import Drawing, write_picture  # which takes a while

    drawn = Drawn.of(maps.shown, config)
    write_overlay(folder / "overlay.tif", slide, drawn)
    write_picture(folder / "overlay.png", Drawing(picture, slide.l0_bounds, drawn), summary)


def read_mask(folder: Path) -> NDArray[np.bool_]:
    """Read the tissue mask that was written for a slide, bool [rows, columns] over its bounds.

    Raises:
        StoreError: if it is missing or damaged.

    """
    return _read_png(folder / TISSUE, "L") > 0


def read_thumbnail(folder: Path) -> NDArray[np.uint8]:
    """Read the slide's picture that was written for it, uint8 RGB [rows, columns, 3].

    Raises:
        StoreError: if it is missing or damaged.

    """
    return _read_png(folder / "thumbnail.png", "RGB")


def _read_png(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return np.asarray(picture.convert(mode), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise StoreError(
            f"{path}: cannot be read ({error}). Run `wsi score` again, which writes it anew."
        ) from error
