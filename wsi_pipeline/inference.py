"""Batches from the store to scores in the same store.

Four parties overlap, each waiting only for what it needs: threads read the slide and commit shards
(`wsi_pipeline.tiling`), one thread loads committed shards from the store, the model scores the
shard that was loaded before, and one thread commits the scores of those before that.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine import Engine
from wsi_pipeline.errors import StoreError
from wsi_pipeline.store import Scores, TileState, TileStore

log = logging.getLogger(__name__)

Loaded = tuple[slice, NDArray[np.uint8]] | BaseException | None
"""A shard and its pixels, what went wrong, or the end."""

SHARDS_AHEAD = 2
"""Loaded shards that may wait for the model: at most 100 MiB."""

COMMITS_BEHIND = 2
"""Scored shards that may wait to be stored. More would only hide that the disk is too slow."""


def score_shards(
    store: TileStore,
    engine: Engine,
    shards: Iterator[slice],
    on_scored: Callable[[int], None] = lambda _count: None,
) -> None:
    """Score shards as they come.

    A shard whose pixels turn out to be damaged on disk is marked as unread, for the next pass.

    Args:
        store: where pixels come from and scores go.
        engine: the model.
        shards: committed shards, as `tile_slide` gives them.
        on_scored: told the number of tiles after each commit, by the thread that commits.

    """
    loaded: queue.Queue[Loaded] = queue.Queue(SHARDS_AHEAD)
    stop = threading.Event()

    def offer(item: Loaded) -> None:
        while not stop.is_set():
            try:
                loaded.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def load() -> None:
        try:
            for shard in shards:
                if stop.is_set():
                    return
                try:
                    offer((shard, store.read_pixels(shard)))
                except StoreError as error:
                    log.warning("%s They will be read from the slide again.", error)
                    store.forget_pixels(shard)
        # Handed to the consumer's thread, which raises it.
        except BaseException as error:  # noqa: BLE001
            offer(error)
        else:
            offer(None)

    def commit(shard: slice, wanted: NDArray[np.bool_], scores: Scores) -> None:
        store.commit_scores(shard, wanted, scores)
        on_scored(int(wanted.sum()))

    loader = threading.Thread(target=load, name="loading", daemon=True)
    loader.start()
    commits: deque[Future[None]] = deque()
    waited = 0.0
    start = time.perf_counter()
    with ThreadPoolExecutor(1, thread_name_prefix="committing") as committer:
        try:
            while (item := loaded.get()) is not None:
                waited += time.perf_counter() - start
                if isinstance(item, BaseException):
                    raise item
                shard, pixels = item
                wanted = store.state(shard) == TileState.STORED
                if wanted.any():
                    scores = engine.predict(pixels[wanted])
                    commits.append(committer.submit(commit, shard, wanted, scores))
                while len(commits) > COMMITS_BEHIND:
                    commits.popleft().result()
                start = time.perf_counter()
            for pending in commits:
                pending.result()
        finally:
            stop.set()
            loader.join()
    log.info("the model waited %.2f s for pixels", waited)
