"""Pixels to scores in the store.

Three parties overlap, each waiting only for what it needs: threads read the slide
(`tiles.fill`), the model scores the shard that was read before, and one thread commits the
scores of those before that.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from wsi_pipeline.engine.base import Engine
from wsi_pipeline.tile_data import Measures, Scores, ShardPixels, TileState
from wsi_pipeline.tiles.store import TileStore

log = logging.getLogger(__name__)

COMMITS_BEHIND = 2
"""Scored shards that may wait to be stored. More would only hide that the disk is too slow."""


def score_shards(
    store: TileStore,
    engine: Engine,
    shards: Iterator[tuple[slice, ShardPixels]],
    on_scored: Callable[[int], None] = lambda _count: None,
) -> None:
    """Score shards as they come; those that have been scored already are passed over.

    Args:
        store: where scores go.
        engine: the model.
        shards: with their pixels, as `wsi_pipeline.tiles.fill.fill` gives them.
        on_scored: told the number of tiles after each commit, by the thread that commits.

    """

    def commit(shard: slice, measures: Measures, scores: Scores | None) -> None:
        store.commit_scores(shard, measures, scores)
        on_scored(int(measures.readable.sum()))

    commits: deque[Future[None]] = deque()
    waited = 0.0
    start = time.perf_counter()
    with ThreadPoolExecutor(1, thread_name_prefix="committing") as committer:
        for shard, pixels in shards:
            waited += time.perf_counter() - start
            if not (store.state(shard) == TileState.SCORED).any():
                scores = _scores_of(pixels, engine)
                commits.append(committer.submit(commit, shard, pixels.measures, scores))
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
