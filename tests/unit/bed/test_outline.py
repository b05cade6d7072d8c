import json

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from wsi_pipeline.bed.outline import Bed, read_bed, write_bed
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.geometry import Size

SIZE = Size(4000, 3000)
SQUARE = [[100, 100], [900, 100], [900, 700], [100, 700], [100, 100]]
HOLE = [[300, 300], [300, 500], [600, 500], [600, 300], [300, 300]]


def read(tmp_path, content) -> Bed:
    path = tmp_path / "bed.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_bed(path, SIZE, "block 7.svs")


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.mark.parametrize(
    "content",
    [
        polygon(SQUARE, HOLE),
        feature(polygon(SQUARE, HOLE), objectType="annotation"),
        [feature(polygon(SQUARE, HOLE))],
        {"type": "FeatureCollection", "features": [feature(polygon(SQUARE, HOLE))]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]},
    ],
    ids=["geometry", "feature", "list", "collection", "multipolygon"],
)
def test_what_qupath_exports_is_read(tmp_path, content):
    bed = read(tmp_path, content)
    assert bed.source == "drawn"
    assert bed.area.area == 800 * 600 - 300 * 200


def test_several_outlines_are_one_bed_and_overlap_counts_once(tmp_path):
    other = [[500, 400], [1500, 400], [1500, 900], [500, 900], [500, 400]]
    bed = read(tmp_path, [feature(polygon(SQUARE)), feature(polygon(other))])
    assert bed.area.area == 800 * 600 + 1000 * 500 - 400 * 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("3", "not GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        (feature({"type": "Point", "coordinates": [3, 4]}), "holds a Point"),
        (feature(None), "not GeoJSON"),
        (polygon([[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]), "Self-intersection"),
        (polygon([[0, 0], [1, 1]]), "cannot be understood"),
        (polygon([]), "has no area"),
        (polygon([[0, 0], [float("nan"), 5], [4, 4], [0, 0]]), "not JSON|no area|understood"),
        (
            polygon([[2, 2], [6, 2], [6, 5], [2, 5], [2, 2]]),
            "12 square pixels.*perhaps in µm or mm",
        ),
        (polygon([[3500, 100], [9000, 100], [9000, 700], [3500, 700]]), "91% of the bed lies"),
        (
            {
                "type": "FeatureCollection",
                "features": [feature(polygon(SQUARE))],
                "properties": {"width_px": 99, "height_px": 88, "slide": "block 8.svs"},
            },
            r"drawn on a slide of 99 × 88 px \(block 8.svs\)",
        ),
    ],
)
def test_errors_name_the_file_and_what_is_wrong(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path, content)
    assert "bed.geojson" in str(raised.value)


def test_a_missing_outline_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such outline"):
        read_bed(tmp_path / "none.geojson", SIZE, "a")


def test_a_hand_that_slips_over_the_edge_is_forgiven(tmp_path):
    bed = read(tmp_path, polygon([[0, 0], [4004, 0], [4004, 3000], [0, 3000], [0, 0]]))
    assert bed.area.bounds == (0, 0, 4000, 3000)


corner = st.tuples(st.integers(0, 3999), st.integers(0, 2999))


@given(st.lists(corner, min_size=3, max_size=12, unique=True))
def test_what_is_written_is_read_again(tmp_path_factory, corners):
    hull = shapely.convex_hull(shapely.MultiPoint(corners))
    assume(hull.geom_type == "Polygon" and hull.area >= 2000)
    path = tmp_path_factory.mktemp("bed") / "bed.geojson"
    bed = Bed(shapely.MultiPolygon([hull]), "drawn")
    write_bed(path, bed, slide="a.svs", l0_size=SIZE)
    again = read_bed(path, SIZE, "a.svs")
    assert again.digest == bed.digest
    assert again.area.equals(bed.area)
    with pytest.raises(ConfigError, match="drawn on a slide of 4000 × 3000 px"):
        read_bed(path, Size(4000, 3001), "b.svs")


def test_the_digest_is_of_the_place_and_not_of_where_a_ring_begins():
    turned = SQUARE[2:-1] + SQUARE[:3]
    one, two = (Bed(shapely.MultiPolygon([shapely.Polygon(r)]), "drawn") for r in (SQUARE, turned))
    moved = Bed(shapely.MultiPolygon([shapely.Polygon(np.array(SQUARE) + 1)]), "drawn")
    assert one.digest == two.digest != moved.digest
