"""A slide whose scanned part starts somewhere inside its level 0, as MIRAX slides do.

QuPath counts from level 0's (0, 0): peers that count from the bounds are off by them.
"""

import json
import re

import numpy as np
import pytest
import shapely
import shapely.affinity
import tifffile

from wsi_pipeline.bed.measure import measure
from wsi_pipeline.bed.outline import Bed
from wsi_pipeline.bed.propose import propose
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.geometry import Box
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.maps import make_maps
from wsi_pipeline.outputs.tile_table import read_parquet
from wsi_pipeline.outputs.write import read_mask
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.slide.readers.choose import READERS
from wsi_pipeline.slide.readers.tiffslide_reader import TiffSlideReader
from wsi_pipeline.tiles.store import TileStore

OFFSET = (700, 301)


@pytest.fixture
def both(make_slide, section, tmp_path, tiny_bundle, tiny_config, monkeypatch):
    """The outputs of a section by itself, and of the same within a larger level 0."""
    height, width = section.rgb.shape[:2]
    engine = build_engine(ModelBundle.load(tiny_bundle), tiny_config.engine)
    plain = make_slide(section.rgb, name="plain.tif")
    score_slide(plain, tmp_path / "out", engine, tiny_config)

    around = np.zeros((height + 600, width + 1500, 3), np.uint8)
    x, y = OFFSET
    around[y : y + height, x : x + width] = section.rgb
    bounded = make_slide(around, name="bounded.tif")

    class Bounded(TiffSlideReader):
        def __init__(self, location):
            super().__init__(location)
            self.l0_bounds = Box(x, y, width, height)

    monkeypatch.setitem(READERS, "tiffslide", Bounded)
    score_slide(bounded, tmp_path / "out", engine, tiny_config)
    return [tmp_path / "out" / name for name in ("plain", "bounded")]


def test_scores_are_the_same_and_places_are_those_of_level_0(both):
    (a, _), (b, _) = (read_parquet(folder / "tiles.parquet") for folder in both)
    np.testing.assert_array_equal(b.l0_xy, a.l0_xy + np.array(OFFSET))
    np.testing.assert_array_equal(b.m_xy, a.m_xy)
    np.testing.assert_array_equal(b.cellularity, a.cellularity)

    maps = [read_cellularity(folder / "cellularity.ome.tiff") for folder in both]
    np.testing.assert_array_equal(maps[0].cellularity, maps[1].cellularity)
    assert maps[0].l0_origin == (0, 0)
    assert maps[1].l0_origin == OFFSET

    masks = [(folder / "tissue.png").read_bytes() for folder in both]
    assert masks[0] == masks[1]
    pixels = [tifffile.imread(folder / "overlay.tif", level=0) for folder in both]
    np.testing.assert_array_equal(*pixels)

    features = [json.loads((folder / "tiles.geojson").read_text())["features"] for folder in both]
    assert len(features[0]) == len(features[1]) > 100
    for one, other in zip(*features, strict=True):
        corners = np.array(one["geometry"]["coordinates"][0][0], float).reshape(-1, 2)
        shifted = np.array(other["geometry"]["coordinates"][0][0], float).reshape(-1, 2)
        np.testing.assert_array_equal(shifted, corners + np.array(OFFSET))


def test_fine_maps_and_beds_lie_in_level_0_too(both):
    fine = [read_cellularity(folder / "cellularity-fine.ome.tiff") for folder in both]
    np.testing.assert_array_equal(fine[0].cellularity, fine[1].cellularity)
    assert fine[1].l0_origin == OFFSET
    maps = [finished_maps(folder) for folder in both]
    square = shapely.MultiPolygon([shapely.box(40, 30, 300, 260)])
    beds = [
        Bed(shapely.affinity.translate(square, *found.shown.l0_origin), "drawn") for found in maps
    ]
    one, other = (
        measure(bed, found, min_coverage=0) for bed, found in zip(beds, maps, strict=True)
    )
    assert one == other
    assert one.cellularity > 0
    proposed = [propose(found) for found in maps]
    if proposed[0] is not None:
        moved = shapely.affinity.translate(proposed[0].area, *OFFSET)
        assert moved.equals(proposed[1].area)
    pages = [(folder / "report.html").read_text() for folder in both]
    for page, found in zip(pages, maps, strict=True):
        about = re.search(r'id="about">(.*?)</script>', page)[1]
        told = json.loads(about)["maps"]
        assert (told["x"], told["y"]) == found.shown.l0_origin


def finished_maps(folder):
    store = TileStore(folder / "tiles.zarr")
    return make_maps(store, store.table(), read_mask(folder))
