import numpy as np
import pytest

from tests.helpers.mapped import maps_of
from wsi_pipeline.bed.propose import propose


def test_two_foci_a_gap_apart_are_one_bed_and_a_speck_is_none():
    cellularity = np.zeros((200, 200))
    cellularity[60:100, 40:80] = 0.6
    cellularity[60:100, 100:140] = 0.4  # 0.64 mm further on
    cellularity[180:182, 180:182] = 0.9
    bed = propose(maps_of(cellularity))
    assert bed.source == "proposed"
    left, top, right, bottom = bed.area.bounds
    assert len(bed.area.geoms) == 1
    assert left == pytest.approx(40 * 64, abs=320)
    assert right == pytest.approx(140 * 64, abs=320)
    assert top == pytest.approx(60 * 64, abs=320)
    assert bottom == pytest.approx(100 * 64, abs=320)


def test_foci_far_apart_are_parts():
    cellularity = np.zeros((100, 300))
    cellularity[30:70, 20:60] = cellularity[30:70, 240:280] = 0.5
    assert len(propose(maps_of(cellularity)).area.geoms) == 2


@pytest.mark.parametrize("level", [0.0, 0.09, np.nan])
def test_without_tissue_above_the_threshold_there_is_none(level):
    assert propose(maps_of(np.full((50, 50), level))) is None


def test_a_bed_stays_on_the_slide():
    maps = maps_of(np.full((40, 40), 0.5), origin=(1000, 2000))
    assert propose(maps).area.bounds == pytest.approx((1000, 2000, 3560, 4560), abs=64)
    left, top, right, bottom = propose(maps).area.bounds
    assert left >= 1000
    assert top >= 2000
    assert right <= 3560
    assert bottom <= 4560


def test_too_small_a_focus_is_no_bed():
    cellularity = np.zeros((100, 100))
    cellularity[50:54, 50:54] = 0.9
    assert propose(maps_of(cellularity)) is None
