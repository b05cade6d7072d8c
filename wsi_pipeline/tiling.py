"""Fills a `TileStore` from a `Slide`, shard by shard, over Dask's threads.

Decoding, resampling and compressing release the GIL, so threads suffice on one machine. Shards are
yielded as they are committed: whoever scores them works while the next are being read.
"""

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideError, SlideUnavailableError
from wsi_pipeline.geometry import Size
from wsi_pipeline.grid import TileGrid
from wsi_pipeline.slide import Slide
from wsi_pipeline.store import ShardPixels, TileState, TileStore
from wsi_pipeline.tissue import blur_score, pen_fraction

log = logging.getLogger(__name__)


def read_tile(slide: Slide, grid: TileGrid, index: int, tile_px: int) -> NDArray[np.uint8] | None:
    """Read one tile, uint8 [tile_px, tile_px, 3]; None, and a warning, if it is damaged.

    Raises:
        SlideUnavailableError: if the file cannot be reached now, or is no longer the same.

    """
    try:
        return slide.read(grid.l0_box(index), Size(tile_px, tile_px))
    except SlideUnavailableError:
        # The drive is away: nothing is known of the tile, and nothing is to be stored.
        raise
    except SlideError as error:
        log.warning("A tile is left out. %s", error)
        return None


def read_shard(
    slide: Slide,
    grid: TileGrid,
    shard: slice,
    tile_px: int,
    memory: NDArray[np.uint8] | None = None,
) -> ShardPixels:
    """Read and measure the tiles of one shard; those that cannot be read are marked, and black.

    Args:
        slide: to read from.
        grid: the slide's.
        shard: the tiles.
        tile_px: side of a tile in pixels.
        memory: uint8 [at least n, tile_px, tile_px, 3] to put the pixels into.

    """
    count = shard.stop - shard.start
    rgb = np.empty((count, tile_px, tile_px, 3), np.uint8) if memory is None else memory[:count]
    blur, pen = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    readable = np.ones(count, np.bool_)
    for row, index in enumerate(range(shard.start, shard.stop)):
        tile = read_tile(slide, grid, index, tile_px)
        if tile is None:
            readable[row] = False
            rgb[row] = 0
        else:
            rgb[row] = tile
            blur[row], pen[row] = blur_score(rgb[row]), pen_fraction(rgb[row])
    return ShardPixels(rgb, blur, pen, readable)


@contextmanager
def tile_slide(
    slide: Slide, store: TileStore, *, tile_px: int, workers: int
) -> Iterator[Iterator[slice]]:
    """Store all tiles that are not stored yet; give each shard that then waits for its scores.

    Shards that an earlier run has stored but not scored come first. Leaving the context stops the
    reading after the shards at hand, and waits for them.

    Args:
        slide: to read from.
        store: to fill.
        tile_px: side of a tile in pixels.
        workers: threads that read.

    """
    grid = store.grid
    states = [(shard, store.state(shard)) for shard in store.shards]
    missing = [shard for shard, state in states if (state == TileState.PENDING).any()]
    waiting = [
        shard
        for shard, state in states
        if (state == TileState.STORED).any() and shard not in missing
    ]
    done: queue.SimpleQueue[slice | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    # Memory of one shard for each thread: had anew for each shard, it costs as much as measuring.
    memories: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
    longest = max((shard.stop - shard.start for shard in missing), default=0)
    for _ in range(workers):
        memories.put(np.empty((longest, tile_px, tile_px, 3), np.uint8))

    def fill(shard: slice) -> None:
        if not stop.is_set():
            memory = memories.get()
            try:
                store.commit_pixels(shard, read_shard(slide, grid, shard, tile_px, memory))
            finally:
                memories.put(memory)
            done.put(shard)

    def fill_all() -> None:
        # Dask breaks ties by key and takes the last first: keys that fall keep the file's order.
        tasks = [
            delayed(fill, traverse=False)(
                shard, dask_key_name=f"shard-{len(store) - shard.start:09d}"
            )
            for shard in missing
        ]
        try:
            compute(*tasks, scheduler="threads", num_workers=workers)  # type: ignore[no-untyped-call]
        # Handed to the consumer's thread, which raises it.
        except BaseException as error:  # noqa: BLE001
            done.put(error)
        else:
            done.put(None)

    def committed() -> Iterator[slice]:
        yield from waiting
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    reader = threading.Thread(target=fill_all, name="tiling", daemon=True)
    reader.start()
    # A context and not a generator's own end: that may come with the garbage collection, in any
    # thread, and the reader may need that very thread (zarr's) to finish.
    try:
        yield committed()
    finally:
        stop.set()
        reader.join()
