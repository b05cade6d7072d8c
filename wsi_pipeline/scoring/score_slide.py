"""The whole way of one slide, from its file to its outputs, without Prefect.

Outputs, in a folder named after the slide (`summary.json` comes last: its presence says that the
slide is finished, and a run that finds it with its own digest has nothing to do)::

    tissue.png, tissue-outline.png, thumbnail.png
    tiles.zarr                              the store, here or where `store.root` says
    cellularity.ome.tiff, overlay.tif, overlay.png, legend.png
    tiles.geojson, tiles.parquet
    summary.json
    run.log                                 the only file that two runs do not share byte by byte
"""

import logging
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import wsi_pipeline
from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.engine.base import Engine, build_engine
from wsi_pipeline.errors import (
    ConfigError,
    SlideChangedError,
    StoreError,
    TissueError,
    WsiError,
)
from wsi_pipeline.facts import BundleFacts, GridFacts, ScoringFacts, SlideFacts, TilingFacts
from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import MAX_UPSAMPLING_OF_LEVEL, Box, Mpp
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.model.architecture import CLASSES
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.outputs.cellularity_tiff import write_cellularity
from wsi_pipeline.outputs.geojson import write_geojson
from wsi_pipeline.outputs.overlay import (
    picture_mpp,
    write_legend,
    write_overlay,
    write_overlay_picture,
    write_thumbnail,
)
from wsi_pipeline.outputs.provenance import Provenance, Settings
from wsi_pipeline.outputs.score_map import build_score_map
from wsi_pipeline.outputs.summary import SlideSummary, summarise
from wsi_pipeline.outputs.tile_table import write_parquet
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.folder import (
    SUMMARY,
    exclusive,
    holds,
    is_store_of,
    prepare,
    publish,
    read_summary,
    require_in_place,
    roll_forward,
    store_place,
)
from wsi_pipeline.scoring.run_log import log_file, stage
from wsi_pipeline.scoring.score_tiles import score_shards
from wsi_pipeline.scoring.verify import finished, store_fault
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.redaction import without_name
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import TileTable
from wsi_pipeline.tiles.fill import Pixels, fill
from wsi_pipeline.tiles.grid import TileGrid, mask_area_mm2, require_resolution, tile_grid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import StorePath
from wsi_pipeline.tiles.tissue import BLURRED_ABOVE, outline_picture, tissue_of

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles in all."""

ModelSlot = Callable[[], AbstractContextManager[object]]
"""Entered while a slide uses the model, for those who score several slides on one device."""

Scorer = Engine | Cluster
"""A model, here or on a cluster."""


def _silent(_done: int, _total: int) -> None:
    """Report no progress."""


def start_engine(bundle: ModelBundle, config: ScoreConfig) -> Scorer:
    """Make a model ready, on this machine or on the cluster that the configuration names.

    Raises:
        WsiError: if it cannot be run there.

    """
    if config.cluster is None:
        return build_engine(bundle, config.engine)
    return Cluster(bundle, config.engine, config.cluster)


def score_slide(
    found: SlideFile | str | Path,
    out: Path,
    engine: Scorer,
    config: ScoreConfig,
    progress: Progress = _silent,
    *,
    model_slot: ModelSlot = nullcontext,
    on_known: Callable[[], None] = lambda: None,
) -> SlideSummary:
    """Score one slide; go on where an earlier run of the same slide and configuration stopped.

    Args:
        found: the slide's path or fsspec URL, or its file as `naming.file_slide` finds it.
        out: the folder that gets one folder per slide.
        engine: the model, as `start_engine` gives it.
        config: everything else.
        progress: told as tiles are scored.
        model_slot: held while tiles are scored. Tiles are read and stored before it is had.
        on_known: called if an earlier run has finished the slide, and nothing is to be done.

    Returns:
        the summary; its status is "scored", or "refused" where there is no tissue or too little of
        it could be read. It is written to `summary.json`, unless it is refused and a figure from
        other settings is there.

    Raises:
        WsiError: if the slide cannot be scored at all.

    """
    _require_fit(engine, config)
    settings = config.settings(engine.bundle)
    file = _at_the_door(found, config)
    folder = out / file.folder
    with exclusive(folder), log_file(folder / "run.log"), _called(file):
        log.info("Scoring %s with %s", folder.name, engine.bundle.card.name)
        start = time.perf_counter()
        roll_forward(folder)
        with _open(file, config) as slide:
            with stage("digest"):
                seen, digest = _digest_now(slide, file)
            done = finished(folder, digest, settings)
            if done is not None:
                log.info("Already scored with this bundle and configuration; nothing to do")
                on_known()
                return done
            require_resolution(slide.mpp, config.grid, slide.name)
            staged = prepare(folder)
            mask = find_tissue(slide, staged, config)
            kept = _kept_store(folder, digest, settings, config)
            if kept is not None:
                log.warning("Its outputs are not what they were; they are written again")
                store, provenance = kept
            else:
                tiling = tiling_facts(slide, digest, config)
                provenance = _provenance(slide, tiling, settings, engine)
                try:
                    grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
                except TissueError as error:
                    _require_unchanged(slide, file, seen, digest)
                    return _settled(folder, _refused(error, mask, slide, provenance, config), start)
                place = store_place(
                    folder, config.store, provenance.tiling_digest, provenance.scoring_digest
                )
                store = open_store(place, grid, tiling)
                _fill_and_score(
                    file.location,
                    slide,
                    provenance.slide,
                    store,
                    engine,
                    config,
                    progress,
                    model_slot,
                )
            require_in_place(folder)
            with stage("outputs"):
                write_outputs(staged, store, config, slide)
                try:
                    _require_unchanged(slide, file, seen, digest)
                except SlideChangedError:
                    store.set_aside()  # nobody can tell of which bytes its scores are
                    raise
                summary = _summary_of(store, mask, slide, provenance, config)
            if not config.keep_tiles:
                store.drop_pixels()
            return _settled(folder, summary, start)


def tile(
    found: SlideFile | str | Path, out: Path, config: ScoreConfig, progress: Progress = _silent
) -> TileStore:
    """Find the tissue of a slide and store its tiles, without scoring them.

    Raises:
        WsiError: if the slide cannot be tiled.

    """
    file = _at_the_door(found, config)
    folder = out / file.folder
    with (
        exclusive(folder),
        log_file(folder / "run.log"),
        _called(file),
        _open(file, config) as slide,
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


def write_again(
    folder: Path, config: ScoreConfig, location: str | Path | None = None
) -> SlideSummary:
    """Write the outputs of a scored slide again, from its store.

    Args:
        folder: the slide's.
        config: for the overlay.
        location: the slide's file; without it the pictures of the slide stay as they are.

    Returns:
        the summary, which names the new files.

    Raises:
        ConfigError: if there is no result, or the file is another slide.
        WsiError: if the store is damaged, or the slide cannot be read.

    """
    summary = read_summary(folder)
    if summary is None or summary.status != "scored":
        raise ConfigError(f"{folder}: there is no finished result here. Run `wsi score` first.")
    with exclusive(folder), log_file(folder / "run.log"):
        roll_forward(folder)
        summary = read_summary(folder) or summary
        made = summary.provenance
        place = config.store.path(folder)
        if not is_store_of(place, made):
            raise StoreError(
                f"{place}: this is not the store of the result beside it, or it is damaged. Run "
                f"`wsi score` again."
            )
        staged, store = prepare(folder), TileStore(place)
        if location is None:
            write_outputs(staged, store, config, None)
            return publish(folder, summary)
        about = made.slide
        with Slide.open(
            location, backend=about.backend, mpp=Mpp(about.mpp), name=about.name
        ) as slide:
            if slide.digest() != about.digest:
                raise ConfigError(
                    f"{location}: this is not the slide that {folder} was scored from "
                    f"({about.name}). Name that one, or leave --slide out."
                )
            write_outputs(staged, store, config, slide)
        settings = made.config.model_copy(update={"overlay": config.overlay})
        drawn = made.model_copy(update={"config": settings, "config_digest": settings.digest})
        return publish(folder, summary.model_copy(update={"provenance": drawn}))


def find_tissue(slide: Slide, folder: Path, config: ScoreConfig) -> NDArray[np.bool_]:
    """Find the tissue and draw it: bool [rows, columns] over the slide's bounds."""
    with stage("tissue"):
        mask = tissue_of(slide, config.tissue)
        picture = slide.thumbnail(picture_mpp(slide))
        size = (picture.shape[1], picture.shape[0])
        drawn = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        write_thumbnail(folder / "thumbnail.png", picture)
        write_thumbnail(
            folder / "tissue-outline.png", outline_picture(picture, np.asarray(drawn, np.bool_))
        )
        with atomic_path(folder / "tissue.png") as partial:
            Image.fromarray(mask.astype(np.uint8) * 255).save(partial)
    return mask


def open_store(path: StorePath, grid: TileGrid, tiling: TilingFacts) -> TileStore:
    """Make the store, or open the one that an earlier run left off in."""
    log.info("%d of %d tiles hold tissue", len(grid), grid.n_candidates)
    return TileStore.create_or_resume(
        path, grid, tile_px=tiling.grid.tile_px, tiling=tiling.model_dump(mode="json")
    )


def write_outputs(folder: Path, store: TileStore, config: ScoreConfig, slide: Slide | None) -> None:
    """Write the map, tables and, given the slide, the pictures from a scored store.

    Raises:
        StoreError: if the store is not scored.

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
        write_overlay(folder / "overlay.tif", slide, score_map, config.overlay)
        write_overlay_picture(
            folder / "overlay.png",
            slide.thumbnail(picture_mpp(slide)),
            slide.l0_bounds,
            score_map,
            config.overlay,
        )


def tiling_facts(slide: Slide, digest: str, config: ScoreConfig) -> TilingFacts:
    """Return all that decides the tiles of a slide of this digest."""
    bounds = slide.l0_bounds
    view = slide.view_for(config.grid.mpp / slide.mpp)
    return TilingFacts(
        slide_digest=digest,
        l0_bounds=(bounds.x, bounds.y, bounds.width, bounds.height),
        mpp=slide.mpp,
        level=view.level,
        shrink=view.shrink,
        tissue=config.tissue,
        grid=GridFacts.of(config.grid),
    )


def scoring_facts(engine: Scorer) -> ScoringFacts:
    """Return all that decides the scores of given tiles."""
    card, execution = engine.bundle.card, engine.execution
    return ScoringFacts(
        bundle=BundleFacts(
            name=card.name,
            version=card.version,
            digest=engine.bundle.digest,
            demonstration=card.demonstration,
        ),
        classes=card.architecture.classes,
        runtime=execution.runtime,
        precision=execution.precision,
        graph=execution.graph,
        views=engine.config.views,
        class_fractions=engine.config.class_fractions,
    )


def _fill_and_score(
    location: str | Path,
    slide: Slide,
    about: SlideFacts,
    store: TileStore,
    engine: Scorer,
    config: ScoreConfig,
    progress: Progress,
    model_slot: ModelSlot,
) -> None:
    """Read, store and score what is left, here or on a cluster."""
    scoring = scoring_facts(engine)
    store.begin_scoring(scoring.model_dump(mode="json"), len(scoring.classes))
    before = store.n_scored
    if before:
        log.info("%d tiles had been scored by an earlier run", before)
    progress(before, len(store))

    def report(_count: int) -> None:
        progress(store.n_scored, len(store))

    start = time.perf_counter()
    with stage("tiling and scoring"):
        if isinstance(engine, Cluster):
            if config.keep_tiles:
                store.make_room_for_pixels()
            engine.score(
                location,
                about,
                store,
                tile_px=config.grid.tile_px,
                keep_pixels=config.keep_tiles,
                on_scored=report,
            )
        else:
            _fill_and_score_here(slide, store, engine, config, report, model_slot)
    seconds = time.perf_counter() - start
    scored = store.n_scored - before
    log.info("%d tiles scored, %.2f tiles/s", scored, scored / seconds)
    if slide.repaired_reads:
        log.warning("%d reads succeeded only at a second try", slide.repaired_reads)


def _fill_and_score_here(
    slide: Slide,
    store: TileStore,
    engine: Engine,
    config: ScoreConfig,
    report: Callable[[int], None],
    model_slot: ModelSlot,
) -> None:
    """Read, store and score what is left, all three at once."""
    stored: Pixels = "until scored" if config.store.pixels else "in memory"
    # Reading starts before the model is free: another slide may still be using it.
    with (
        fill(
            slide,
            store,
            workers=config.workers,
            pixels="kept" if config.keep_tiles else stored,
        ) as shards,
        model_slot(),
    ):
        score_shards(store, engine, shards, report)


def _at_the_door(found: SlideFile | str | Path, config: ScoreConfig) -> SlideFile:
    return found if isinstance(found, SlideFile) else file_slide(str(found), config.names)


def _open(file: SlideFile, config: ScoreConfig) -> Slide:
    with stage("open"):
        return Slide.open(
            file.location, backend=config.slide.backend, mpp=config.slide.mpp, name=file.name
        )


def _digest_now(slide: Slide, file: SlideFile) -> tuple[str, str]:
    """Return the fingerprint of a slide's files, and the digest of the bytes that they hold.

    Raises:
        SlideChangedError: if they are not those that were filed.

    """
    seen = file.seen_now()
    if file.digest is not None and file.fingerprint == seen:
        return seen, file.digest
    digest = slide.digest()
    if digest != (file.digest or digest):
        raise _changed(slide, "it was looked into")
    return seen, digest


def _require_unchanged(slide: Slide, file: SlideFile, seen: str, digest: str) -> None:
    """Raise if a slide's bytes are no longer those of its digest; a mere touch is no change."""
    if file.seen_now() != seen and slide.digest() != digest:
        raise _changed(slide, "it was begun with")


def _changed(slide: Slide, when: str) -> SlideChangedError:
    return SlideChangedError(
        f"{slide.name}: the file has changed since {when}, so that no figure would be of one "
        f"slide. Wait until it is copied, and score it again."
    )


@contextmanager
def _called(file: SlideFile) -> Iterator[None]:
    """Have errors call the slide by the name that it is filed under."""
    try:
        with enough_memory(f"{file.name}: working on it"):
            yield
    except WsiError as error:
        message = without_name(str(error), file)
        if message == str(error):
            raise
        raise type(error)(message) from error.__cause__


def _kept_store(
    folder: Path, digest: str, settings: Settings, config: ScoreConfig
) -> tuple[TileStore, Provenance] | None:
    """Return the whole store of a finished result that lost others of its files, and its story."""
    summary = read_summary(folder)
    if summary is None or summary.status != "scored" or not holds(summary, digest, settings):
        return None
    place = config.store.path(folder)
    if not is_store_of(place, summary.provenance):
        return None
    store = TileStore(place)
    return None if store_fault(store) else (store, summary.provenance)


def _settled(folder: Path, summary: SlideSummary, start: float) -> SlideSummary:
    """Put a result into place; a refusal does not take the place of a figure."""
    require_in_place(folder)
    before = read_summary(folder)
    if summary.status == "refused" and before is not None and before.status == "scored":
        log.warning("Refused. The figure of an earlier run, with other settings, is left in place")
    else:
        summary = publish(folder, summary)
    log.info("%s in %.1f s", summary.status, time.perf_counter() - start)
    return summary


def _provenance(
    slide: Slide, tiling: TilingFacts, settings: Settings, engine: Scorer
) -> Provenance:
    """Return where the outputs come from, as it goes into the summary."""
    scoring, execution = scoring_facts(engine), engine.execution
    software = {
        "wsi-pipeline": wsi_pipeline.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": np.__version__,
    }
    if execution.runtime == "openvino":
        software["openvino"] = version("openvino")
    return Provenance(
        slide=SlideFacts(
            name=slide.name,
            size_bytes=slide.size_bytes,
            digest=tiling.slide_digest,
            vendor=slide.vendor,
            backend=slide.backend,
            width_px=slide.l0_size.width,
            height_px=slide.l0_size.height,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
        ),
        bundle=scoring.bundle,
        config=settings,
        config_digest=settings.digest,
        tiling_digest=tiling.digest,
        scoring_digest=scoring.digest,
        execution=execution,
        software=software,
    )


def _summary_of(
    store: TileStore,
    mask: NDArray[np.bool_],
    slide: Slide,
    provenance: Provenance,
    config: ScoreConfig,
) -> SlideSummary:
    grid, table = store.grid, store.table()
    return summarise(
        table,
        provenance=provenance,
        tissue_area_mm2=mask_area_mm2(mask, slide.l0_bounds, slide.mpp),
        grid_tiles=grid.n_candidates,
        unreadable_tiles=store.n_unreadable,
        cell_um=grid.l0_stride * slide.mpp,
        blurred=table.blur > BLURRED_ABOVE,
        upsampled=slide.mpp > config.grid.mpp * MAX_UPSAMPLING_OF_LEVEL,
        min_coverage=config.min_coverage,
    )


def _refused(
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


def _require_fit(engine: Scorer, config: ScoreConfig) -> None:
    """Raise if tiles would not be what the model was trained on."""
    card, grid = engine.bundle.card, config.grid
    if (grid.mpp, grid.tile_px) != (card.mpp, card.tile_px):
        raise ConfigError(
            f"The bundle {card.name} takes tiles of {card.tile_px} px at {card.mpp:g} µm/px, but "
            f"the configuration makes them of {grid.tile_px} px at {grid.mpp:g} µm/px. Change "
            f"grid.tile_px and grid.mpp, or take another bundle."
        )
