import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.geometry import Size
from wsi_pipeline.tile_data import Measures, Scores, ShardPixels, TileState
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_layout import shard_tiles
from wsi_pipeline.tiles.store_resume import create_or_resume

TILE = 64


def grid_of(n):
    rng = np.random.default_rng(n)
    return TileGrid(
        l0_xy=rng.integers(0, 1 << 40, (n, 2)),
        m_xy=rng.integers(0, 100, (n, 2)).astype(np.int32),
        tissue=rng.random(n, np.float32),
        inside=rng.random(n, np.float32),
        m_size=Size(100, 100),
        l0_origin=(7, 9),
        l0_tile=64.5,
        l0_stride=32.25,
        n_candidates=n + 3,
    )


def pixels_of(shard, readable=None):
    n = shard.stop - shard.start
    rng = np.random.default_rng(shard.start)
    return ShardPixels(
        rgb=rng.integers(0, 256, (n, TILE, TILE, 3), np.uint8),
        measures=Measures(
            blur=rng.random(n, np.float32),
            pen=rng.random(n, np.float32),
            readable=np.ones(n, bool) if readable is None else readable,
        ),
    )


def scores_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return Scores(
        cellularity=rng.random(n, np.float32),
        cellularity_std=rng.random(n, np.float32),
        class_fraction=rng.random((n, 4), np.float32),
    )


def made(path, tiling=None, n=37):
    """A store with room for pixels: a new one, or the one that is there."""
    tiling = {"a": 1} if tiling is None else tiling
    store = create_or_resume(path, grid_of(n), tile_px=TILE, tiling=tiling)
    store.make_room_for_pixels()
    return store


@pytest.fixture
def store(tmp_path):
    return made(tmp_path / "tiles.zarr")


def test_the_layout_is_what_the_design_says(store):
    group = zarr.open_group(store.path, mode="r")
    store.begin_scoring({"bundle": "x"}, 4)
    arrays = {name: (array.shape, str(array.dtype)) for name, array in group.arrays()}
    assert arrays == {
        "rgb": ((37, TILE, TILE, 3), "uint8"),
        "l0_xy": ((37, 2), "int64"),
        "m_xy": ((37, 2), "int32"),
        "tissue": ((37,), "float32"),
        "inside": ((37,), "float32"),
        "blur": ((37,), "float32"),
        "pen": ((37,), "float32"),
        "state": ((37,), "uint8"),
        "cellularity": ((37,), "float32"),
        "cellularity_std": ((37,), "float32"),
        "class_fraction": ((37, 4), "float32"),
    }
    assert group.metadata.zarr_format == 3
    assert group["rgb"].chunks == (8, TILE, TILE, 3)
    assert group["rgb"].shards is None
    for _, array in group.arrays():
        assert array.metadata.to_dict()["codecs"][-1]["name"] == "crc32c"
    assert np.isnan(group["cellularity"][:]).all()
    assert json.loads((store.path / "zarr.json").read_text())["attributes"]["tiling"] == {"a": 1}


def test_what_zarr_was_writing_when_it_was_killed_is_cleared_away(store):
    half_written = store.path / "rgb" / "c" / "0" / "0" / "0" / "0.123abc.partial"
    half_written.parent.mkdir(parents=True)
    half_written.write_bytes(b"half")
    resumed = create_or_resume(store.path, grid_of(37), tile_px=TILE, tiling={"a": 1})
    assert resumed.path == store.path
    assert not half_written.exists()


def test_the_grid_comes_back(store):
    grid, original = store.grid, grid_of(37)
    for name in ("l0_xy", "m_xy", "tissue", "inside"):
        np.testing.assert_array_equal(getattr(grid, name), getattr(original, name))
        assert getattr(grid, name).dtype == getattr(original, name).dtype
    for name in ("m_size", "l0_origin", "l0_tile", "l0_stride", "n_candidates"):
        assert getattr(grid, name) == getattr(original, name)


@given(n=st.integers(1, 100), order=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None)
def test_what_is_committed_in_any_order_comes_back(tmp_path_factory, n, order):
    path = tmp_path_factory.mktemp("store") / "tiles.zarr"
    store = made(path, {}, n)
    store.begin_scoring({}, 4)
    shards = store.shards
    assert [i for shard in shards for i in range(shard.start, shard.stop)] == list(range(n))
    order.shuffle(shards)
    for shard in shards:
        pixels = pixels_of(shard)
        store.commit_pixels(shard, pixels)
        scores = scores_of(shard.stop - shard.start, shard.start)
        store.commit_scores(shard, pixels.measures, scores)
    assert store.is_scored
    again = TileStore(path)
    assert again.is_scored
    table = again.table()
    for shard in shards:
        np.testing.assert_array_equal(again.read_pixels(shard), pixels_of(shard).rgb)
        expected = scores_of(shard.stop - shard.start, shard.start)
        np.testing.assert_array_equal(table.cellularity[shard], expected.cellularity)
        np.testing.assert_array_equal(table.class_fraction[shard], expected.class_fraction)
        np.testing.assert_array_equal(table.blur[shard], pixels_of(shard).measures.blur)


def test_a_shard_counts_only_by_its_state(store):
    """Data without a state is what a killed writer leaves."""
    shard = store.shards[1]
    zarr.open_group(store.path)["rgb"][shard] = pixels_of(shard).rgb
    assert (TileStore(store.path).state(shard) == TileState.PENDING).all()
    store.commit_pixels(shard, pixels_of(shard))
    assert (TileStore(store.path).state(shard) == TileState.STORED).all()
    assert (TileStore(store.path).state(store.shards[0]) == TileState.PENDING).all()


def test_unreadable_tiles_stay_nan_and_count_as_done(store):
    store.begin_scoring({}, 4)
    for shard in store.shards:
        readable = np.arange(shard.start, shard.stop) % 5 != 0
        pixels = pixels_of(shard, readable)
        store.commit_pixels(shard, pixels)
        store.commit_scores(shard, pixels.measures, scores_of(int(readable.sum())))
    assert store.is_scored
    np.testing.assert_array_equal(np.isnan(store.table().cellularity), np.arange(37) % 5 == 0)
    assert (store.state(store.shards[0])[[0, 5]] == TileState.UNREADABLE).all()


def test_flipped_bytes_on_disk_are_noticed(store):
    shard = store.shards[2]
    store.commit_pixels(shard, pixels_of(shard))
    (file,) = [path for path in (store.path / "rgb" / "c").rglob("*") if path.is_file()]
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    file.write_bytes(raw)
    with pytest.raises(DamagedStoreError, match=r"rgb of tiles 16 to 23 cannot be read.*checksum"):
        store.read_pixels(shard)


def test_a_missing_shard_is_no_black_picture(store):
    shard = store.shards[1]
    store.commit_pixels(shard, pixels_of(shard))
    (file,) = [path for path in (store.path / "rgb" / "c").rglob("*") if path.is_file()]
    file.unlink()
    with pytest.raises(DamagedStoreError, match="rgb of tiles 8 to 15 something is gone"):
        store.read_pixels(shard)


def test_resumed_only_by_its_own_digest(tmp_path):
    path = tmp_path / "tiles.zarr"
    first = made(path, {"mpp": 0.5}, 9)
    first.commit_pixels(first.shards[0], pixels_of(first.shards[0]))

    resumed = made(path, {"mpp": 0.5}, 9)
    assert (resumed.state(resumed.shards[0]) == TileState.STORED).all()

    other = made(path, {"mpp": 0.25}, 9)
    assert (other.state(other.shards[0]) == TileState.PENDING).all()
    aside = tmp_path / f"tiles-{digest_of({'mpp': 0.5})[:12]}.zarr"
    kept = TileStore(aside)
    np.testing.assert_array_equal(kept.read_pixels(kept.shards[0]), pixels_of(kept.shards[0]).rgb)

    third = made(path, {"mpp": 0.5}, 9)
    assert (third.state(third.shards[0]) == TileState.PENDING).all()
    assert aside.exists()
    assert (tmp_path / f"tiles-{digest_of({'mpp': 0.25})[:12]}.zarr").exists()


@pytest.mark.parametrize("dropped", [False, True])
def test_another_models_scores_are_kept_apart(store, dropped):
    def score(seed):
        for shard in store.shards:
            if (store.state(shard) == TileState.PENDING).any():
                store.commit_pixels(shard, pixels_of(shard))
            count = shard.stop - shard.start
            store.commit_scores(shard, pixels_of(shard).measures, scores_of(count, seed))

    store.begin_scoring({"bundle": "a"}, 4)
    score(1)
    first = store.table().cellularity
    if dropped:
        store.drop_pixels()
        assert not (store.path / "rgb").exists()
    store.begin_scoring({"bundle": "a"}, 4)
    assert store.is_scored  # the same model: nothing to do

    store.begin_scoring({"bundle": "b"}, 4)
    assert not store.is_scored
    assert np.isnan(zarr.open_group(store.path, mode="r")["cellularity"][:]).all()
    assert (store.state(slice(0, 37)) == TileState.STORED).all()
    assert store.have_pixels().all() == (not dropped)
    score(2)
    assert (store.table().cellularity != first).any()
    previous = zarr.open_group(store.path / "previous" / digest_of({"bundle": "a"})[:12], mode="r")
    np.testing.assert_array_equal(previous["cellularity"][:], first)
    assert previous.attrs["scoring"] == {"bundle": "a"}


def test_a_store_appears_only_when_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "tiles.zarr"
    (tmp_path / ".partial-tiles.zarr").mkdir()
    (tmp_path / ".partial-tiles.zarr" / "zarr.json").write_text("{half")
    create_or_resume(path, grid_of(3), tile_px=TILE, tiling={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiles.zarr"]


def test_what_is_no_store_says_so(tmp_path):
    with pytest.raises(DamagedStoreError, match="not a tile store"):
        TileStore(tmp_path / "missing.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(DamagedStoreError, match="not a tile store"):
        TileStore(tmp_path / "other.zarr")
    zarr.create_group(tmp_path / "new.zarr", attributes={"schema_version": 99})
    with pytest.raises(DamagedStoreError, match="version 99"):
        TileStore(tmp_path / "new.zarr")


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": {"c": 2.5, "d": None}}) == digest_of(
        {"b": {"d": None, "c": 2.5}, "a": 1}
    )
    assert digest_of({"a": 1}) != digest_of({"a": 2})


@pytest.mark.parametrize(("n", "tiles"), [(1, 8), (42, 8), (300, 16), (1024, 64), (10**6, 64)])
def test_small_slides_have_small_shards(n, tiles):
    assert shard_tiles(n) == tiles
