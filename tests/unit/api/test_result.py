"""An opened result says what its files say, read here with other means."""

import json
import os
import re
import shutil
import sys
import warnings
from hashlib import blake2b

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from matplotlib import pyplot as plt
from numpy.testing import assert_allclose, assert_array_equal

import wsi_pipeline as wsi
from wsi_pipeline.errors import ConfigError, ResultError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.outputs import tile_table
from wsi_pipeline.outputs.cellularity_tiff import write_cellularity
from wsi_pipeline.outputs.colours import colourise
from wsi_pipeline.outputs.score_map import ScoreMap

MAP = "cellularity.ome.tiff"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def rename_version(folder, **changes):
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def own_up_to(folder, name):
    """Have the summary name a file as it is now."""
    path = folder / "summary.json"
    content = json.loads(path.read_text())
    raw = (folder / name).read_bytes()
    content["outputs"][name] = {
        "size_bytes": len(raw),
        "digest": blake2b(raw, digest_size=16).hexdigest(),
    }
    path.write_text(json.dumps(content))


def placed(tiff):
    """Where OME-XML says that the first pixel's corner lies, and how large pixels are, in µm."""
    ome = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    assert {ome["PhysicalSizeXUnit"], ome["Plane"]["PositionYUnit"]} == {"µm"}
    place = ome["Plane"]["PositionX"], ome["Plane"]["PositionY"]
    return place, (ome["PhysicalSizeX"], ome["PhysicalSizeY"])


def test_the_summary_is_the_file(finished):
    result = wsi.open_result(finished)
    assert json.loads(result.summary.model_dump_json()) == json.loads(
        (finished / "summary.json").read_text()
    )
    assert result.name == "block.tif"
    with pytest.raises(Exception, match="frozen"):
        result.summary.status = "refused"


def test_tiles_are_those_of_the_file_in_the_documented_columns(finished):
    tiles, stored = wsi.open_result(str(finished)).tiles, pq.read_table(finished / "tiles.parquet")
    documented = dict(re.findall(r"^``(\w+)``\s+(\w+)", tile_table.__doc__, re.MULTILINE))
    classes = [name for name in tiles.columns if name.startswith("fraction_")]
    assert list(tiles.columns) == [*documented, *classes]
    assert len(classes) == 4
    assert {name: str(tiles[name].dtype) for name in documented} == documented
    assert len(tiles) == stored.num_rows > 10
    for name in tiles.columns:
        assert_array_equal(
            tiles[name], [np.nan if v is None else v for v in stored[name].to_pylist()]
        )
    assert tiles["cellularity_std"].isna().all()


def test_the_map_lies_where_the_tiff_says_and_where_its_tiles_are(finished):
    result = wsi.open_result(finished)
    with tifffile.TiffFile(finished / MAP) as tiff:
        pixels, (place, size) = tiff.asarray(), placed(tiff)
    assert_array_equal(result.map, pixels)
    assert result.map.dims == ("y", "x")
    assert result.map.name == "cellularity"
    assert_allclose(result.map.x, place[0] + (np.arange(pixels.shape[1]) + 0.5) * size[0])
    assert_allclose(result.map.y, place[1] + (np.arange(pixels.shape[0]) + 0.5) * size[1])
    assert result.map.x.units == result.map.y.units == "µm"

    # Each tile's score is found at its middle, and there are no others.
    mpp, side_um = 0.5, 64 * 0.5
    for tile in result.tiles.itertuples():
        middle = {"x": tile.l0_x_px * mpp + side_um / 2, "y": tile.l0_y_px * mpp + side_um / 2}
        assert float(result.map.sel(middle)) == np.float32(tile.cellularity)
    assert int(result.map.notnull().sum()) == len(result.tiles)
    assert bool(result.map.isnull().any())
    assert result.map.attrs["cell_um"] == side_um
    assert result.map.attrs["mpp"] == mpp


def test_a_map_that_begins_elsewhere_lies_elsewhere(own):
    values = np.array([[0.25, np.nan, 0.5]], np.float32)
    write_cellularity(own / MAP, ScoreMap(values, (1000.0, 200.0), 512.5, Mpp(0.25)))
    own_up_to(own, MAP)
    with tifffile.TiffFile(own / MAP) as tiff:
        place, size = placed(tiff)
    found = wsi.open_result(own).map
    assert_allclose(found.x, place[0] + size[0] * np.array([0.5, 1.5, 2.5]))
    assert_allclose(found.x, [250 + 64.0625, 250 + 192.1875, 250 + 320.3125])
    assert_allclose(found.y, [50 + 64.0625])
    assert_array_equal(found, values)


def test_what_a_notebook_loads_is_kept(finished):
    result = wsi.open_result(finished)
    assert result.tiles is result.tiles
    assert result.map is result.map


def test_the_plot_is_in_micrometres_and_in_the_fixed_colours(finished):
    result = wsi.open_result(finished)
    axes = result.plot(opacity=1)
    width_um, height_um = 384 * 0.5, 244 * 0.5
    assert axes.get_xlim() == (0, width_um)
    assert axes.get_ylim() == (height_um, 0)
    (image,) = axes.get_images()
    assert tuple(image.get_extent()) == (0, width_um, height_um, 0)

    shown = image.get_array()
    for tile in result.tiles.itertuples():
        x_um, y_um = (tile.l0_x_px + 32) * 0.5, (tile.l0_y_px + 20) * 0.5
        at = int(y_um / height_um * shown.shape[0]), int(x_um / width_um * shown.shape[1])
        expected = colourise(tile.cellularity)
        assert_allclose(shown[at], expected, atol=2.5)
    colours = axes.figure.axes[1]
    assert colours.get_ylim() == (0, 1)
    assert colours.get_ylabel().startswith("Cellularity of the tissue")
    axes.figure.canvas.draw()
    assert [label.get_text() for label in colours.get_yticklabels()][::5] == ["0 %", "100 %"]
    title = axes.get_title(loc="left")
    assert f"{100 * result.summary.cellularity.mean:.1f} %" in title
    assert "Mean over all tissue" in title
    assert "Research use only" in title


def test_the_scale_bar_is_as_long_as_it_says(finished):
    axes = wsi.open_result(finished).plot()
    axes.figure.canvas.draw()
    (bar,) = [artist for artist in axes.artists if hasattr(artist, "size_bar")]
    text = bar.txt_label.get_text()
    length_um = float(text.removesuffix(" µm"))
    (drawn,) = bar.size_bar.get_children()
    box = drawn.get_window_extent()
    (left, _), (right, _) = axes.transData.inverted().transform(
        [[box.x0, box.y0], [box.x1, box.y1]]
    )
    assert right - left == pytest.approx(length_um, rel=0.01)
    assert 384 * 0.5 / 10 < length_um <= 384 * 0.5 / 4


def test_a_plot_can_go_on_axes_that_there_are(finished):
    _, (left, right) = plt.subplots(1, 2)
    assert wsi.open_result(finished).plot(right) is right
    assert not left.get_images()
    assert len(plt.get_fignums()) == 1


def nothing(folder):
    shutil.rmtree(folder)


def a_file(folder):
    nothing(folder)
    folder.write_text("")


def empty(folder):
    nothing(folder)
    folder.mkdir()


def many(folder):
    kept = folder.rename(folder.with_name("kept"))
    folder.mkdir()
    kept.rename(folder / "inner")


def interrupted(folder):
    empty(folder)
    (folder / ".lock").touch()


def without_summary(folder):
    (folder / "summary.json").unlink()


def moving(folder):
    (folder / ".next").mkdir()
    shutil.copy(folder / "summary.json", folder / ".next")


def cut_summary(folder):
    path = folder / "summary.json"
    path.write_text(path.read_text()[:500])


def older(folder):
    rename_version(folder, schema_version=1)


def newer(folder):
    rename_version(folder, schema_version=3)


def of_other_fields(folder):
    rename_version(folder, cells=12)


def no_map(folder):
    (folder / MAP).unlink()


def cut_tiles(folder):
    path = folder / "tiles.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def changed_map(folder):
    path = folder / MAP
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    later = (folder / "summary.json").stat().st_mtime + 5
    os.utime(path, (later, later))


def two_gone(folder):
    no_map(folder)
    (folder / "legend.png").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (nothing, "block: there is no such folder. Name the folder"),
        (a_file, "block: this is a file. Name the folder"),
        (empty, "block: there is no result here. Score a slide"),
        (many, r"block: this holds the results of 1 slides. Open one .*inner, or all"),
        (interrupted, "block: this slide is not finished: .* run the same `wsi score` again"),
        (without_summary, "block: summary.json is gone.* Run the same"),
        (moving, "block: a run was killed while it moved a result.* Run the same"),
        (cut_summary, "summary.json: is damaged: it is no JSON. Run the same"),
        (older, "summary.json: is of version 1, which an older .* Run the same"),
        (newer, "summary.json: is of version 3, and .* reads version 2. Update"),
        (of_other_fields, "summary.json: .*another version of wsi-pipeline .cells: Extra inputs"),
        (no_map, "cellularity.ome.tiff: is gone. Run the same"),
        (cut_tiles, r"tiles.parquet: has [\d,]+ bytes and not [\d,]+. Run the same"),
        (changed_map, "cellularity.ome.tiff: its bytes have changed. Run the same"),
        (two_gone, "is gone.* And 1 more of its files: see `wsi verify`"),
    ],
)
def test_what_is_no_finished_result_is_named_with_a_remedy(own, harm, said):
    harm(own)
    with pytest.raises(ResultError, match=said) as caught:
        wsi.open_result(own)
    assert isinstance(caught.value, wsi.WsiError)
    assert str(caught.value).startswith(str(own))


def test_a_result_without_its_store_is_whole(own):
    shutil.rmtree(own / "tiles.zarr")
    assert wsi.open_result(own).map.shape == (4, 6)


@pytest.mark.parametrize(
    "use", [lambda r: r.map, lambda r: r.plot(), lambda r: r.tiles], ids=["map", "plot", "tiles"]
)
def test_files_of_another_run_are_not_shown_beside_these_figures(own, use):
    """As when the slide is scored again, with other settings, while a notebook has it open."""
    opened = wsi.open_result(own)
    for name in (MAP, "tiles.parquet"):
        raw = (own / name).read_bytes()
        (own / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        own_up_to(own, name)
    with pytest.raises(ResultError, match=r"another run has written it .*Open the result again"):
        use(opened)
    assert "another run has written it" in opened._repr_html_()


FINE_MAP = "cellularity-fine.ome.tiff"


@pytest.mark.parametrize("name", [FINE_MAP, "tiles.parquet", "thumbnail.png"])
def test_what_another_program_wrote_is_named(own, name):
    (own / name).write_bytes(b"something else")
    own_up_to(own, name)
    with pytest.raises(ResultError, match=rf"{name}: cannot be understood.*Run the same"):
        wsi.open_result(own).plot()


def test_the_fine_map_lies_on_the_coarse_one_and_agrees_with_it(finished):
    result = wsi.open_result(finished)
    fine = result.fine_map
    assert fine.attrs["cell_um"] <= result.map.attrs["cell_um"]
    assert float(fine.x[0] - fine.attrs["cell_um"] / 2) == 0
    assert float(abs(fine.mean() - result.map.mean())) < 0.1


def test_a_refused_slide_has_its_reason_and_no_map(refused):
    result = wsi.open_result(refused)
    assert result.summary.status == "refused"
    for use in (lambda: result.map, lambda: result.tiles, lambda: result.plot()):
        with pytest.raises(ResultError, match=f"refused.*{re.escape(result.summary.reason)}"):
            use()
    assert "refused" in repr(result)


def test_a_text_says_what_it_is(finished):
    mean = json.loads((finished / "summary.json").read_text())["cellularity"]["mean"]
    text = repr(wsi.open_result(finished)).replace("\xa0", " ")
    assert f"block.tif: mean cellularity {100 * mean:.1f} % over all tissue" in text


@pytest.mark.parametrize(("package", "use"), [("pandas", "tiles"), ("xarray", "map")])
def test_what_is_not_installed_is_named_with_its_extra(finished, monkeypatch, package, use):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}: `pip install wsi-pipeline\[notebook\]`"):
        getattr(wsi.open_result(finished), use)


def test_all_results_of_a_folder_are_opened_and_what_is_left_out_is_told(own, refused):
    out = own.parent
    shutil.copytree(refused, out / "a-refused")
    shutil.copytree(own, out / "damaged")
    no_map(out / "damaged")
    interrupted_one = out / "interrupted"
    interrupted_one.mkdir()
    (interrupted_one / ".lock").touch()
    (out / "nights").mkdir()
    with pytest.warns(UserWarning, match="Left out") as caught:
        found = wsi.open_results(out)
    assert [result.folder.name for result in found] == ["a-refused", "block"]
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "damaged/cellularity.ome.tiff: is gone" in told[0]
    assert "interrupted: this slide is not finished" in told[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [result.name for result in wsi.open_results(str(own))] == ["block.tif"]
    with pytest.raises(ConfigError, match="no results are here"):
        wsi.open_results(out / "nights")
