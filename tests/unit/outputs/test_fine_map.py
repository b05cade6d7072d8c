from types import SimpleNamespace

import numpy as np
import pytest

from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.outputs.fine_map import Areas, FineMapConfig, agreeing, make_fine_map, read_areas
from wsi_pipeline.outputs.score_map import ScoreMap

FACTOR = 8


def coarse(values) -> ScoreMap:
    return ScoreMap(np.array(values, np.float32), (0.0, 0.0), 512.0, Mpp(0.5))


def tile_means(fine, factor=FACTOR):
    rows, columns = fine.tissue.shape
    shape = rows // factor, factor, columns // factor, factor
    cancer = (np.nan_to_num(fine.scores.cellularity) * fine.tissue).reshape(shape).sum((1, 3))
    return cancer / fine.tissue.reshape(shape).sum((1, 3))


def test_each_tile_has_its_own_score_as_mean_of_its_tissue():
    rng = np.random.default_rng(0)
    tissue = rng.uniform(0.3, 1, (40, 48)).astype(np.float32)
    cells = (tissue * rng.beta(0.6, 1.2, (40, 48))).astype(np.float32)
    scores = rng.uniform(0.02, 0.9, (5, 6))
    fine = agreeing(coarse(scores), Areas(cells, tissue, FACTOR))
    assert np.abs(tile_means(fine) - scores).max() < 0.02


def test_where_the_segmentation_knows_better_the_map_follows_it():
    """In one tile, all cancer lies in one corner."""
    cells = np.zeros((8, 8), np.float32)
    cells[:4, :4] = 0.9
    fine = agreeing(coarse([[0.2]]), Areas(cells, np.ones((8, 8), np.float32), FACTOR))
    assert fine.scores.cellularity[:4, :4].min() > 0.7
    assert fine.scores.cellularity[4:, 4:].max() < 0.05


def test_of_a_wave_that_knows_no_tiles_no_border_is_seen():
    """The score is 1.3 times what the segmentation says, and tiles are cut through the wave."""
    at = np.arange(10 * FACTOR)
    wave = 0.3 + 0.2 * np.sin(at / 9)[:, None] * np.cos(at / 7)[None]
    tissue = np.ones_like(wave, np.float32)
    scores = 1.3 * wave.reshape(10, FACTOR, 10, FACTOR).mean((1, 3))
    values = agreeing(coarse(scores), Areas(wave.astype(np.float32), tissue, FACTOR))
    jumps = np.abs(np.diff(values.scores.cellularity, axis=1))
    across = (np.arange(jumps.shape[1]) + 1) % FACTOR == 0
    assert jumps[:, across].mean() < 1.1 * jumps[:, ~across].mean()
    assert np.abs(values.scores.cellularity - 1.3 * wave).mean() < 0.02


def test_what_has_no_tissue_or_no_score_has_no_value():
    tissue = np.ones((8, 16), np.float32)
    tissue[:, :2] = 0.05
    fine = agreeing(coarse([[0.5, np.nan]]), Areas(tissue / 2, tissue, FACTOR))
    known = np.isfinite(fine.scores.cellularity)
    assert not known[:, :2].any()
    assert known[:, 2:8].all()
    assert not known[:, 8:].any()
    assert (fine.tissue[~known] == 0).all()


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_ends_of_the_scale_are_reached(score):
    tissue = np.ones((8, 8), np.float32)
    fine = agreeing(coarse([[score]]), Areas(tissue / 2, tissue, FACTOR))
    assert np.abs(fine.scores.cellularity - score).max() < 0.01


class Store(SimpleNamespace):
    """Tiles of 512 px in one shard, and their areas."""

    tile_px = 512

    @property
    def shards(self):
        return [slice(0, len(self.areas))]

    def cell_area(self, shard):
        return self.areas[shard]


def grid(m_xy, stride=512.0, m_size=(2, 1)):
    return SimpleNamespace(
        m_xy=np.array(m_xy, np.int32), m_size=Size(*m_size), l0_stride=stride, l0_tile=512.0
    )


def test_squares_are_laid_where_their_tiles_lie():
    areas = np.zeros((2, 2, 16, 16), np.uint8)
    areas[0, 0, 0, 1] = 255
    areas[1, 1] = 51
    laid = read_areas(Store(areas=areas), grid([[0, 0], [1, 0]]), squares=2)
    assert laid.cells.shape == (8, 16)
    assert laid.cells[0, 0] == 0.25
    assert laid.cells.sum() == 0.25
    np.testing.assert_allclose(laid.tissue[:, 8:], 0.2)
    assert (laid.tissue[:, :8] == 0).all()


def test_where_tiles_overlap_their_mean_is_taken():
    areas = np.zeros((2, 2, 16, 16), np.uint8)
    areas[0], areas[1] = 100, 200
    laid = read_areas(
        Store(areas=areas), grid([[0, 0], [1, 0]], stride=256.0, m_size=(3, 2)), squares=2
    )
    assert laid.per_coarse == 4
    np.testing.assert_allclose(laid.tissue[0] * 255, [100] * 4 + [150] * 4 + [200] * 4, rtol=1e-6)


def test_tiles_at_odd_distances_and_models_that_do_not_tell_have_none():
    areas = np.zeros((1, 2, 16, 16), np.uint8)
    assert read_areas(Store(areas=areas), grid([[0, 0]], stride=300.0), squares=2) is None
    store = Store(areas=areas, cell_area=None)
    store.cell_area = lambda shard: None
    assert read_areas(store, grid([[0, 0]]), squares=2) is None


def test_the_mask_keeps_stained_glass_out():
    areas = np.full((1, 2, 16, 16), 255, np.uint8)
    store = Store(areas=areas, grid=grid([[0, 0]], m_size=(1, 1)))
    mask = np.array([[True, False]])
    fine = make_fine_map(store, coarse([[0.5]]), mask, Box(0, 0, 512, 512), FineMapConfig())
    assert np.isfinite(fine.scores.cellularity[:, :4]).all()
    assert np.isnan(fine.scores.cellularity[:, 4:]).all()
    assert fine.scores.cell_um == 32
