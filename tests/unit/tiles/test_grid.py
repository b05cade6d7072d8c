"""The grid covers every slide, whatever its size, scale and bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import MppError, TissueError
from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.tiles.grid import GridConfig, box_means, tile_grid, whole_pixel

sides = st.integers(4, 6000)  # a pixel or two are less than `LEAST_TISSUE` of a tile
bounds = st.builds(Box, st.integers(0, 500), st.integers(0, 500), sides, sides)
configs = st.builds(
    GridConfig,
    tile_px=st.integers(64, 600),
    stride_px=st.integers(64, 600),
    min_tissue=st.just(0.0),
).filter(lambda config: config.stride_px <= config.tile_px)
mpps = st.floats(0.1, 0.52).map(Mpp)


@given(bounds, mpps, configs)
def test_tiles_cover_the_slide_and_touch_it(l0_bounds, mpp, config):
    grid = tile_grid(l0_bounds, mpp, np.ones((20, 20), bool), config, "a.svs")
    assert len(grid) == grid.n_candidates
    left, top = grid.l0_xy[:, 0], grid.l0_xy[:, 1]
    # Rounding of a corner, what is not worth a tile, and a thousandth of a stride, which is not
    # either.
    l0_px = whole_pixel(config.mpp / mpp)
    slack = l0_px + grid.l0_stride * 1e-3
    assert left.min() == l0_bounds.x
    assert top.min() == l0_bounds.y
    assert left.max() + grid.l0_tile >= l0_bounds.right - slack
    assert top.max() + grid.l0_tile >= l0_bounds.bottom - slack
    assert (left < l0_bounds.right).all()
    assert (top < l0_bounds.bottom).all()
    for corners in (np.unique(left), np.unique(top)):
        assert (np.abs(np.diff(corners) - grid.l0_stride) <= l0_px).all()
        assert (np.diff(corners) <= grid.l0_tile + l0_px).all()  # no gaps
        assert ((corners - corners[0]) % l0_px == 0).all()


@given(bounds, mpps, configs)
def test_inside_is_the_share_of_the_tile_on_the_slide(l0_bounds, mpp, config):
    grid = tile_grid(l0_bounds, mpp, np.ones((20, 20), bool), config, "a.svs")
    for index in range(0, len(grid), max(1, len(grid) // 20)):
        x, y = grid.l0_xy[index]
        width = min(x + grid.l0_tile, l0_bounds.right) - x
        height = min(y + grid.l0_tile, l0_bounds.bottom) - y
        assert grid.inside[index] == pytest.approx(width * height / grid.l0_tile**2, abs=1e-5)
        # All of it is tissue, so what is inside is tissue.
        assert grid.tissue[index] == pytest.approx(grid.inside[index], abs=1e-5)


@given(bounds, mpps, configs)
def test_the_map_covers_the_slide_without_a_surplus_cell(l0_bounds, mpp, config):
    grid = tile_grid(l0_bounds, mpp, np.ones((20, 20), bool), config, "a.svs")
    slack = grid.l0_stride * 2e-3
    assert grid.m_size.width * grid.l0_stride >= l0_bounds.width - slack
    assert (grid.m_size.width - 1) * grid.l0_stride < l0_bounds.width
    assert grid.m_size.height * grid.l0_stride >= l0_bounds.height - slack
    assert (grid.m_xy >= 0).all()
    assert (grid.m_xy[:, 0] < grid.m_size.width).all()
    assert (grid.m_xy[:, 1] < grid.m_size.height).all()
    np.testing.assert_allclose(
        grid.l0_xy - np.array(grid.l0_origin),
        grid.m_xy * grid.l0_stride,
        atol=whole_pixel(config.mpp / mpp) / 2 + 0.01,
    )


def test_corners_are_aligned_to_at_most_half_a_pixel_of_the_tile():
    for mpp, l0_px in ((0.5, 1), (0.2525, 2), (0.25, 2), (0.2, 2), (0.13, 4), (0.1, 4), (0.6, 1)):
        assert whole_pixel(0.5 / mpp) == l0_px
        assert l0_px / 2 <= max(1, 0.5 / mpp * 1.05) / 2


masks = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1)).map(
    lambda args: np.random.default_rng(args[2]).random(args[:2]) < 0.4
)


@given(masks, st.floats(-5, 45), st.floats(-5, 45), st.floats(0.5, 30), st.floats(0.5, 30))
def test_box_means_agree_with_painting_the_box_finely(mask, left, top, width, height):
    (mean,) = box_means(mask, np.array([left]), np.array([top]), width, height).ravel()
    n = 200
    x = np.floor(left + (np.arange(n) + 0.5) * width / n).astype(int)
    y = np.floor(top + (np.arange(n) + 0.5) * height / n).astype(int)
    padded = np.pad(mask, 80)
    brute = padded[np.ix_(y + 80, x + 80)].mean()
    # n samples to a side place each pixel border within 1/n of the box.
    assert mean == pytest.approx(brute, abs=(width + height + 4) / n)


@given(masks.filter(lambda mask: mask.any()), st.floats(0.05, 0.9))
def test_only_tiles_with_enough_tissue_are_kept(mask, min_tissue):
    l0_bounds = Box(0, 0, 40 * mask.shape[1], 40 * mask.shape[0])
    every = GridConfig(tile_px=64, stride_px=64, min_tissue=0)
    some = every.model_copy(update={"min_tissue": min_tissue})
    whole = tile_grid(l0_bounds, Mpp(0.5), mask, every, "a.svs")
    expected = {
        tuple(xy)
        for xy, tissue in zip(whole.l0_xy, whole.tissue, strict=True)
        if tissue >= min_tissue
    }
    if expected:
        kept = tile_grid(l0_bounds, Mpp(0.5), mask, some, "a.svs")
        assert {tuple(xy) for xy in kept.l0_xy} == expected
    else:
        with pytest.raises(TissueError, match="min_tissue"):
            tile_grid(l0_bounds, Mpp(0.5), mask, some, "a.svs")


def test_a_slide_without_tissue_is_refused():
    with pytest.raises(TissueError, match=r"a\.svs: no tissue"):
        tile_grid(Box(0, 0, 900, 900), Mpp(0.5), np.zeros((9, 9), bool), GridConfig(), "a.svs")


def test_a_coarse_slide_is_refused_until_upsampling_is_allowed():
    mask = np.ones((9, 9), bool)
    with pytest.raises(MppError, match=r"a\.svs.*0\.688.*--allow-upsampling"):
        tile_grid(Box(0, 0, 900, 900), Mpp(0.688), mask, GridConfig(), "a.svs")
    allowed = GridConfig(allow_upsampling=True)
    assert len(tile_grid(Box(0, 0, 900, 900), Mpp(0.688), mask, allowed, "a.svs")) == 9
    # Aperio's "20x" of 0.5025 µm/px is not coarse.
    assert tile_grid(Box(0, 0, 900, 900), Mpp(0.5025), mask, GridConfig(), "a.svs").l0_tile < 512
