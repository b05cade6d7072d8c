"""Batches from the store to scores in the same store.

Three parties overlap, each waiting only for what it needs: threads read the slide and commit shards
(`wsi_pipeline.tiling`), one thread loads committed shards from the store, and the model scores the
shard that was loaded before.
"""

import logging
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine import TorchEngine
from wsi_pipeline.errors import StoreError
from wsi_pipeline.store import TileState, TileStore

log = logging.getLogger(__name__)

SHARDS_AHEAD = 2
"""Loaded shards that may wait for the model: at most 100 MiB."""


def score_shards(store: TileStore, engine: TorchEngine, shards: Generator[slice]) -> Iterator[int]:
    """Score shards as they come, and yield the number of tiles after each commit.

    A shard whose pixels turn out to be damaged on disk is marked as unread, for the next pass.

    Args:
        store: where pixels come from and scores go.
        engine: the model.
        shards: committed shards, as `tile_slide` yields them; closed in the end.

    """
    loaded: queue.Queue[tuple[slice, NDArray[np.uint8]] | BaseException | None] = queue.Queue(
        SHARDS_AHEAD
    )
    stop = threading.Event()

    def offer(item: tuple[slice, NDArray[np.uint8]] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                loaded.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def load() -> None:
        try:
            with closing(shards):
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

    loader = threading.Thread(target=load, name="loading", daemon=True)
    loader.start()
    try:
        while (item := loaded.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            shard, pixels = item
            wanted = store.state(shard) == TileState.STORED
            if not wanted.any():
                continue
            store.commit_scores(shard, wanted, engine.predict(pixels[wanted]))
            yield int(wanted.sum())
    finally:
        stop.set()
        loader.join()
