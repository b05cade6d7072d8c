import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.helpers.mapped import CELL, maps_of
from wsi_pipeline.bed.measure import cover, extent_of, measure
from wsi_pipeline.bed.outline import Bed


def bed_of(*polygons) -> Bed:
    return Bed(shapely.MultiPolygon(list(polygons)), "drawn")


def test_empty_fields_count_as_none():
    """A half of cancer at 60 % beside fat without tissue: the bed has 30 %."""
    cellularity = np.full((16, 16), 0.6)
    cellularity[:, 8:] = np.nan
    tissue = np.ones((16, 16))
    tissue[:, 8:] = 0
    figures = measure(
        bed_of(shapely.box(0, 0, 1024, 1024)),
        maps_of(cellularity, tissue=tissue),
        min_coverage=0.9,
    )
    assert figures.cellularity == pytest.approx(0.3)
    assert figures.area_mm2 == pytest.approx(0.512**2, abs=1e-4)
    assert (figures.longest_mm, figures.across_mm) == (0.724, 0.724)
    assert figures.coverage == 1
    assert figures.interval is None


def test_cells_that_are_half_tissue_hold_half_as_much_cancer():
    maps = maps_of(np.full((8, 8), 0.8), tissue=np.full((8, 8), 0.5))
    figures = measure(bed_of(shapely.box(0, 0, 512, 512)), maps, min_coverage=0.9)
    assert figures.cellularity == pytest.approx(0.4)


def test_what_could_not_be_read_is_unknown_and_not_none():
    cellularity = np.full((10, 10), 0.5)
    cellularity[0] = np.nan
    unread = ~np.isfinite(cellularity)
    maps = maps_of(cellularity, tissue=~unread, unread=unread)
    bed = bed_of(shapely.box(0, 0, 640, 640))
    figures = measure(bed, maps, min_coverage=0.9)
    assert (figures.coverage, figures.cellularity) == (0.9, 0.5)
    assert measure(bed, maps, min_coverage=0.95).cellularity is None


def test_a_hole_is_no_part_of_the_bed():
    cellularity = np.zeros((20, 20))
    cellularity[5:15, 5:15] = 1
    ring = shapely.box(0, 0, 1280, 1280) - shapely.box(320, 320, 960, 960)
    figures = measure(bed_of(ring), maps_of(cellularity), min_coverage=0.9)
    assert figures.cellularity == 0
    assert figures.area_mm2 == pytest.approx(0.64**2 - 0.32**2, abs=1e-4)


def test_a_large_bed_has_an_interval_that_holds_its_mean():
    rng = np.random.default_rng(0)
    cellularity = rng.uniform(0, 1, (30, 40)).repeat(8, 0).repeat(8, 1)
    figures = measure(
        bed_of(shapely.box(0, 0, 320 * CELL, 240 * CELL)), maps_of(cellularity), min_coverage=0.9
    )
    assert figures.interval.low < figures.cellularity < figures.interval.high
    assert figures.cellularity == pytest.approx(cellularity.mean(), abs=1e-6)


coordinate = st.floats(0, 640, allow_nan=False)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9, unique=True))
def test_cells_are_covered_as_their_points_are(corners):
    """Against shapely, which asks each point by itself."""
    area = shapely.Polygon(corners)
    assume(area.is_valid and area.area >= 1)
    maps = maps_of(np.zeros((10, 10)))
    step = CELL / 2
    x, y = np.meshgrid((np.arange(20) + 0.5) * step, (np.arange(20) + 0.5) * step)
    points = shapely.points(x, y)
    inside = shapely.contains(area, points)
    unclear = shapely.distance(area.boundary, points) < 1e-6
    got = cover(bed_of(area), maps.shown)
    low = (inside & ~unclear).reshape(10, 2, 10, 2).mean(axis=(1, 3))
    high = (inside | unclear).reshape(10, 2, 10, 2).mean(axis=(1, 3))
    assert ((got >= low - 1e-6) & (got <= high + 1e-6)).all()


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=3, max_size=20))
def test_diameters_against_brute_force(corners):
    points = np.array(corners, float)
    hull = shapely.convex_hull(shapely.MultiPoint(points))
    got = extent_of(hull)
    pairs = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert got.longest == pytest.approx(pairs.max())
    turns = np.linspace(0, np.pi, 721)
    widths = np.ptp(points @ np.array([np.cos(turns), np.sin(turns)]), axis=0)
    assert widths.min() - 0.005 * got.longest <= got.across <= got.longest + 1e-6


def test_diameters_of_a_rectangle_are_its_diagonal_and_what_stands_on_it():
    """3 by 4: the diagonal is 5, and both other corners lie 2.4 off it."""
    assert extent_of(shapely.box(0, 0, 3, 4)).across == pytest.approx(4.8)
