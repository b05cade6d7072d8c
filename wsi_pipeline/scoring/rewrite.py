"""The outputs of a scored slide, written again from its store: `wsi heatmap`."""

from pathlib import Path

from wsi_pipeline.bed.measure import measure
from wsi_pipeline.bed.outline import BED, write_bed
from wsi_pipeline.bed.propose import propose
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.geometry import Mpp, Size
from wsi_pipeline.outputs.maps import make_maps
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
from wsi_pipeline.report.page import REPORT, write_report
from wsi_pipeline.report.viewer import PICTURE_PX, Shown, flagged_tiles
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
from wsi_pipeline.tiles.store import TileStore


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
    summary = read_summary(folder)
    if summary is None or summary.status != "scored":
        raise ConfigError(f"{folder}: there is no finished result here. Run `wsi score` first.")
    with exclusive(folder), log_file(folder / "run.log"):
        roll_forward(folder)
        summary = read_summary(folder) or summary
        made = summary.provenance
        about = made.slide
        place = config.store.path(folder)
        if not is_store_of(place, made):
            raise StoreError(
                f"{place}: this is not the store of the result beside it, or it is damaged. Run "
                f"`wsi score` again."
            )
        size = Size(about.width_px, about.height_px)
        drawn = drawn_for(folder, summary, bed, size)
        store = TileStore(place)
        require_scored(store)
        mask, table = read_mask(folder), store.table()
        maps = make_maps(store, table, mask, config.fine_map)
        outlined = drawn or propose(maps)
        figures = None
        if outlined is not None:
            figures = measure(outlined, maps, min_coverage=made.config.min_coverage)
        settings = made.config.model_copy(
            update={"fine_map": config.fine_map, "bed": None if drawn is None else drawn.digest}
        )
        if location is not None:
            settings = settings.model_copy(update={"overlay": config.overlay})
        remade = made.model_copy(update={"config": settings, "config_digest": settings.digest})
        reliability = reliability_again(summary)
        if figures is not None and figures.cellularity is not None:
            joined = reliability.joined(figures.cellularity, figures.interval)
            figures = figures.model_copy(update={"interval": joined or figures.interval})
        summary = summary.model_copy(update={"bed": figures, "provenance": remade})
        staged = prepare(folder)
        write_numbers(staged, store, table, maps, settings.overlay, reliability)
        if outlined is not None:
            write_bed(staged / BED, outlined, slide=about.name, l0_size=size)
        picture = read_thumbnail(folder)
        if location is not None:
            with Slide.open(
                location, backend=about.backend, mpp=Mpp(about.mpp), name=about.name
            ) as slide:
                if slide.digest() != about.digest:
                    raise ConfigError(
                        f"{location}: this is not the slide that {folder} was scored from "
                        f"({about.name}). Name that one, or leave --slide out."
                    )
                write_pictures(staged, slide, maps, summary, config.overlay)
                picture = slide.thumbnail(picture_mpp(slide, PICTURE_PX))
        flagged = flagged_tiles(table, store.grid.l0_tile)
        write_report(staged / REPORT, summary, Shown(picture, maps, mask, outlined, flagged))
        return publish(folder, summary)
