import numpy as np
import pytest
import tifffile
import tiffslide
from PIL import Image

from wsi_pipeline.errors import StoreError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity, write_cellularity
from wsi_pipeline.outputs.score_map import ScoreMap


def random_map(rows: int, columns: int) -> ScoreMap:
    rng = np.random.default_rng(rows)
    cellularity = rng.random((rows, columns), dtype=np.float32)
    cellularity[rng.random((rows, columns)) < 0.4] = np.nan
    return ScoreMap(cellularity, (1234.0, 567.0), 1012.34, Mpp(0.2529))


@pytest.fixture(params=[(1, 1), (5, 6), (26, 24), (700, 401)], ids=str)
def written(request, tmp_path):
    score_map = random_map(*request.param)
    write_cellularity(tmp_path / "cellularity.ome.tiff", score_map)
    return score_map, tmp_path / "cellularity.ome.tiff"


def test_read_back_is_the_same_map(written):
    score_map, path = written
    again = read_cellularity(path)
    np.testing.assert_array_equal(again.cellularity, score_map.cellularity)
    assert again.cellularity.dtype == np.float32
    assert (again.l0_origin, again.l0_cell, again.mpp) == (
        score_map.l0_origin,
        score_map.l0_cell,
        score_map.mpp,
    )


def test_tifffile_sees_a_tiled_float_pyramid(written):
    score_map, path = written
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert (series.axes, series.dtype) == ("YX", np.float32)
        assert len(series.levels) > 1 or max(score_map.cellularity.shape) <= 4
        for reduction, level in enumerate(series.levels):
            page = level.pages[0]
            assert page.is_tiled
            assert page.tilewidth % 16 == page.tilelength % 16 == 0
            assert page.tilewidth <= 256
            expected = brute_force_reduction(score_map.cellularity, 2**reduction)
            np.testing.assert_allclose(level.asarray(), expected, rtol=1e-6)


def brute_force_reduction(values: np.ndarray, factor: int) -> np.ndarray:
    shape = [-(-side // factor) for side in values.shape]
    reduced = np.full(shape, np.nan)
    for row, column in np.ndindex(*shape):
        block = values[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        if not np.isnan(block).all():
            reduced[row, column] = np.nanmean(block, dtype=np.float64)
    return reduced


def test_place_and_pixel_size_are_in_micrometres(written):
    score_map, path = written
    with tifffile.TiffFile(path) as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    for axis, l0_corner in zip("XY", score_map.l0_origin, strict=True):
        assert pixels[f"PhysicalSize{axis}"] == pytest.approx(1012.34 * 0.2529)
        assert pixels[f"PhysicalSize{axis}Unit"] == "µm"
        assert pixels["Plane"][f"Position{axis}"] == pytest.approx(l0_corner * 0.2529)
        assert pixels["Plane"][f"Position{axis}Unit"] == "µm"


def test_tiffslide_gives_the_same_size_levels_and_mpp(written):
    score_map, path = written
    rows, columns = score_map.cellularity.shape
    with tiffslide.TiffSlide(path) as slide:
        assert slide.dimensions == (columns, rows)
        assert slide.properties["tiffslide.mpp-x"] == pytest.approx(score_map.cell_um)
        assert slide.properties["tiffslide.mpp-y"] == pytest.approx(score_map.cell_um)
        for width, height in slide.level_dimensions:
            assert width <= columns
            assert height <= rows


def test_resolution_tags_of_every_level_tell_its_cell_size(written):
    score_map, path = written
    with tifffile.TiffFile(path) as tiff:
        for reduction, level in enumerate(tiff.series[0].levels):
            tags = level.pages[0].tags
            assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
            numerator, denominator = tags["XResolution"].value
            cell_um = 1e4 * denominator / numerator
            assert cell_um == pytest.approx(score_map.cell_um * 2**reduction)


def test_pillow_reads_the_pixels_as_floats(written):
    score_map, path = written
    with Image.open(path) as image:
        assert image.mode == "F"
        np.testing.assert_array_equal(np.asarray(image), score_map.cellularity)


def test_same_map_same_bytes_and_another_map_another_identity(tmp_path):
    for name in ("one", "two"):
        write_cellularity(tmp_path / name, random_map(5, 6))
    write_cellularity(tmp_path / "three", random_map(6, 6))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    identities = set()
    for name in ("one", "three"):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            identities.add(tifffile.xml2dict(tiff.ome_metadata)["OME"]["UUID"])
    assert len(identities) == 2


@pytest.mark.parametrize("content", ["missing", "empty", "text", "truncated", "plain"])
def test_what_is_not_a_map_is_refused_by_name(tmp_path, content):
    path = tmp_path / "cellularity.ome.tiff"
    write_cellularity(path, random_map(40, 40))
    if content == "missing":
        path.unlink()
    elif content == "plain":
        tifffile.imwrite(path, np.zeros((4, 4), np.float32))
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"cells", "truncated": whole[:400]}[content])
    with pytest.raises(StoreError, match=r"cellularity\.ome\.tiff.*wsi heatmap"):
        read_cellularity(path)
