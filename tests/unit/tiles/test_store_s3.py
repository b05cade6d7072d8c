"""The store in an object store, which has no folders and cannot rename: S3, or memory for speed."""

import threading
from contextlib import suppress

import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from tests.helpers.object_store import serve_objects
from tests.unit.tiles.test_store import grid_of, made, pixels_of, scores_of
from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import StoreConfig, store_path, zarr_store


@pytest.fixture(scope="module")
def s3():
    with serve_objects() as served:
        yield served


@pytest.fixture
def s3_path(s3, request, tmp_path):
    return StoreConfig(root=f"{s3.url}/{request.node.name}").path(tmp_path / "slide")


@pytest.fixture
def path(monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    # Names are names, and no patterns.
    return store_path("memory://scans/slide [1]*/tiles.zarr")


def score(store, seed=0):
    for shard in store.shards:
        if (store.state(shard) == TileState.PENDING).any():
            store.commit_pixels(shard, pixels_of(shard))
        scores = scores_of(shard.stop - shard.start, seed + shard.start)
        store.commit_scores(shard, pixels_of(shard).measures, scores)


def test_objects_are_the_files_of_a_folder_byte_by_byte(s3, s3_path, tmp_path):
    stores = made(s3_path), made(tmp_path / "tiles.zarr")
    for store in stores:
        store.begin_scoring({"bundle": "x"}, 4)
        score(store)
    folder = tmp_path / "tiles.zarr"
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    prefix = s3_path.path.removeprefix("scans/")
    assert s3.objects(prefix) == files
    again = TileStore(s3_path)
    assert again.is_scored
    for shard in again.shards:
        np.testing.assert_array_equal(again.read_pixels(shard), pixels_of(shard).rgb)
    assert again.grid.m_size == grid_of(37).m_size
    for store in stores:
        store.drop_pixels()
    assert not [name for name in s3.objects(prefix) if name.startswith("rgb/")]
    with pytest.raises(StoreError, match="0 to 7 something is gone"):
        again.read_pixels(again.shards[0])


def test_resumed_by_its_digest_and_set_aside_for_another(path):
    first = made(path)
    first.commit_pixels(first.shards[1], pixels_of(first.shards[1]))
    resumed = made(path)
    states = [(resumed.state(shard) == TileState.STORED).all() for shard in resumed.shards]
    assert states == [False, True, False, False, False]
    other = made(path, {"a": 2})
    assert (other.state(slice(0, 37)) == TileState.PENDING).all()
    aside = TileStore(path.with_name(f"tiles-{digest_of({'a': 1})[:12]}.zarr"))
    shard = aside.shards[1]
    np.testing.assert_array_equal(aside.read_pixels(shard), pixels_of(shard).rgb)


def test_another_models_scores_are_kept_apart(path):
    store = made(path)
    store.begin_scoring({"bundle": "a"}, 4)
    score(store, seed=1)
    first = store.table().cellularity
    store.begin_scoring({"bundle": "b"}, 4)
    assert np.isnan(zarr.open_group(zarr_store(store.path), mode="r")["cellularity"][:]).all()
    assert not store.is_scored
    score(store, seed=2)
    assert (store.table().cellularity != first).all()
    previous = zarr.open_group(zarr_store(path), mode="r")["previous"]
    kept = previous[digest_of({"bundle": "a"})[:12]]["cellularity"]
    np.testing.assert_array_equal(kept[:], first)


class Killed(Exception):
    pass


class Fragile(dict):
    """Objects that can be changed a number of times, and then no more."""

    def __init__(self, objects, changes):
        super().__init__(objects)
        self.left = changes

    def _change(self):
        if not self.left:
            raise Killed
        self.left -= 1

    def __setitem__(self, key, value):
        self._change()
        super().__setitem__(key, value)

    def __delitem__(self, key):
        self._change()
        super().__delitem__(key)

    def pop(self, key, *default):
        self._change()
        return super().pop(key, *default)


def test_a_kill_between_any_two_changes_leaves_whole_stores_or_none(path, monkeypatch):
    """Setting one store aside and making another, stopped after any number of changed objects."""
    aside = path.with_name(f"tiles-{digest_of({'a': 1})[:12]}.zarr")

    def assert_kept(*places):
        whole = [TileStore(where) for where in places if (where / "zarr.json").exists()]
        kept = next(store for store in whole if store.tiling == {"a": 1})
        np.testing.assert_array_equal(kept.read_pixels(shard), pixels_of(shard).rgb)

    first = made(path)
    shard = first.shards[0]
    first.commit_pixels(shard, pixels_of(shard))
    before = dict(MemoryFileSystem.store)
    for changes in range(1000):
        monkeypatch.setattr(MemoryFileSystem, "store", Fragile(before, changes))
        with suppress(StoreError, Killed):
            made(path, {"a": 2})
            break
        monkeypatch.setattr(MemoryFileSystem, "store", dict(MemoryFileSystem.store))
        assert_kept(path, aside)
        new = made(path, {"a": 2})
        assert not new.committed_state(slice(0, 37)).any()
        assert_kept(aside)
    assert changes > 60


def test_what_other_processes_commit_is_seen(s3_path):
    """Listings are not cached: a worker of a cluster asks for what another has just written."""
    here, there = made(s3_path), TileStore(s3_path)
    shard = here.shards[2]
    assert (there.committed_state(shard) == TileState.PENDING).all()
    here.commit_pixels(shard, pixels_of(shard))
    assert (there.committed_state(shard) == TileState.STORED).all()
    np.testing.assert_array_equal(there.read_pixels(shard), pixels_of(shard).rgb)


def test_two_writers_of_the_same_shard_do_no_harm(path):
    store = made(path)
    store.begin_scoring({"bundle": "x"}, 4)
    shard = store.shards[0]
    writers = [
        threading.Thread(
            target=TileStore(path).commit_scores,
            args=(shard, pixels_of(shard).measures, scores_of(8)),
            kwargs={"rgb": pixels_of(shard).rgb},
        )
        for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    again = TileStore(path)
    assert (again.state(shard) == TileState.SCORED).all()
    np.testing.assert_array_equal(again.read_pixels(shard), pixels_of(shard).rgb)
    scores = zarr.open_group(zarr_store(path), mode="r")["cellularity"][shard]
    np.testing.assert_array_equal(scores, scores_of(8).cellularity)


def test_requests_of_a_shard(s3, s3_path):
    """What docs/scaling.md counts with."""
    store = made(s3_path)
    store.begin_scoring({"bundle": "x"}, 4)
    first, second, third = store.shards[:3]
    pixels = [pixels_of(shard) for shard in (first, second, third)]
    store.commit_scores(first, pixels[0].measures, scores_of(8), rgb=pixels[0].rgb)  # opens arrays
    with s3.counted() as without:
        store.commit_scores(second, pixels[1].measures, scores_of(8))
    with s3.counted() as kept:
        store.commit_scores(third, pixels[2].measures, scores_of(8), rgb=pixels[2].rgb)
    assert without == {"PUT": 6}
    assert kept == {"PUT": 7}


def test_no_credentials_in_an_address(s3):
    for address, kind in (
        ("s3://key:secret@scans/x", "user name or password"),
        ("s3://key:secret/with+slash@scans/x", "user name or password"),
        ("https://user:secret@host/x", "user name or password"),
        ("s3://key@scans/x", "user name or password"),
        ("https://host/x?signature=secret", "query"),
    ):
        with pytest.raises(ConfigError, match=kind) as caught:
            store_path(address)
        assert "secret" not in str(caught.value)
        with pytest.raises(ValidationError, match=kind) as refused:
            StoreConfig(root=address)
        assert "secret" not in str(refused.value)


def test_what_cannot_be_reached_says_so(s3, tmp_path):
    with pytest.raises(ConfigError, match="no file system for nowhere://"):
        store_path("nowhere://x")
    with pytest.raises(StoreError, match="does not answer as it should") as caught:
        made(store_path("s3://no-such-bucket/tiles.zarr"))
    assert "the-secret-key" not in str(caught.value)
    with pytest.raises(StoreError, match="not a tile store"):
        TileStore(store_path(f"{s3.url}/missing/tiles.zarr"))
    assert store_path(f"file://{tmp_path}/a b") == tmp_path / "a b"
