import threading

import numpy as np
import pytest

from tests.helpers.made import damage
from wsi_pipeline.geometry import Mpp, Size
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.fill import fill
from wsi_pipeline.tiles.grid import GridConfig, tile_grid
from wsi_pipeline.tiles.store import TileStore

TILE = 64


def open_pair(path, tmp_path):
    slide = Slide.open(path)
    config = GridConfig(tile_px=TILE, stride_px=TILE, min_tissue=0)
    grid = tile_grid(slide.l0_bounds, Mpp(slide.mpp), np.ones((8, 8), bool), config, slide.name)
    return slide, TileStore.create(tmp_path / "tiles.zarr", grid, tile_px=TILE, tiling={})


def filled(slide, store, workers=1):
    with fill(slide, store, workers=workers, pixels="kept") as shards:
        return [shard for shard, _ in shards]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_store_holds_the_slides_pixels_padded_with_white(
    make_slide, tissue_like, tmp_path, workers
):
    rgb = tissue_like(450, 700)
    slide, store = open_pair(make_slide(rgb), tmp_path)
    shards = filled(slide, store, workers=workers)
    assert sorted(shard.start for shard in shards) == [shard.start for shard in store.shards]
    padded = np.full((512, 704, 3), 255, np.uint8)
    padded[:450, :700] = rgb
    grid = store.grid
    assert len(store) == 8 * 11
    for shard in store.shards:
        pixels = store.read_pixels(shard)
        for row, (x, y) in enumerate(grid.l0_xy[shard]):
            np.testing.assert_array_equal(pixels[row], padded[y : y + TILE, x : x + TILE])
    padding = grid.inside < 1
    np.testing.assert_array_equal(padding, (grid.l0_xy[:, 0] == 640) | (grid.l0_xy[:, 1] == 448))


def test_a_slide_smaller_than_a_tile_is_one_padded_tile(make_slide, tissue_like, tmp_path):
    rgb = tissue_like(20, 33)
    slide, store = open_pair(make_slide(rgb, tile=16), tmp_path)
    assert len(filled(slide, store)) == 1
    (tile,) = store.read_pixels(store.shards[0])
    np.testing.assert_array_equal(tile[:20, :33], rgb)
    assert (tile[20:] == 255).all()
    assert store.grid.inside[0] == pytest.approx(20 * 33 / TILE**2)


def test_only_what_is_missing_is_read(make_slide, tissue_like, tmp_path, monkeypatch):
    slide, store = open_pair(make_slide(tissue_like(512, 640)), tmp_path)
    with fill(slide, store, workers=1, pixels="kept") as first:
        done = [next(first)[0], next(first)[0]]
    stored = [shard for shard in store.shards if (store.state(shard) == TileState.STORED).all()]
    assert len(stored) < len(store.shards)

    read = []
    original = Slide.read

    def counting(self, l0_box: object, size: Size):
        read.append(l0_box)
        return original(self, l0_box, size)

    monkeypatch.setattr(Slide, "read", counting)
    again = filled(slide, TileStore(store.path))
    # Stored but not scored shards are handed out first, then the missing ones.
    assert again[: len(stored)] == stored
    assert set(map(str, done)) <= set(map(str, stored))
    tiles_missing = sum(s.stop - s.start for s in store.shards if s not in stored)
    assert len(read) == tiles_missing
    assert len(again) == len(store.shards)


def test_shards_are_handed_out_while_others_are_being_read(
    make_slide, tissue_like, tmp_path, monkeypatch
):
    slide, store = open_pair(make_slide(tissue_like(512, 640)), tmp_path)
    gate = threading.Event()
    original = Slide.read
    last_box = store.grid.l0_box(len(store) - 1)

    def gated(self, l0_box, size):
        if l0_box == last_box:
            gate.wait(30)
        return original(self, l0_box, size)

    monkeypatch.setattr(Slide, "read", gated)
    with fill(slide, store, workers=1, pixels="kept") as shards:
        next(shards)
        assert (store.state(store.shards[-1]) == TileState.PENDING).all()
        gate.set()
        assert len(list(shards)) == len(store.shards) - 1


def test_leaving_stops_the_reading(make_slide, tissue_like, tmp_path):
    slide, store = open_pair(make_slide(tissue_like(2048, 2048)), tmp_path)
    with fill(slide, store, workers=1, pixels="kept") as shards:
        next(shards)
    states = np.concatenate([store.state(shard) for shard in store.shards])
    assert (states == TileState.PENDING).any()
    assert not [thread for thread in threading.enumerate() if thread.name == "tiling"]


def test_an_error_of_the_program_reaches_the_caller(make_slide, tissue_like, tmp_path, monkeypatch):
    slide, store = open_pair(make_slide(tissue_like(300, 300)), tmp_path)

    def broken(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(TileStore, "commit_pixels", broken)
    with pytest.raises(ZeroDivisionError):
        filled(slide, store, workers=2)


def test_damaged_tiles_are_marked_and_the_others_kept(make_slide, tissue_like, tmp_path):
    path = make_slide(tissue_like(512, 512), compression="jpeg")
    damage(path, 3)
    slide, store = open_pair(path, tmp_path)
    filled(slide, store, workers=2)
    states = np.concatenate([store.state(shard) for shard in store.shards])
    in_damage = (store.grid.l0_xy >= 256).all(axis=1)
    np.testing.assert_array_equal(states == TileState.UNREADABLE, in_damage)
    assert store.n_unreadable == 16
