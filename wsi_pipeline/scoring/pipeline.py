"""The whole way of one slide, from its file to its outputs, without Prefect.

Outputs, in a folder named after the slide (`summary.json` comes last: its presence says that the
slide is finished, and a run that finds it with its own digest has nothing to do)::

    tissue.png, tissue-outline.png, thumbnail.png
    tiles.zarr                              the store, here or where `store.root` says
    cellularity.ome.tiff, cellularity-fine.ome.tiff, overlay.tif, overlay.png, legend.png
    bed.geojson, tiles.geojson, tiles.parquet, report.html
    summary.json
    run.log                                 the only file that two runs do not share byte by byte
"""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.bed.measure import measure
from wsi_pipeline.bed.outline import BED, Bed, write_bed
from wsi_pipeline.bed.propose import propose
from wsi_pipeline.errors import SlideChangedError, TissueError
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.geometry import MAX_UPSAMPLING_OF_LEVEL
from wsi_pipeline.model.architecture import CLASSES
from wsi_pipeline.outputs.maps import make_maps
from wsi_pipeline.outputs.provenance import Provenance
from wsi_pipeline.outputs.reliability import judged, reliability_of
from wsi_pipeline.outputs.summary import SlideSummary, summarise
from wsi_pipeline.outputs.thumbnails import picture_mpp, write_tissue_pictures
from wsi_pipeline.outputs.write import require_scored, write_numbers, write_pictures
from wsi_pipeline.report.shown import PICTURE_PX, REPORT, Shown, flagged_tiles
from wsi_pipeline.scoring.begun import begun
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.folder import (
    SUMMARY,
    exclusive,
    prepare,
    require_in_place,
    roll_forward,
    settle,
    store_place,
)
from wsi_pipeline.scoring.identity import tiling_facts
from wsi_pipeline.scoring.opening import errors_named, filed, open_filed
from wsi_pipeline.scoring.run_log import log_file, stage
from wsi_pipeline.scoring.score_tiles import ModelSlot, Progress, fill_and_score
from wsi_pipeline.scoring.scorer import Scorer
from wsi_pipeline.scoring.verify import store_to_write_from
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import TileTable
from wsi_pipeline.tiles.fill import fill
from wsi_pipeline.tiles.grid import TileGrid, mask_area_mm2, require_resolution, tile_grid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import StorePath
from wsi_pipeline.tiles.store_resume import create_or_resume
from wsi_pipeline.tiles.tissue import BLURRED_ABOVE, tissue_of

log = logging.getLogger(__name__)


def _silent(_done: int, _total: int) -> None:
    """Report no progress."""


def score_slide(
    found: SlideFile | str | Path,
    out: Path,
    engine: Scorer,
    config: ScoreConfig,
    progress: Progress = _silent,
    *,
    bed: Path | None = None,
    model_slot: ModelSlot = nullcontext,
    on_known: Callable[[], None] = lambda: None,
) -> SlideSummary:
    """Score one slide; go on where an earlier run of the same slide and configuration stopped.

    Args:
        found: the slide's path or fsspec URL, or its file as `filing.file_slide` finds it.
        out: the folder that gets one folder per slide.
        engine: the model, as `scorer.start_engine` gives it.
        config: everything else.
        progress: told as tiles are scored.
        bed: the outline of the tumour bed, GeoJSON; None keeps the one that was drawn for an
            earlier result of the slide, and proposes one where there is none.
        model_slot: held while tiles are scored. Tiles are read and stored before it is had.
        on_known: called if an earlier run has finished the slide, and nothing is to be done.

    Returns:
        the summary; its status is "scored", or "refused" where there is no tissue or too little of
        it could be read. It is written to `summary.json`, unless it is refused and a figure from
        other settings is there.

    Raises:
        WsiError: if the slide cannot be scored at all.

    """
    with begun(found, out, engine.bundle, config, bed) as at:
        folder, slide, start = at.folder, at.slide, time.perf_counter()
        if at.done is not None:
            log.info("Already scored with this bundle and configuration; nothing to do")
            on_known()
            return at.done
        staged = prepare(folder)
        mask = find_tissue(slide, staged, config)
        kept = store_to_write_from(folder, at.content.digest, at.settings, config.store)
        if kept is not None:
            log.warning("Its outputs are not what they were; they are written again")
            store, provenance = kept
        else:
            tiling, provenance = at.identity(engine, config)
            try:
                grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
            except TissueError as error:
                at.content.require_unchanged()
                summary = settle(folder, _refusal(error, mask, slide, provenance, config))
                _log_end(summary, start)
                return summary
            store = open_store(at.store_place(config, provenance), grid, tiling)
            fill_and_score(
                slide,
                store,
                engine,
                config,
                location=at.file.location,
                about=provenance.slide,
                progress=progress,
                model_slot=model_slot,
            )
        require_in_place(folder)
        with stage("outputs"):
            summary = _write(staged, store, mask, slide, provenance, config, at.drawn)
            try:
                at.content.require_unchanged()
            except SlideChangedError:
                store.set_aside()  # nobody can tell of which bytes its scores are
                raise
        if not config.keep_tiles:
            store.drop_pixels()
        summary = settle(folder, summary)
        _log_end(summary, start)
        return summary


def tile_slide(
    found: SlideFile | str | Path, out: Path, config: ScoreConfig, progress: Progress = _silent
) -> TileStore:
    """Find the tissue of a slide and store its tiles, without scoring them.

    Args:
        found: the slide's path or fsspec URL, or its file as `filing.file_slide` finds it.
        out: the folder that gets one folder per slide.
        config: how the slide is opened and cut into tiles.
        progress: told as tiles are stored.

    Returns:
        the store, with the pixels of all tiles that can be decoded.

    Raises:
        WsiError: if the slide cannot be tiled.

    """
    file = filed(found, config)
    folder = out / file.folder
    with (
        exclusive(folder),
        log_file(folder / "run.log"),
        errors_named(file),
        open_filed(file, config) as slide,
    ):
        roll_forward(folder)
        tiling = tiling_facts(slide, file.digest or slide.digest(), config)
        require_resolution(slide.mpp, config.grid, slide.name)
        # What is finished stays as it is.
        place = prepare(folder) if (folder / SUMMARY).exists() else folder
        mask = find_tissue(slide, place, config)
        grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
        store = open_store(store_place(folder, config.store, tiling.digest), grid, tiling)
        with (
            stage("tiling"),
            fill(slide, store, workers=config.workers, pixels="kept") as shards,
        ):
            done = 0
            for shard, _ in shards:
                done += shard.stop - shard.start
                progress(done, len(store))
        return store


def find_tissue(slide: Slide, folder: Path, config: ScoreConfig) -> NDArray[np.bool_]:
    """Find the tissue, and write pictures of it into a folder.

    Returns:
        bool [rows, columns] over the slide's bounds, True where there is tissue.

    Raises:
        SlideError: if the slide cannot be read at low resolution.

    """
    with stage("tissue"):
        mask = tissue_of(slide, config.tissue)
        write_tissue_pictures(folder, slide, mask)
    return mask


def open_store(path: StorePath, grid: TileGrid, tiling: TilingFacts) -> TileStore:
    """Make the store of a slide's tiles, or open the one in which an earlier run stopped.

    Raises:
        StoreError: if what lies there is damaged and cannot be set aside.

    """
    log.info("%d of %d tiles hold tissue", len(grid), grid.n_candidates)
    return create_or_resume(
        path, grid, tile_px=tiling.grid.tile_px, tiling=tiling.model_dump(mode="json")
    )


def _write(
    folder: Path,
    store: TileStore,
    mask: NDArray[np.bool_],
    slide: Slide,
    provenance: Provenance,
    config: ScoreConfig,
    drawn: Bed | None,
) -> SlideSummary:
    """Summarise a scored slide, and write all other files of its result into a folder."""
    # Imported here: it takes a second, and a slide that is finished has no use for it.
    from wsi_pipeline.report.page import write_report

    require_scored(store)
    grid, table = store.grid, store.table()
    maps = make_maps(store, table, mask, config.fine_map)
    bed = drawn or propose(maps)
    summary = summarise(
        table,
        provenance=provenance,
        bed=None if bed is None else measure(bed, maps, min_coverage=config.min_coverage),
        tissue_area_mm2=mask_area_mm2(mask, slide.l0_bounds, slide.mpp),
        grid_tiles=grid.n_candidates,
        unreadable_tiles=store.n_unreadable,
        cell_um=grid.l0_stride * slide.mpp,
        blurred=table.blur > BLURRED_ABOVE,
        upsampled=slide.mpp > config.grid.mpp * MAX_UPSAMPLING_OF_LEVEL,
        min_coverage=config.min_coverage,
    )
    picture = slide.thumbnail(mpp := picture_mpp(slide, PICTURE_PX))
    reliability = reliability_of(provenance.score_error, picture, mpp, mask, summary.quality)
    summary = judged(summary, reliability)
    write_numbers(folder, store, table, maps, config.overlay, reliability)
    write_pictures(folder, slide, picture, maps, summary, config.overlay)
    if bed is not None:
        write_bed(folder / BED, bed, slide=slide.name, l0_size=slide.l0_size)
    shown = Shown(picture, maps, mask, bed, flagged_tiles(table, grid.l0_tile))
    write_report(folder / REPORT, summary, shown)
    return summary


def _refusal(
    error: TissueError,
    mask: NDArray[np.bool_],
    slide: Slide,
    provenance: Provenance,
    config: ScoreConfig,
) -> SlideSummary:
    """Summarise a slide on which nothing can be scored."""
    log.warning("%s", error)
    summary = summarise(
        TileTable.empty(len(CLASSES)),
        provenance=provenance,
        tissue_area_mm2=mask_area_mm2(mask, slide.l0_bounds, slide.mpp),
        grid_tiles=0,
        unreadable_tiles=0,
        cell_um=config.grid.stride_px * config.grid.mpp,
        blurred=np.zeros(0, np.bool_),
        upsampled=False,
        min_coverage=config.min_coverage,
    )
    return summary.model_copy(update={"reason": str(error)})


def _log_end(summary: SlideSummary, start: float) -> None:
    log.info("%s in %.1f s", summary.status, time.perf_counter() - start)
