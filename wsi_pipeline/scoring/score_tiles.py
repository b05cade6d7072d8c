"""Pixels to scores in the store, on this machine or on a cluster.

On this machine three parties overlap, each waiting only for what it needs: threads read the slide
(`tiles.fill`), the model scores the shard that was read before, and one thread commits the
scores of those before that.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.engine.base import Engine
from wsi_pipeline.facts import SlideFacts
from wsi_pipeline.model.architecture import SQUARE_PX
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.identity import scoring_facts
from wsi_pipeline.scoring.run_log import stage
from wsi_pipeline.scoring.scorer import Scorer
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import Measures, Scores, ShardPixels, TileState
from wsi_pipeline.tiles.fill import Pixels, fill
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_rows import commit_rows

log = logging.getLogger(__name__)

COMMITS_BEHIND = 2
"""Scored shards that may wait to be stored. More would only hide that the disk is too slow."""

Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles in all."""

ModelSlot = Callable[[], AbstractContextManager[object]]
"""Entered while a slide uses the model, for those who score several slides on one device."""


def fill_and_score(
    slide: Slide,
    store: TileStore,
    engine: Scorer,
    config: ScoreConfig,
    *,
    location: str,
    about: SlideFacts,
    progress: Progress,
    model_slot: ModelSlot,
) -> None:
    """Read, store and score all tiles of a slide that an earlier run has not scored.

    Args:
        slide: where pixels are read.
        store: what the tiles and their scores go into.
        engine: the model.
        config: what to keep, and how many threads read.
        location: the slide's path or URL, for the workers of a cluster.
        about: how the slide is understood, for them too.
        progress: told as tiles are scored.
        model_slot: held while the model is used here; tiles are read before it is had.

    Raises:
        SlideError: if the slide can no longer be read.
        StoreError: if the store can no longer be read.
        ClusterError: if the cluster is lost.

    """
    begin(store, engine)
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


def begin(store: TileStore, engine: Scorer) -> None:
    """Make room for a model's scores, or go on with those of the very same model and config."""
    scoring = scoring_facts(engine)
    card = engine.bundle.card
    told = card.architecture.tells_areas and engine.config.class_fractions
    store.begin_scoring(
        scoring.model_dump(mode="json"),
        len(scoring.classes),
        squares=card.tile_px // SQUARE_PX if told else None,
    )


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


def score_shards(
    store: TileStore,
    engine: Engine,
    shards: Iterator[tuple[slice, ShardPixels]],
    on_scored: Callable[[int], None] = lambda _count: None,
) -> None:
    """Score shards as they come; tiles that have been scored already are passed over.

    Args:
        store: where scores go.
        engine: the model.
        shards: with their pixels, as `wsi_pipeline.tiles.fill.fill` gives them.
        on_scored: told the number of tiles after each commit, by the thread that commits.

    """

    def commit(shard: slice, measures: Measures, scores: Scores | None) -> None:
        store.commit_scores(shard, measures, scores)
        on_scored(int(measures.readable.sum()))

    def commit_some(rows: NDArray[np.int64], measures: Measures, scores: Scores | None) -> None:
        commit_rows(store, rows, measures, scores)
        on_scored(len(rows))

    commits: deque[Future[None]] = deque()
    waited = 0.0
    start = time.perf_counter()
    with ThreadPoolExecutor(1, thread_name_prefix="committing") as committer:
        for shard, pixels in shards:
            waited += time.perf_counter() - start
            scored = store.state(shard) == TileState.SCORED
            if not scored.any():
                scores = _scores_of(pixels, engine)
                commits.append(committer.submit(commit, shard, pixels.measures, scores))
            elif not scored.all():
                rows = np.flatnonzero(~scored)
                found = pixels.of(rows)
                scores = _scores_of(found, engine)
                commits.append(
                    committer.submit(commit_some, shard.start + rows, found.measures, scores)
                )
            while len(commits) > COMMITS_BEHIND:
                commits.popleft().result()
            start = time.perf_counter()
        for pending in commits:
            pending.result()
    log.info("the model waited %.2f s for pixels", waited)


def _scores_of(pixels: ShardPixels, engine: Engine) -> Scores | None:
    readable = pixels.measures.readable
    if not readable.any():
        return None
    return engine.predict(pixels.rgb if readable.all() else pixels.rgb[readable])
