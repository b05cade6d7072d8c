import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.tiles.draw import LEAST_IN_STRATUM, MOST_STRATA, draw_of, looks_of
from wsi_pipeline.tiles.grid import TileGrid


@given(count=st.integers(1, 500), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_each_tile_is_drawn_once_and_strata_take_turns(count, seed):
    looks = np.random.default_rng(count).normal(size=(count, 5))
    draw = draw_of(looks, seed)
    sizes = np.bincount(draw.stratum)
    assert len(sizes) == max(1, min(MOST_STRATA, count // LEAST_IN_STRATUM))
    assert sizes.max() - sizes.min() <= np.ceil(np.log2(len(sizes) + 1))
    for stratum, size in enumerate(sizes):
        assert sorted(draw.turn[draw.stratum == stratum]) == list(range(size))
    assert draw.drawn(draw.rounds).all()
    again = draw_of(looks, seed)
    np.testing.assert_array_equal(draw.turn, again.turn)


def test_a_stratum_gives_any_of_its_tiles_first_and_equally_often():
    looks = np.random.default_rng(0).normal(size=(12, 2))
    first = sum(draw_of(looks, seed).drawn(1) for seed in range(3000))
    np.testing.assert_allclose(first / 3000, 1 / 6, atol=0.03)


def test_strata_are_of_like_tiles():
    kinds = np.repeat(np.arange(4), 100)
    looks = np.column_stack([kinds % 2, kinds // 2]) + np.random.default_rng(1).normal(
        0, 0.05, (400, 2)
    )
    stratum = draw_of(looks, 0).stratum
    for one in range(stratum.max() + 1):
        assert len(set(kinds[stratum == one])) == 1


def test_looks_tell_stain_texture_and_place():
    picture = np.full((40, 80, 3), 255, np.uint8)
    picture[:, 20:40] = (120, 80, 200)  # blue, flat
    picture[:, 40:60] = (230, 120, 130)  # red, flat
    picture[::2, 60:] = (120, 80, 200)  # blue, striped
    l0_xy = np.array([(100 + 80 * column, 50) for column in range(4)])
    grid = TileGrid(
        l0_xy=l0_xy,
        m_xy=np.array([(column, 0) for column in range(4)], np.int32),
        tissue=np.ones(4, np.float32),
        inside=np.ones(4, np.float32),
        m_size=Size(4, 1),
        l0_origin=(100, 50),
        l0_tile=80.0,
        l0_stride=80.0,
        n_candidates=4,
    )
    looks = looks_of(grid, picture, Box(100, 50, 320, 160))
    density, blue, texture, x, y = looks.T
    assert density.argmin() == 0
    assert density.argmax() == 1
    assert blue.argmax() == 1
    assert blue.argmin() == 2
    assert texture.argmax() == 3
    assert list(np.argsort(x)) == [0, 1, 2, 3]
    assert (y == 0).all()
    np.testing.assert_allclose(looks.mean(0), 0, atol=1e-12)
    assert looks[:, :4].std(0) == pytest.approx(1)
