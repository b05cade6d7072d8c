"""Runs over a store without a slide or a model: pixels and scores are the same each time.

They go the real way, through `fill` and `score_shards`; only what reads and what scores is made up.
"""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.scoring.score_tiles import score_shards
from wsi_pipeline.tile_data import Scores
from wsi_pipeline.tiles.fill import Pixels, fill
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_resume import create_or_resume

TILE, CLASSES = 8, 4


class NoisySlide:
    """A slide of noise, the same whenever it is read; counts its reads."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, box: Box, size: Size) -> NDArray[np.uint8]:
        self.reads += 1
        rng = np.random.default_rng(box.x)
        return rng.integers(0, 256, (size.height, size.width, 3), np.uint8)


class MeanModel:
    """Scores a tile by its mean; counts its tiles."""

    def __init__(self) -> None:
        self.tiles = 0

    def predict(self, rgb: NDArray[np.uint8]) -> Scores:
        self.tiles += len(rgb)
        mean = (rgb.mean((1, 2, 3)) / 255).astype(np.float32)
        none = np.full(len(rgb), np.nan, np.float32)
        return Scores(mean, none, np.repeat(mean[:, None], CLASSES, 1))


def grid_of(count: int) -> TileGrid:
    corner = np.arange(count)
    share = np.linspace(0.5, 1, count, dtype=np.float32)
    return TileGrid(
        l0_xy=np.stack([corner * TILE, 0 * corner], 1),
        m_xy=np.stack([corner, 0 * corner], 1).astype(np.int32),
        tissue=share,
        inside=share[::-1].copy(),
        m_size=Size(count, 1),
        l0_origin=(0, 0),
        l0_tile=TILE,
        l0_stride=TILE,
        n_candidates=count + 3,
    )


def run(
    path: Path,
    count: int = 20,
    *,
    pixels: Pixels = "kept",
    model: MeanModel | None = None,
    slide: NoisySlide | None = None,
    stop_after: int | None = None,
) -> TileStore:
    """Do what `score_slide` does with its store; leave off when so many shards are scored."""
    store = create_or_resume(path, grid_of(count), tile_px=TILE, tiling={"slide": "x"})
    store.begin_scoring({"bundle": "x"}, CLASSES)
    with fill(slide or NoisySlide(), store, workers=1, pixels=pixels) as shards:  # type: ignore[arg-type]
        if stop_after == 0:
            for _ in shards:  # read and stored
                pass
        else:
            score_shards(store, model or MeanModel(), islice(shards, stop_after))  # type: ignore[arg-type]
    return store


def figures(store: TileStore) -> dict[str, bytes]:
    """All that outputs are made of, to the byte."""
    return {name: values.tobytes() for name, values in vars(store.table()).items()}


def pixels_of(store: TileStore) -> bytes:
    return b"".join(store.read_pixels(shard).tobytes() for shard in store.shards)
