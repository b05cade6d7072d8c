"""Read back by SpatialData itself, whose queries find what lies where."""

import shutil

import numpy as np
import pytest
import shapely
import spatialdata as sd
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import get_transformation
from typer.testing import CliRunner

import wsi_pipeline as wsi
from wsi_pipeline.cli import app
from wsi_pipeline.errors import OutputError, ResultError
from wsi_pipeline.export.spatial_data import MICROMETRES, PIXELS, _over, write_spatial_data
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.write import read_mask, read_thumbnail


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("spatial") / "sample.zarr"
    result = CliRunner().invoke(app, ["export", str(folder), "--spatialdata", str(target)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(target)), result.output
    return sd.read_zarr(target)


def place(element, system, x, y):
    """Where a point of an element's own pixels lies."""
    matrix = get_transformation(element, system).to_affine_matrix(("x", "y"), ("x", "y"))
    return (matrix @ [x, y, 1])[:2]


def test_its_own_models_accept_it(store):
    for image in store.images.values():
        Image2DModel().validate(image)
    Labels2DModel().validate(store["tissue"])
    for shapes in ("tiles", "bed"):
        ShapesModel.validate(store[shapes])
    TableModel().validate(store.tables["scores"])
    assert set(store.coordinate_systems) == {PIXELS, MICROMETRES}


def test_the_table_is_that_of_the_result_and_bound_to_its_squares(store, folder):
    tiles, table = wsi.open_result(folder).tiles, store.tables["scores"]
    names = ["cellularity", *(name for name in tiles if name.startswith("fraction_"))]
    assert list(table.var_names) == names
    np.testing.assert_array_equal(table.X, tiles[names].to_numpy(np.float32))
    for name in set(tiles) - set(names):
        np.testing.assert_array_equal(table.obs[name].to_numpy(), tiles[name].to_numpy())
    squares, matched = sd.match_element_to_table(store, "tiles", "scores")
    assert len(matched) == len(tiles)
    for geometry, tile in zip(squares["tiles"].geometry, tiles.itertuples(), strict=True):
        left, top, right, bottom = geometry.bounds
        assert (left, top) == (tile.l0_x_px, tile.l0_y_px)
        assert (right - left, bottom - top) == (512, 512)


def test_maps_lie_where_the_tiffs_say(store, folder):
    for name, file in (
        ("cellularity", "cellularity.ome.tiff"),
        ("cellularity_fine", "cellularity-fine.ome.tiff"),
    ):
        expected = read_cellularity(folder / file)
        np.testing.assert_array_equal(store[name].to_numpy()[0], expected.cellularity)
        corner = np.array(expected.l0_origin) + expected.l0_cell * np.array([3, 2])
        np.testing.assert_allclose(place(store[name], PIXELS, 3, 2), corner)
        np.testing.assert_allclose(place(store[name], MICROMETRES, 3, 2), corner * expected.mpp)


def test_pictures_show_the_slides_bounds(store, folder):
    np.testing.assert_array_equal(
        store["slide"].to_numpy(), read_thumbnail(folder).transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(store["tissue"].to_numpy() > 0, read_mask(folder))
    for name in ("slide", "tissue"):
        rows, columns = store[name].shape[-2:]
        np.testing.assert_allclose(place(store[name], PIXELS, columns, rows), (1695, 1209))
        np.testing.assert_allclose(
            place(store[name], MICROMETRES, columns, rows), (847.5, 604.5), rtol=1e-4
        )


def test_bounds_that_begin_within_the_slide():
    shown = Image2DModel.parse(
        np.zeros((3, 50, 40), np.uint8),
        dims=("c", "y", "x"),
        transformations=_over(Box(1000, 300, 400, 1000), (50, 40), 0.25),
    )
    np.testing.assert_allclose(place(shown, PIXELS, 0, 0), (1000, 300))
    np.testing.assert_allclose(place(shown, PIXELS, 40, 50), (1400, 1300))
    np.testing.assert_allclose(place(shown, MICROMETRES, 40, 50), (350, 325))


def test_a_query_in_micrometres_finds_the_tiles_there(store, folder):
    box = {"min_coordinate": [300, 200], "max_coordinate": [600, 700], "axes": ("x", "y")}
    found = store.query.bounding_box(**box, target_coordinate_system=MICROMETRES)
    tiles = wsi.open_result(folder).tiles
    region = shapely.box(600, 400, 1200, 1400)  # in pixels of 0.5 µm
    expected = [
        number
        for number, (x, y) in enumerate(zip(tiles.l0_x_px, tiles.l0_y_px, strict=True))
        if shapely.box(x, y, x + 512, y + 512).intersects(region)
    ]
    assert 0 < len(expected) < len(tiles)
    assert sorted(found["tiles"].index) == expected
    assert sorted(found.tables["scores"].obs["tile"]) == expected


def test_the_bed_is_that_of_the_result(store, folder):
    summary = wsi.open_result(folder).summary
    area_um2 = sum(store["bed"].geometry.area) * summary.provenance.slide.mpp**2
    assert area_um2 / 1e6 == pytest.approx(summary.bed.area_mm2, rel=1e-5)
    assert store.attrs["wsi-pipeline"]["cellularity"]["mean"] == summary.cellularity.mean


def test_nothing_is_written_over_and_no_file_of_another_run(store, folder, tmp_path):
    with pytest.raises(OutputError, match="is there already"):
        write_spatial_data(folder, store.path)
    with pytest.raises(ResultError, match="no finished result"):
        write_spatial_data(tmp_path, tmp_path / "a.zarr")
    changed = shutil.copytree(folder, tmp_path / "changed")
    (changed / "bed.geojson").write_text("{}")
    with pytest.raises(ResultError, match=r"bed\.geojson: is gone, or not what it was"):
        write_spatial_data(changed, tmp_path / "a.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]
