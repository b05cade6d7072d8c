"""Some tiles of a slide, from pixels to scores in the store."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.base import Engine
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import Measures, ShardPixels
from wsi_pipeline.tiles.fill import read_tiles
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_rows import commit_rows

LEAST_AT_ONCE = 64
"""Tiles that are read, scored and stored at once. For fewer, storing would take too long: they lie
in as many shards, and each is written again."""


def score_some(
    slide: Slide, store: TileStore, engine: Engine, indices: NDArray[np.int64], *, workers: int
) -> Iterator[int]:
    """Score tiles, and store what is found of them; the next are read meanwhile.

    Args:
        slide: to read from.
        store: of the same slide, with room for scores.
        engine: the model.
        indices: int64 [n], of the tiles.
        workers: threads that read.

    Yields:
        the number of tiles that were stored just now.

    Raises:
        WsiError: if the slide or the store can no longer be read.

    """
    at_once = max(engine.batch_size, LEAST_AT_ONCE)
    parts = [indices[first : first + at_once] for first in range(0, len(indices), at_once)]
    for part, pixels in _read_ahead(slide, store.grid, parts, store.tile_px, workers):
        readable = pixels.measures.readable
        scores = engine.predict(pixels.rgb[readable]) if readable.any() else None
        commit_rows(store, part, pixels.measures, scores)
        yield len(part)


def _read_ahead(
    slide: Slide,
    grid: TileGrid,
    parts: Sequence[NDArray[np.int64]],
    tile_px: int,
    workers: int,
) -> Iterator[tuple[NDArray[np.int64], ShardPixels]]:
    """Read tiles part by part, each while the one before is at work."""
    with ThreadPoolExecutor(workers, thread_name_prefix="reading") as pool:

        def begun(part: NDArray[np.int64]) -> list[Future[ShardPixels]]:
            pieces = np.array_split(part, min(workers, len(part)))
            return [
                pool.submit(read_tiles, slide, grid, piece.tolist(), tile_px) for piece in pieces
            ]

        reading: deque[tuple[NDArray[np.int64], list[Future[ShardPixels]]]] = deque()
        for part in (*parts, None):
            if part is not None:
                reading.append((part, begun(part)))
            if reading and (part is None or len(reading) > 1):
                at_hand, pieces = reading.popleft()
                yield at_hand, _joined([piece.result() for piece in pieces])


def _joined(pieces: list[ShardPixels]) -> ShardPixels:
    measures = [piece.measures for piece in pieces]
    return ShardPixels(
        np.concatenate([piece.rgb for piece in pieces]),
        Measures(
            np.concatenate([measure.blur for measure in measures]),
            np.concatenate([measure.pen for measure in measures]),
            np.concatenate([measure.readable for measure in measures]),
        ),
    )
