"""All files of a result but for its summary, written from a scored store."""

from pathlib import Path

from wsi_pipeline.errors import StoreError
from wsi_pipeline.facts import ScoringFacts, TilingFacts
from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.cellularity_tiff import write_cellularity
from wsi_pipeline.outputs.colours import write_legend
from wsi_pipeline.outputs.geojson import write_geojson
from wsi_pipeline.outputs.overlay import OverlayConfig, write_overlay, write_overlay_picture
from wsi_pipeline.outputs.score_map import build_score_map
from wsi_pipeline.outputs.thumbnails import picture_mpp
from wsi_pipeline.outputs.tile_table import write_parquet
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.store import TileStore


def write_outputs(
    folder: Path, store: TileStore, overlay: OverlayConfig, slide: Slide | None
) -> None:
    """Write the map, the tables and the pictures of a scored store.

    Args:
        folder: where the files go; it exists.
        store: the scored tiles.
        overlay: how the map is drawn over the slide.
        slide: the slide that the tiles are of; without it the pictures that show it are left out.

    Raises:
        StoreError: if the store is not scored.
        SlideError: if the slide can no longer be read.

    """
    if not store.is_scored:
        raise StoreError(f"{store.path}: not all of its tiles are scored. Run `wsi score` first.")
    grid, table = store.grid, store.table()
    tiling, scoring = TilingFacts.of(store), ScoringFacts.of(store)
    score_map = build_score_map(
        table,
        m_size=grid.m_size,
        l0_stride=grid.l0_stride,
        l0_tile=grid.l0_tile,
        l0_origin=grid.l0_origin,
        mpp=Mpp(tiling.mpp),
    )
    write_cellularity(folder / "cellularity.ome.tiff", score_map)
    write_geojson(folder / "tiles.geojson", score_map, Box(*tiling.l0_bounds))
    write_parquet(
        folder / "tiles.parquet",
        table,
        classes=scoring.classes,
        metadata={
            "tiling": tiling.model_dump(mode="json"),
            "scoring": scoring.model_dump(mode="json"),
        },
    )
    write_legend(folder / "legend.png")
    if slide is not None:
        write_overlay(folder / "overlay.tif", slide, score_map, overlay)
        write_overlay_picture(
            folder / "overlay.png",
            slide.thumbnail(picture_mpp(slide)),
            slide.l0_bounds,
            score_map,
            overlay,
        )
