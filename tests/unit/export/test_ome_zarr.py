"""Read back by the models of NGFF, which another project keeps, and by plain zarr."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import Image

import wsi_pipeline as wsi
from wsi_pipeline.errors import OutputError, ResultError
from wsi_pipeline.export.ome_zarr import class_shares, write_ome_zarr
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.tile_table import read_parquet, write_parquet


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    return write_ome_zarr(folder, tmp_path_factory.mktemp("zarr") / "sample.ome.zarr")


def world_um(image: Image, level: int, index):
    """Where a pixel's middle lies, in µm, by the transforms alone."""
    scale, translation = (
        transform for transform in image.attributes.ome.multiscales[0].datasets[level]
        .coordinateTransformations
    )  # fmt: skip
    return np.array(index) * scale.scale + np.array(translation.translation)


@pytest.mark.parametrize("name", ["cellularity", "cellularity-fine", "classes", "overlay"])
def test_another_projects_models_accept_it(store, name):
    image = Image.from_zarr(zarr.open_group(store / name, mode="r"))
    multiscale = image.attributes.ome.multiscales[0]
    assert image.attributes.ome.version == "0.5"
    assert [axis.unit for axis in multiscale.axes if axis.type == "space"] == ["micrometer"] * 2


@pytest.mark.parametrize("name", ["cellularity", "cellularity-fine"])
def test_maps_are_those_of_the_tiffs(store, folder, name):
    expected = read_cellularity(folder / f"{name}.ome.tiff")
    group = zarr.open_group(store / name, mode="r")
    np.testing.assert_array_equal(group["0"][:], expected.cellularity)
    image = Image.from_zarr(group)
    x, y = expected.l0_origin
    middle = (np.array([y, x]) + expected.l0_cell * (np.array([3, 2]) + 0.5)) * expected.mpp
    np.testing.assert_allclose(world_um(image, 0, (3, 2)), middle)


def test_classes_are_the_tiles_own(store, folder):
    tiles = wsi.open_result(folder).tiles
    group = zarr.open_group(store / "classes", mode="r")
    labels = [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]]
    assert labels == ["background", "lymphocyte", "normal", "malignant"]
    shown = group["0"][:]
    for tile in tiles.itertuples():  # neighbours do not overlap: each cell is one tile
        expected = [getattr(tile, f"fraction_{name}") for name in labels]
        np.testing.assert_array_equal(shown[:, tile.map_row, tile.map_column], expected)
    assert np.isfinite(shown).all(axis=0).sum() == len(tiles)
    np.testing.assert_allclose(np.nansum(shown, axis=0)[np.isfinite(shown[0])], 1, atol=1e-6)


def test_a_model_without_classes_exports_none(folder):
    table, made = read_parquet(folder / "tiles.parquet")
    bare = replace(table, class_fraction=np.full((len(table), 0), np.nan, np.float32))
    made["scoring"]["classes"] = []
    path = folder / "bare.parquet"
    write_parquet(path, bare, classes=[], metadata=made)
    assert class_shares(path, read_cellularity(folder / "cellularity.ome.tiff")) == {}
    path.unlink()


@pytest.mark.parametrize("name", ["cellularity.ome.tiff", "tiles.parquet", "overlay.tif"])
def test_a_file_of_another_run_is_not_exported(folder, tmp_path, name):
    changed = shutil.copytree(folder, tmp_path / "changed")
    content = bytearray((changed / name).read_bytes())
    content[len(content) // 2] ^= 1
    (changed / name).write_bytes(content)
    with pytest.raises(ResultError, match=f"{name}: is gone, or not what it was"):
        write_ome_zarr(changed, tmp_path / "a.ome.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_the_overlay_is_that_of_the_tiff_at_every_level(store, folder):
    group = zarr.open_group(store / "overlay", mode="r")
    with tifffile.TiffFile(folder / "overlay.tif") as tiff:
        assert len(tiff.pages) == len(list(group.array_keys()))
        for number, page in enumerate(tiff.pages):
            np.testing.assert_array_equal(
                group[str(number)][:].transpose(1, 2, 0), page.asarray()[..., :3]
            )


def test_everything_lies_on_everything(store):
    """The lower right corner of each image's each level is the same place, within a pixel."""
    images = {
        name: Image.from_zarr(zarr.open_group(store / name, mode="r"))
        for name in ("cellularity", "cellularity-fine", "classes", "overlay")
    }
    upper = [world_um(image, 0, [0] * len(image.attributes.ome.multiscales[0].axes))
             for image in images.values()]  # fmt: skip
    halves = [
        image.attributes.ome.multiscales[0].datasets[0].coordinateTransformations[0].scale[-1] / 2
        for image in images.values()
    ]
    for corner, half in zip(upper, halves, strict=True):
        np.testing.assert_allclose(corner[-2:] - half, 0, atol=1e-6)
    image, group = images["overlay"], zarr.open_group(store / "overlay", mode="r")
    ends = [
        world_um(image, level, [0, *(np.array(group[str(level)].shape[1:]) - 0.5)])[-2:]
        for level in range(len(list(group.array_keys())))
    ]
    for level, end in enumerate(ends):
        np.testing.assert_allclose(end, ends[0], atol=0.5 * 2**level)


def test_nothing_is_written_over_and_nothing_half_left(store, folder, tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="is there already"):
        write_ome_zarr(folder, store)
    with pytest.raises(ResultError, match="no finished result"):
        write_ome_zarr(tmp_path, tmp_path / "a.zarr")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsi_pipeline.export.ome_zarr._write_overlay", full)
    with pytest.raises(OutputError, match="No space left"):
        write_ome_zarr(folder, tmp_path / "full.zarr")
    assert list(tmp_path.iterdir()) == []
