import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.geometry import Mpp, Size
from wsi_pipeline.outputs.score_map import ScoreMap, blend, block_mean, build_score_map
from wsi_pipeline.tile_data import TileTable


@st.composite
def tiles_on_a_map(draw):
    columns, rows = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    places = draw(
        st.lists(
            st.tuples(st.integers(0, columns - 1), st.integers(0, rows - 1)),
            unique=True,
            max_size=20,
        )
    )
    values = draw(
        hnp.arrays(
            np.float32,
            len(places),
            elements=st.one_of(st.floats(0, 1, width=32), st.just(float("nan"))),
        )
    )
    # Sixteenths of a cell, so that the brute force below can count pixels exactly.
    sixteenths = draw(st.integers(4, 56))
    m_xy = np.array(places, np.int32).reshape(-1, 2)
    return values, m_xy, Size(columns, rows), sixteenths


@given(tiles_on_a_map())
@settings(deadline=None)
def test_blend_equals_painting_pixel_by_pixel(case):
    values, m_xy, m_size, sixteenths = case
    total = np.zeros((m_size.height * 16, m_size.width * 16))
    count = np.zeros_like(total)
    for value, (column, row) in zip(values, m_xy, strict=True):
        if np.isnan(value):
            continue
        spot = (
            slice(row * 16, row * 16 + sixteenths),
            slice(column * 16, column * 16 + sixteenths),
        )
        total[spot] += value
        count[spot] += 1
    shape = (m_size.height, 16, m_size.width, 16)
    total = total.reshape(shape).sum(axis=(1, 3))
    count = count.reshape(shape).sum(axis=(1, 3))
    expected = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    actual = blend(values, m_xy, m_size, sixteenths / 16)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_tiles_that_touch_show_their_own_scores():
    m_xy = np.array([[0, 0], [2, 0], [1, 1]], np.int32)
    values = np.array([0.1, 0.7, np.nan], np.float32)
    expected = np.full((2, 3), np.nan, np.float32)
    expected[0, 0], expected[0, 2] = 0.1, 0.7
    np.testing.assert_array_equal(blend(values, m_xy, Size(3, 2), 1.0), expected)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.one_of(st.floats(0, 1, width=32), st.just(float("nan"))),
    ),
    st.integers(1, 5),
)
@settings(deadline=None)
def test_block_mean_equals_nanmean_of_each_block(values, factor):
    actual = block_mean(values, factor)
    rows, columns = -(-values.shape[0] // factor), -(-values.shape[1] // factor)
    assert actual.shape == (rows, columns)
    for row in range(rows):
        for column in range(columns):
            block = values[
                row * factor : (row + 1) * factor, column * factor : (column + 1) * factor
            ]
            known = block[~np.isnan(block)].astype(np.float64)
            if known.size:
                assert actual[row, column] == pytest.approx(known.mean(), rel=1e-6)
            else:
                assert np.isnan(actual[row, column])


def table(m_xy, cellularity) -> TileTable:
    count = len(m_xy)
    one = np.ones(count, np.float32)
    return TileTable(
        l0_xy=np.zeros((count, 2), np.int64),
        m_xy=np.array(m_xy, np.int32),
        tissue=one,
        inside=one,
        blur=one,
        pen=one,
        cellularity=np.array(cellularity, np.float32),
        cellularity_std=one,
        class_fraction=np.zeros((count, 4), np.float32),
    )


def test_build_score_map_half_overlap():
    score_map = build_score_map(
        table([[0, 0], [1, 0]], [0.0, 1.0]),
        m_size=Size(3, 2),
        l0_stride=512.0,
        l0_tile=1024.0,
        l0_origin=(100.0, 50.0),
        mpp=Mpp(0.25),
    )
    np.testing.assert_array_equal(score_map.cellularity, np.float32([[0, 0.5, 1], [0, 0.5, 1]]))
    assert score_map.l0_origin == (100.0, 50.0)
    assert score_map.cell_um == 128.0


def test_coarsened_keeps_the_corner_and_grows_the_cells():
    score_map = ScoreMap(
        np.float32([[0.2, np.nan, 0.6], [0.4, np.nan, np.nan]]), (10.0, 20.0), 100.5, Mpp(0.5)
    )
    assert score_map.coarsened(1) is score_map
    coarse = score_map.coarsened(2)
    np.testing.assert_allclose(coarse.cellularity, [[0.3, 0.6]], rtol=1e-6)
    assert (coarse.l0_origin, coarse.l0_cell, coarse.mpp) == ((10.0, 20.0), 201.0, 0.5)


def test_edges_are_whole_pixels_that_neighbours_share():
    score_map = ScoreMap(np.zeros((2, 3), np.float32), (10.0, 0.0), 1012.7, Mpp(0.25))
    x, y = score_map.l0_edges()
    np.testing.assert_array_equal(x, [10, 1023, 2035, 3048])
    np.testing.assert_array_equal(y, [0, 1013, 2025])
