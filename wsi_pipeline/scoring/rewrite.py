"""The outputs of a scored slide, written again from its store: `wsi heatmap`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.bed.measure import measure
from wsi_pipeline.bed.outline import BED, Bed, write_bed
from wsi_pipeline.bed.propose import propose
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.geometry import Mpp, Size
from wsi_pipeline.outputs.maps import Maps, make_maps
from wsi_pipeline.outputs.reliability import reliability_again
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.thumbnails import picture_mpp
from wsi_pipeline.outputs.write import (
    read_mask,
    read_thumbnail,
    require_scored,
    write_numbers,
    write_pictures,
)
from wsi_pipeline.report.shown import PICTURE_PX, REPORT, Shown, TileSquare, flagged_tiles
from wsi_pipeline.scoring.beds import drawn_for
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.folder import (
    exclusive,
    is_store_of,
    prepare,
    publish,
    read_summary,
    roll_forward,
)
from wsi_pipeline.scoring.run_log import log_file
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import TileTable
from wsi_pipeline.tiles.store import TileStore


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished result and all that its pages are made from.

    Attributes:
        summary: its figures.
        store: the scored tiles.
        table: all that is known of them.
        mask: bool [rows, columns], the tissue over the slide's bounds.
        maps: made anew from the store.
        bed: the bed that was drawn; else the proposed one, or None.

    """

    summary: SlideSummary
    store: TileStore
    table: TileTable
    mask: NDArray[np.bool_]
    maps: Maps
    bed: Bed | None

    @property
    def l0_size(self) -> Size:
        """The slide's level 0."""
        about = self.summary.provenance.slide
        return Size(about.width_px, about.height_px)

    def shown(self, picture: NDArray[np.uint8], tiles: TileSquare | None = None) -> Shown:
        """Return what its page shows, over a picture of the slide."""
        flagged = flagged_tiles(self.table, self.store.grid.l0_tile)
        return Shown(picture, self.maps, self.mask, self.bed, flagged, tiles)


def open_finished(folder: Path, config: ScoreConfig, bed: Path | None = None) -> Finished:
    """Open a finished result with its store.

    Args:
        folder: the slide's.
        config: for the fine map, and for where stores are.
        bed: an outline to take in place of the one that there is.

    Raises:
        ConfigError: if there is no result, or the outline is none.
        WsiError: if the store or the mask is damaged or gone.

    """
    summary = _summary_of(folder)
    place = config.store.path(folder)
    if not is_store_of(place, summary.provenance):
        raise StoreError(
            f"{place}: this is not the store of the result beside it, or it is damaged. Run "
            f"`wsi score` again."
        )
    about = summary.provenance.slide
    drawn = drawn_for(folder, summary, bed, Size(about.width_px, about.height_px))
    store = TileStore(place)
    require_scored(store)
    mask, table = read_mask(folder), store.table()
    maps = make_maps(store, table, mask, config.fine_map)
    return Finished(summary, store, table, mask, maps, drawn or propose(maps))


@contextmanager
def own_slide(folder: Path, summary: SlideSummary, location: str | Path) -> Iterator[Slide]:
    """Open the slide that a result is of.

    Raises:
        ConfigError: if it is another.
        SlideError: if it cannot be read.

    """
    about = summary.provenance.slide
    with Slide.open(location, backend=about.backend, mpp=Mpp(about.mpp), name=about.name) as slide:
        if slide.digest() != about.digest:
            raise ConfigError(
                f"{location}: this is not the slide that {folder} was scored from "
                f"({about.name}). Name that one, or leave --slide out."
            )
        yield slide


def write_again(
    folder: Path,
    config: ScoreConfig,
    location: str | Path | None = None,
    bed: Path | None = None,
) -> SlideSummary:
    """Write the outputs of a scored slide again, from its store.

    Args:
        folder: the slide's.
        config: for the overlay and the fine map.
        location: the slide's file; without it the pictures of the slide stay as they are.
        bed: the outline of the tumour bed, GeoJSON; None keeps the one that there is.

    Returns:
        the summary, which names the new files.

    Raises:
        ConfigError: if there is no result, the file is another slide, or the outline is none.
        WsiError: if the store is damaged, or the slide cannot be read.

    """
    # Imported here, since it takes a second.
    from wsi_pipeline.report.page import write_report

    _summary_of(folder)  # before anything in the folder is touched
    with exclusive(folder), log_file(folder / "run.log"):
        roll_forward(folder)
        found = open_finished(folder, config, bed)
        made, outlined, figures = found.summary.provenance, found.bed, None
        if outlined is not None:
            figures = measure(outlined, found.maps, min_coverage=made.config.min_coverage)
        drawn = outlined is not None and outlined.source == "drawn"
        settings = made.config.model_copy(
            update={
                "fine_map": config.fine_map,
                "bed": outlined.digest if outlined is not None and drawn else None,
            }
        )
        if location is not None:
            settings = settings.model_copy(update={"overlay": config.overlay})
        remade = made.model_copy(update={"config": settings, "config_digest": settings.digest})
        reliability = reliability_again(found.summary)
        if figures is not None and figures.cellularity is not None:
            joined = reliability.joined(figures.cellularity, figures.interval)
            figures = figures.model_copy(update={"interval": joined or figures.interval})
        summary = found.summary.model_copy(update={"bed": figures, "provenance": remade})
        staged = prepare(folder)
        write_numbers(staged, found.store, found.table, found.maps, settings.overlay, reliability)
        if outlined is not None:
            write_bed(staged / BED, outlined, slide=made.slide.name, l0_size=found.l0_size)
        picture = read_thumbnail(folder)
        if location is not None:
            with own_slide(folder, summary, location) as slide:
                picture = slide.thumbnail(picture_mpp(slide, PICTURE_PX))
                write_pictures(staged, slide, picture, found.maps, summary, config.overlay)
        write_report(staged / REPORT, summary, found.shown(picture))
        return publish(folder, summary)


def _summary_of(folder: Path) -> SlideSummary:
    summary = read_summary(folder)
    if summary is None or summary.status != "scored":
        raise ConfigError(f"{folder}: there is no finished result here. Run `wsi score` first.")
    return summary
