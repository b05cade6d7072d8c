"""From a `Slide` to the pixels of its tiles, shard by shard, over Dask's threads.

Decoding, resampling and compressing release the GIL, so threads suffice on one machine. Shards are
yielded as they are read: whoever scores them works while the next are being read. The store is a
tee beside this way. It keeps pixels for a run that goes on after a kill, and for a model that is
behind.
"""

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from wsi_pipeline.errors import DamagedStoreError, SlideError, SlideUnavailableError
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import Measures, ShardPixels, TileState
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.tissue import blur_score, pen_fraction
from wsi_pipeline.tiles.unscanned import black_fraction

log = logging.getLogger(__name__)

Pixels = Literal["kept", "until scored", "in memory"]
"""How long a store keeps pixels: for good, until they are dropped after scoring, or not at all."""

SHARDS_AHEAD = 2
"""Shards in memory that may wait for the model: at most 100 MiB."""

MAX_BLACK = 0.25
"""Share of a tile's tissue that may be black, as holes of the scan are."""


def read_tile(slide: Slide, grid: TileGrid, index: int, tile_px: int) -> NDArray[np.uint8] | None:
    """Read one tile, uint8 [tile_px, tile_px, 3]; None, and a warning, if it cannot be scored.

    That is, if it is damaged, or black where tissue is: what was never scanned has no score.

    Raises:
        SlideUnavailableError: if the file cannot be reached now, or is no longer the same.

    """
    try:
        tile = slide.read(grid.l0_box(index), Size(tile_px, tile_px))
    except SlideUnavailableError:
        # The drive is away: nothing is known of the tile, and nothing is to be stored.
        raise
    except SlideError as error:
        log.warning("A tile is left out. %s", error)
        return None
    tissue = float(grid.tissue[index])
    if tissue + black_fraction(tile) - 1 > MAX_BLACK * tissue:
        log.warning(
            "A tile is left out. %s: black at level 0's %s: nothing was scanned there",
            slide.name,
            grid.l0_box(index),
        )
        return None
    return tile


def read_shard(
    slide: Slide,
    grid: TileGrid,
    shard: slice,
    tile_px: int,
    memory: NDArray[np.uint8] | None = None,
) -> ShardPixels:
    """Read and measure the tiles of one shard; see `read_tiles`."""
    return read_tiles(slide, grid, range(shard.start, shard.stop), tile_px, memory)


def read_tiles(
    slide: Slide,
    grid: TileGrid,
    indices: Sequence[int],
    tile_px: int,
    memory: NDArray[np.uint8] | None = None,
) -> ShardPixels:
    """Read and measure tiles; those that cannot be read are marked, and black.

    Args:
        slide: to read from.
        grid: the slide's.
        indices: of the tiles.
        tile_px: side of a tile in pixels.
        memory: uint8 [at least n, tile_px, tile_px, 3] to put the pixels into.

    """
    count = len(indices)
    rgb = np.empty((count, tile_px, tile_px, 3), np.uint8) if memory is None else memory[:count]
    blur, pen = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    readable = np.ones(count, np.bool_)
    for row, index in enumerate(indices):
        tile = read_tile(slide, grid, index, tile_px)
        if tile is None:
            readable[row] = False
            rgb[row] = 0
        else:
            rgb[row] = tile
            blur[row], pen[row] = blur_score(rgb[row]), pen_fraction(rgb[row])
    return ShardPixels(rgb, Measures(blur, pen, readable))


@contextmanager
def fill(
    slide: Slide, store: TileStore, *, workers: int, pixels: Pixels
) -> Iterator[Iterator[tuple[slice, ShardPixels]]]:
    """Read all tiles that are not scored yet, and give each shard with its pixels.

    Shards that an earlier run has stored and not scored come first. A shard's pixels are good until
    the next one is asked for. Those that the model has no time for leave memory once they are
    stored, and are read back later; where none are stored, reading waits for the model. Leaving the
    context stops the reading after the shards at hand, and waits for them.

    Args:
        slide: to read from.
        store: of the same slide.
        workers: threads that read.
        pixels: whether and for how long they are stored.

    """
    grid, tile_px, storing = store.grid, store.tile_px, pixels != "in memory"
    if storing:
        store.make_room_for_pixels()
    waiting: list[slice] = []
    missing: list[slice] = []
    for shard, stored in zip(store.shards, store.have_pixels(), strict=True):
        state = store.state(shard)
        if (state < TileState.SCORED).any():
            here = stored and (state != TileState.PENDING).all()
            (waiting if here else missing).append(shard)
        elif pixels == "kept" and not stored:
            missing.append(shard)
    ready: queue.SimpleQueue[_Ready | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    room = threading.Semaphore(SHARDS_AHEAD)
    # Memory of one shard each: had anew for each shard, it costs as much as measuring.
    memories: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
    longest = max((shard.stop - shard.start for shard in missing), default=0)
    for _ in range(workers + SHARDS_AHEAD):
        memories.put(np.empty((longest, tile_px, tile_px, 3), np.uint8))

    def commit(shard: slice, found: ShardPixels) -> None:
        store.commit_pixels(shard, found, lasting=pixels == "kept")

    def read(shard: slice) -> None:
        if stop.is_set():
            return
        memory = memories.get()
        found = read_shard(slide, grid, shard, tile_px, memory)
        if storing:
            commit(shard, found)
        if room.acquire(blocking=not storing):
            ready.put((shard, found, memory))
        else:
            memories.put(memory)
            ready.put((shard, None, memory))

    def read_all() -> None:
        # Dask breaks ties by key and takes the last first: keys that fall keep the file's order.
        tasks = [
            delayed(read, traverse=False)(
                shard, dask_key_name=f"shard-{len(store) - shard.start:09d}"
            )
            for shard in missing
        ]
        try:
            compute(*tasks, scheduler="threads", num_workers=workers)  # type: ignore[no-untyped-call]
        # Handed to the consumer's thread, which raises it.
        except BaseException as error:  # noqa: BLE001
            ready.put(error)
        else:
            ready.put(None)

    def read_back(shard: slice) -> ShardPixels:
        try:
            return store.read_shard(shard)
        except DamagedStoreError as error:
            log.warning("%s They are read from the slide again.", error)
        found = read_shard(slide, grid, shard, tile_px)
        if storing:
            commit(shard, found)
        return found

    def shards() -> Iterator[tuple[slice, ShardPixels]]:
        for shard in waiting:
            yield shard, read_back(shard)
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            shard, found, memory = item
            if found is None:
                yield shard, read_back(shard)
            else:
                yield shard, found
                memories.put(memory)
                room.release()

    reader = threading.Thread(target=read_all, name="tiling", daemon=True)
    reader.start()
    # A context and not a generator's own end: that may come with the garbage collection, in any
    # thread, and the reader may need that very thread (zarr's) to finish.
    try:
        yield shards()
    finally:
        stop.set()
        room.release(workers)
        reader.join()


_Ready = tuple[slice, ShardPixels | None, NDArray[np.uint8]]
"""A shard, its pixels unless they have left memory, and the memory that they are in."""
