import numpy as np
import pytest

from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.contours import contours_of, draw_contours
from wsi_pipeline.outputs.score_map import ScoreMap


def disc(radius_um=600.0, inside=0.5, cell_um=32.0, side=80) -> ScoreMap:
    at = (np.arange(side) + 0.5 - side / 2) * cell_um
    values = np.where(np.hypot(at[:, None], at[None]) <= radius_um, inside, 0)
    return ScoreMap(values.astype(np.float32), (0.0, 0.0), cell_um / 0.5, Mpp(0.5))


def test_lines_lie_where_cellularity_passes_their_level():
    the_map = disc()
    lines = contours_of(the_map)
    assert [line.level for line in lines] == [0.1, 0.3]
    middle = np.array([80 * 64 / 2] * 2)
    for line in lines:
        away_um = np.linalg.norm(line.l0_xy - middle, axis=1) * 0.5
        assert away_um.mean() == pytest.approx(600, abs=60)
        np.testing.assert_array_equal(line.l0_xy[0], line.l0_xy[-1])


def test_around_single_nuclei_there_are_none():
    assert contours_of(disc(radius_um=30)) == []
    assert contours_of(ScoreMap(np.full((4, 4), np.nan, np.float32), (0, 0), 64, Mpp(0.5))) == []


def test_lines_are_drawn_where_they_lie_and_pictures_beside_them_are_left_alone():
    lines = contours_of(disc())
    rgb = np.full((256, 256, 3), 128, np.uint8)
    whole = draw_contours(rgb, Box(0, 0, 5120, 5120), lines)
    assert (rgb == 128).all()
    changed = (whole != 128).any(axis=2)
    rows, columns = np.nonzero(changed)
    away = np.hypot(rows + 0.5 - 128, columns + 0.5 - 128) * 20 * 0.5
    assert away.min() > 480
    assert away.max() < 720
    assert draw_contours(rgb, Box(9000, 9000, 512, 512), lines) is rgb
