"""Single tiles scored at random, killed and gone on with, end in what whole shards end in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.killing import killed_at
from tests.helpers.store_runs import (
    CLASSES,
    TILE,
    MeanModel,
    NoisySlide,
    figures,
    grid_of,
    pixels_of,
    run,
)
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.fill import read_tiles
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_resume import create_or_resume
from wsi_pipeline.tiles.store_rows import commit_rows

COUNT = 20


def opened(path):
    store = create_or_resume(path, grid_of(COUNT), tile_px=TILE, tiling={"slide": "x"})
    store.begin_scoring({"bundle": "x"}, CLASSES)
    return store


def score(store, rows):
    pixels = read_tiles(NoisySlide(), store.grid, rows, TILE)
    commit_rows(store, np.array(rows), pixels.measures, MeanModel().predict(pixels.rgb))


@given(
    acts=st.lists(
        st.tuples(
            st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=6, unique=True),
            st.none() | st.tuples(st.integers(0, 12), st.floats(0, 1)),
        ),
        max_size=5,
    ),
    pixels=st.sampled_from(["kept", "until scored", "in memory"]),
)
@settings(max_examples=15, deadline=None)
def test_what_is_scored_singly_stays_and_is_not_scored_again(tmp_path_factory, acts, pixels):
    folder = tmp_path_factory.mktemp("stores")
    path, sure = folder / "tiles.zarr", set()
    opened(path)
    for rows, kill in acts:
        if kill is None or not killed_at(*kill, lambda rows=rows: score(opened(path), rows)):
            if kill is None:
                score(opened(path), rows)
            sure |= set(rows)
        store = opened(path)
        scored = store.state(slice(0, COUNT)) == TileState.SCORED
        assert scored[sorted(sure)].all()
        np.testing.assert_array_equal(store.table().scored, scored)
    left = COUNT - int((opened(path).state(slice(0, COUNT)) == TileState.SCORED).sum())
    model = MeanModel()
    store = run(path, COUNT, pixels=pixels, model=model)
    assert model.tiles == left
    assert store.is_scored
    direct = run(folder / "direct.zarr", COUNT, pixels=pixels)
    assert figures(store) == figures(direct)
    if pixels == "kept":
        assert pixels_of(store) == pixels_of(direct)


def test_what_cannot_be_read_is_marked_beside_what_is_scored(tmp_path):
    store = opened(tmp_path / "tiles.zarr")
    pixels = read_tiles(NoisySlide(), store.grid, [1, 2, 9], TILE)
    pixels.measures.readable[1] = False
    scores = MeanModel().predict(pixels.rgb[pixels.measures.readable])
    commit_rows(store, np.array([1, 2, 9]), pixels.measures, scores)
    again = opened(store.path)
    assert (again.n_scored, again.n_unreadable, again.is_scored) == (2, 1, False)
    assert list(np.flatnonzero(again.table().scored)) == [1, 9]


@pytest.mark.parametrize("name", ["cellularity", "class_fraction"])
@pytest.mark.parametrize("how", ["flip", "gone"])
def test_damage_to_a_shard_that_is_scored_in_part_is_found(tmp_path, name, how):
    store = opened(tmp_path / "tiles.zarr")
    score(store, [1, 2, 9])
    chunk = next((store.path / name / "c" / "0").parent.glob("0*"))
    chunk = chunk if chunk.is_file() else chunk / "0"
    if how == "gone":
        chunk.unlink()
    else:
        content = bytearray(chunk.read_bytes())
        content[3] ^= 1
        chunk.write_bytes(content)
    if name == "cellularity":
        with pytest.raises(DamagedStoreError):
            TileStore(store.path).table()
    again = opened(store.path)
    assert list(np.flatnonzero(again.state(slice(0, COUNT)) == TileState.SCORED)) == [9]
    direct = run(tmp_path / "direct.zarr", COUNT, pixels="in memory")
    assert figures(run(store.path, COUNT, pixels="in memory")) == figures(direct)
