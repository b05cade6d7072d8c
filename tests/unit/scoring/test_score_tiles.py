"""The parties that score a store overlap, and what goes wrong in one ends all."""

import threading

import numpy as np
import pytest

from wsi_pipeline.geometry import Size
from wsi_pipeline.scoring.score_tiles import score_shards
from wsi_pipeline.tile_data import Measures, Scores, ShardPixels
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore

TILE, COUNT = 8, 40


class Means:
    """Scores a tile by its mean; counts its calls."""

    def __init__(self):
        self.calls = 0
        self.called_again = threading.Event()

    def predict(self, rgb):
        self.calls += 1
        if self.calls > 1:
            self.called_again.set()
        none = np.full(len(rgb), np.nan, np.float32)
        return Scores(
            cellularity=(rgb.mean((1, 2, 3)) / 255).astype(np.float32),
            cellularity_std=none,
            class_fraction=np.zeros((len(rgb), 4), np.float32),
        )


class SlowToCommit(TileStore):
    """Commits no scores before the model is at work on the next shard."""

    meanwhile: threading.Event

    def commit_scores(self, shard, measures, scores):
        assert self.meanwhile.wait(30), "the model waits for the disk"
        return super().commit_scores(shard, measures, scores)


class DiskFull(TileStore):
    """Cannot commit scores."""

    def commit_scores(self, shard, measures, scores):
        raise OSError(28, "No space left on device")


def filled(kind, path):
    """A store, and its shards as they come from the slide."""
    rgb = np.random.default_rng(0).integers(0, 256, (COUNT, TILE, TILE, 3), np.uint8)
    one = np.ones(COUNT, np.float32)
    corner = np.arange(COUNT)
    grid = TileGrid(
        l0_xy=np.stack([corner * TILE, 0 * corner], 1),
        m_xy=np.stack([corner, 0 * corner], 1).astype(np.int32),
        tissue=one,
        inside=one,
        m_size=Size(COUNT, 1),
        l0_origin=(0, 0),
        l0_tile=TILE,
        l0_stride=TILE,
        n_candidates=COUNT,
    )
    store = kind.create(path, grid, tile_px=TILE, tiling={})
    store.begin_scoring({}, 4)
    shards = [
        (shard, ShardPixels(rgb[shard], Measures(one[shard], one[shard], one[shard] > 0)))
        for shard in store.shards
    ]
    return store, shards, rgb


def test_the_model_does_not_wait_for_the_disk(tmp_path):
    store, shards, rgb = filled(SlowToCommit, tmp_path / "tiles.zarr")
    model = Means()
    store.meanwhile = model.called_again
    done = []
    score_shards(store, model, iter(shards), done.append)
    assert len(shards) == model.calls > 2
    assert sum(done) == COUNT
    assert store.is_scored
    np.testing.assert_allclose(store.table().cellularity, rgb.mean((1, 2, 3)) / 255, rtol=1e-6)
    score_shards(store, model, iter(shards), done.append)  # what is scored is passed over
    assert model.calls == len(shards)


def test_a_disk_that_is_full_ends_the_scoring(tmp_path):
    store, shards, _ = filled(DiskFull, tmp_path / "tiles.zarr")
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        score_shards(store, Means(), iter(shards))
    assert threading.active_count() == before
