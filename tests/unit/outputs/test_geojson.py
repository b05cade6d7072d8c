import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.colours import colourise
from wsi_pipeline.outputs.geojson import MAX_DETECTIONS, detection_factor, region, write_geojson
from wsi_pipeline.outputs.score_map import ScoreMap

EVERYWHERE = Box(0, 0, 10**9, 10**9)


def random_map(rows, columns, seed=0, l0_origin=(700.0, 400.0), l0_cell=1012.3) -> ScoreMap:
    rng = np.random.default_rng(seed)
    cellularity = rng.random((rows, columns), dtype=np.float32)
    cellularity[rng.random((rows, columns)) < 0.3] = np.nan
    return ScoreMap(cellularity, l0_origin, l0_cell, Mpp(0.253))


def smooth_map(rows, columns) -> ScoreMap:
    """Patches of tumour some cells wide, as on a slide."""
    noise = np.random.default_rng(0).standard_normal((rows, columns))
    field = gaussian_filter(noise, 3)
    cellularity = ((field - field.min()) / np.ptp(field)).astype(np.float32)
    cellularity[cellularity < 0.2] = np.nan
    return ScoreMap(cellularity, (700.0, 400.0), 1012.3, Mpp(0.253))


def read(path):
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    kinds = {"annotation": [], "detection": []}
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        kinds[feature["properties"]["objectType"]].append((feature["properties"], shape))
    return collection, kinds["annotation"], kinds["detection"]


def test_detections_are_the_scored_cells_in_slide_coordinates(tmp_path):
    score_map = random_map(6, 9)
    write_geojson(tmp_path / "t.geojson", score_map, EVERYWHERE)
    _, _, detections = read(tmp_path / "t.geojson")
    expected = {}
    for row, column in np.argwhere(np.isfinite(score_map.cellularity)):
        corner = (round(700 + column * 1012.3), round(400 + row * 1012.3))
        expected[corner] = score_map.cellularity[row, column]
    assert len(detections) == len(expected)
    for properties, shape in detections:
        left, top, right, bottom = shape.bounds
        value = expected[left, top]
        assert properties["measurements"] == {"Cellularity": pytest.approx(value, abs=1e-4)}
        assert properties["color"] == colourise(value).tolist()
        assert shape.area == (right - left) * (bottom - top)
        assert right - left == pytest.approx(1012.3, abs=1)
        assert "name" not in properties


def test_form_is_qupaths(tmp_path):
    write_geojson(tmp_path / "t.geojson", random_map(6, 9), EVERYWHERE)
    collection, annotations, detections = read(tmp_path / "t.geojson")
    assert collection["properties"]["cells_averaged_per_detection"] == "1 × 1"
    assert [properties["classification"]["name"] for properties, _ in annotations] == [
        "Cellularity ≥ 10%",
        "Cellularity ≥ 30%",
        "Cellularity ≥ 70%",
    ]
    for properties, _ in annotations:
        assert properties["isLocked"] is True
        assert all(0 <= value <= 255 for value in properties["classification"]["color"])
        assert len(properties["classification"]["color"]) == 3
    for properties, _ in [*annotations, *detections]:
        assert all(isinstance(value, float) for value in properties["measurements"].values())
        assert set(properties) <= {
            "objectType",
            "classification",
            "color",
            "isLocked",
            "measurements",
        }
    numbers = json.dumps([feature["geometry"] for feature in collection["features"]])
    assert "." not in numbers


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.sampled_from([0.05, 0.1, 0.5, 0.9, float("nan")]),
    )
)
@settings(deadline=None, max_examples=200)
def test_regions_cover_exactly_the_cells_above(cellularity):
    score_map = ScoreMap(cellularity, (0.0, 0.0), 10.0, Mpp(0.5))
    for threshold in (0.1, 0.3, 0.7):
        shape = region(score_map, threshold, EVERYWHERE)
        assert shape.is_valid
        above = cellularity >= threshold
        assert shape.area == above.sum() * 100
        centres = shapely.points(np.argwhere(above)[:, ::-1] * 10.0 + 5)
        assert shapely.contains(shape, centres).all()
        for part in shape.geoms:
            assert part.exterior.is_ccw
            assert all(not hole.is_ccw for hole in part.interiors)


def test_a_ring_of_cells_has_a_hole_and_no_spare_vertices(tmp_path):
    cellularity = np.full((5, 5), 0.8, np.float32)
    cellularity[2, 2] = 0.01
    score_map = ScoreMap(cellularity, (0.0, 0.0), 100.0, Mpp(0.5))
    write_geojson(tmp_path / "t.geojson", score_map, EVERYWHERE)
    _, annotations, _ = read(tmp_path / "t.geojson")
    assert len(annotations) == 3
    for properties, shape in annotations:
        (part,) = shape.geoms
        assert shapely.equals(part, shapely.box(0, 0, 500, 500) - shapely.box(200, 200, 300, 300))
        assert len(part.exterior.coords) == len(part.interiors[0].coords) == 5
        assert properties["measurements"]["Cellularity"] == pytest.approx(0.8)


def test_cells_are_cut_at_the_slide(tmp_path):
    score_map = ScoreMap(np.float32([[0.5, 0.5], [0.5, 0.5]]), (10.0, 20.0), 100.0, Mpp(0.5))
    bounds = Box(10, 20, 150, 100)
    write_geojson(tmp_path / "t.geojson", score_map, bounds)
    _, annotations, detections = read(tmp_path / "t.geojson")
    whole = shapely.box(10, 20, 160, 120)
    # The second row of cells lies entirely beyond the slide.
    assert [shape.bounds for _, shape in detections] == [(10, 20, 110, 120), (110, 20, 160, 120)]
    assert [shapely.equals(shape, whole) for _, shape in annotations] == [True, True]


def test_thresholds_that_nothing_reaches_have_no_annotation(tmp_path):
    for cellularity, regions, squares in [([[0.05, np.nan]], 0, 1), ([[np.nan]], 0, 0)]:
        score_map = ScoreMap(np.array(cellularity, np.float32), (0.0, 0.0), 100.0, Mpp(0.5))
        write_geojson(tmp_path / "t.geojson", score_map, EVERYWHERE)
        _, annotations, detections = read(tmp_path / "t.geojson")
        assert (len(annotations), len(detections)) == (regions, squares)


def test_large_maps_are_averaged_and_say_so(tmp_path):
    score_map = smooth_map(333, 401)
    assert detection_factor(score_map) == 4
    write_geojson(tmp_path / "t.geojson", score_map, EVERYWHERE)
    assert (tmp_path / "t.geojson").stat().st_size < 8e6
    collection, annotations, detections = read(tmp_path / "t.geojson")
    assert collection["properties"]["cells_averaged_per_detection"] == "4 × 4"
    assert len(detections) <= MAX_DETECTIONS
    properties, shape = detections[0]
    assert properties["name"] == "mean of 4 × 4 cells"
    assert shape.bounds == (700, 400, round(700 + 4 * 1012.3), round(400 + 4 * 1012.3))
    assert properties["measurements"]["Cellularity"] == pytest.approx(
        np.nanmean(score_map.cellularity[:4, :4]), abs=1e-4
    )
    # The regions keep the full resolution.
    for threshold, (_, shape) in zip((0.1, 0.3, 0.7), annotations, strict=True):
        x, y = score_map.l0_edges()
        areas = np.outer(np.diff(y), np.diff(x))
        assert shape.area == areas[score_map.cellularity >= threshold].sum()


def test_same_map_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_geojson(tmp_path / name, random_map(20, 20), EVERYWHERE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
