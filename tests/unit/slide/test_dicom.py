"""Whole slides in DICOM: their levels, what is not supported, and the folders that they come in."""

import re
import warnings
from itertools import count
from math import floor

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless
from typer.testing import CliRunner

from tests.helpers.dicom_slides import write_dicom_slide, write_level
from tests.helpers.multi_file import VMS, write, write_dicom
from tests.unit.slide.test_pyramid import offset, ramps, reduced
from wsi_pipeline.cli import app
from wsi_pipeline.errors import ConfigError, MppError, SlideError
from wsi_pipeline.geometry import Size
from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.inbox import find_slides
from wsi_pipeline.scoring.slide_arguments import all_slides, one_slide, own_folders, slides_in
from wsi_pipeline.slide.files import files_of
from wsi_pipeline.slide.slide import Slide

SIZE = Size(750, 450)
UIDS = map("1.2.826.0.1.3680043.10.{}".format, count(1))


@pytest.mark.parametrize("fill", [None, "black", "edge"])
def test_levels_filled_up_to_whole_frames_lie_where_their_spacing_says(tmp_path, fill):
    rgb = ramps(SIZE)
    below = {whole: reduced(rgb, whole, floor, fill) for whole in (2, 4)}
    paths = write_dicom_slide(tmp_path, rgb, below, label=rgb[:100, :200])
    for path in paths:  # any file of the series opens it, its label's too
        with Slide.open(path) as slide:
            assert (slide.vendor, slide.mpp, slide.l0_size) == ("dicom", pytest.approx(0.5), SIZE)
            assert [level.downsample for level in slide.levels] == [1, 2, 4]
            for level in slide.levels[1:]:
                assert offset(slide, level, SIZE, rgb) < 1


def power(dataset, text="20"):
    optics = Dataset()
    optics.add_new(0x0048_0112, "DS", text)
    dataset.OpticalPathSequence = [optics]
    del dataset.SharedFunctionalGroupsSequence


def stretched(dataset):
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = ["0.0005", "0.00025"]


def in_jpeg_ls(dataset):
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    frames = [bytes(10)] * int(dataset.NumberOfFrames)
    dataset.PixelData = pydicom.encaps.encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True


def grey(dataset):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 3]


def label(dataset):
    dataset.ImageType[2] = "LABEL"


def colours_apart(dataset):
    dataset.PlanarConfiguration = 1


def with_a_palette(dataset):
    dataset.PhotometricInterpretation = "PALETTE COLOR"


def sparse_anywhere(dataset):
    dataset.DimensionOrganizationType = "TILED_SPARSE"


def first_of_two(dataset):
    dataset.ConcatenationUID = "1.2.9"
    dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = 1, 2
    dataset.ConcatenationFrameOffsetNumber = 0


def compressed_whole(dataset):
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def of_a_knee(dataset):
    dataset.Modality = "CT"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("options", "edit", "expected"),
    [
        ({"spacing_mm": "5e-4"}, None, (0.5, "reader")),
        ({"spacing_mm": "0,0005"}, None, (0.5, "reader")),
        ({}, power, (0.5, "objective power")),
        ({"spacing_mm": "half"}, None, "'half.*mm'.*not understood"),
        ({}, stretched, "not square"),
        ({"focal_planes": 2}, None, "several focal planes.*Export one"),
        ({}, in_jpeg_ls, "compressed in a way that is not supported.*JPEG 2000"),
        ({}, grey, "not RGB. Export it as RGB"),
        ({}, colours_apart, "stored in a plane of its own. Export it as RGB"),
        ({}, with_a_palette, "not RGB. Export it as RGB"),
        ({}, sparse_anywhere, "not say where each lies. Export it anew"),  # killed its process
        ({}, first_of_two, "split over several files.*Copy all files"),
        ({}, compressed_whole, "DICOM with a header that is compressed"),
        ({}, label, "no level of a slide.*Copy all files"),
        ({}, of_a_knee, "no slide, but DICOM of modality CT"),
    ],
)
def test_what_a_file_states_and_what_is_not_supported(tmp_path, options, edit, expected):
    shared = {"series": next(UIDS), "frame_of_reference": next(UIDS), "spacing_mm": 0.0005}
    path = write_level(tmp_path / "1.dcm", ramps(Size(300, 200)), **{**shared, **options})
    if edit is not None:
        dataset = pydicom.dcmread(path)
        edit(dataset)
        dataset.save_as(path)
    if isinstance(expected, str):
        with pytest.raises((SlideError, MppError), match=expected) as error:
            Slide.open(path)
        assert not re.search("damaged[^,]*(copy|scan)", str(error.value))
    else:
        with Slide.open(path) as slide:
            assert (slide.mpp, slide.mpp_source) == (pytest.approx(expected[0]), expected[1])


def test_the_terminal_hears_nothing_of_odd_headers(tmp_path, recwarn, capfd):
    uid = "1.2.3." + "4" * 70
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_level(
            tmp_path / "1.dcm", ramps(Size(300, 200)),
            spacing_mm="0,0005", series=uid, frame_of_reference=next(UIDS),
        )  # fmt: skip
    assert files_of(str(path)) == [str(path)]
    Slide.open(path).close()
    assert (list(recwarn), capfd.readouterr().err) == ([], "")


def test_a_level_of_another_section_is_left_out(tmp_path, section):
    other = np.ascontiguousarray(section.rgb[::-1])
    paths = write_dicom_slide(tmp_path, section.rgb, {2: reduced(other, 2, floor, None)})
    with Slide.open(paths[0]) as slide:
        assert [level.downsample for level in slide.levels] == [1]


def test_two_pictures_of_one_size_are_told_from_damage(tmp_path):
    shared = {"series": next(UIDS), "frame_of_reference": next(UIDS), "spacing_mm": 0.0005}
    for number in (1, 2):
        write_level(tmp_path / f"{number}.dcm", ramps(Size(300, 200)), instance=number, **shared)
    with pytest.raises(SlideError, match=r"several pictures of one size.*Export one"):
        Slide.open(tmp_path / "1.dcm")


def test_a_folder_stands_for_the_slides_in_it(tmp_path):
    series = [
        write_dicom(tmp_path / "case" / "b" / f"{n}.dcm", "1.2.3", instance=n) for n in (1, 2)
    ]
    write_dicom(tmp_path / "case" / "b" / "notes.dcm", "1.2.4", modality="ANN")
    other = write_dicom(tmp_path / "case" / "c" / "deep" / "1.dcm", "1.2.5")
    mrxs = write(tmp_path / "case" / "m.mrxs")
    write(tmp_path / "case" / "m" / "Data0001.dat")
    vms = write(tmp_path / "case" / "s.vms", VMS.replace("s_map2.jpg", "s_map2.tif").encode())
    write(tmp_path / "case" / "s_map2.tif")
    write(tmp_path / "case" / "scored" / "m" / "cellularity.ome.tiff")
    write_dicom(tmp_path / "case" / "scored" / "m" / "tiles.zarr" / "0", "1.2.6")
    write(tmp_path / "case" / ".hidden.svs")
    slide = write(tmp_path / "case" / "a.svs")
    folder = tmp_path / "case"
    expected = [str(path) for path in (slide, series[0], other, mrxs, vms)]
    assert slides_in(folder) == sorted(expected)
    assert one_slide(str(folder / "b")) == str(series[0])
    assert one_slide("s3://bucket/folder") == "s3://bucket/folder"
    with pytest.raises(ConfigError, match=r"holds 5 slides \(.*, …\). Name one"):
        one_slide(str(folder))
    for empty in ("m", "scored"):  # the data of a slide; results
        with pytest.raises(ConfigError, match="no slides in this folder"):
            one_slide(str(folder / empty))
    # However the files of a series are named, they are one slide.
    assert all_slides([str(path) for path in series]) == [str(series[0])]
    assert all_slides([str(folder / "b"), str(series[1]), str(slide)]) == expected[1::-1]
    found = own_folders(all_slides([str(folder)]))
    assert sorted(found.values()) == ["a", "b-1", "deep-1", "m", "s"]
    assert list(own_folders([str(series[0])]).values()) == ["1"]  # as in an inbox
    write(tmp_path / "other" / "a.tif")
    with pytest.raises(ConfigError, match="would share the output folder a"):
        own_folders([str(slide), str(tmp_path / "other" / "a.tif")])


@pytest.mark.parametrize("names", ["IM{:04}", "1.2.840.{}"])
def test_archives_export_without_a_suffix(tmp_path, names):
    rgb = ramps(SIZE)
    write(tmp_path / "README", b"no slide")
    below = {2: reduced(rgb, 2, floor, None)}
    paths = write_dicom_slide(tmp_path, rgb, below, suffix="", names=names)
    assert one_slide(str(tmp_path)) == str(paths[0])
    assert files_of(str(paths[1])) == [str(path) for path in paths]
    (found,) = find_slides(str(tmp_path), InboxConfig(quiet_s=0, look_again_s=0)).slides
    assert (found.location, list(found.files)) == (str(paths[0]), [str(path) for path in paths])
    with Slide.open(paths[1]) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2]


def test_every_command_takes_the_folder_of_a_dicom_slide(
    tmp_path, section, tiny_bundle, tiny_config
):
    folder = tmp_path / "case 1"
    rgb = section.rgb[256:768, 256:768]
    half = rgb.reshape(256, 2, 256, 2, 3).mean((1, 3)).astype(np.uint8)
    write_dicom_slide(folder, rgb, {2: half})
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config.model_dump_json())
    out = tmp_path / "out"
    for command in (
        ["inspect", folder, "--bundle", tiny_bundle],
        ["tile", folder, "--out", tmp_path / "tiles"],
        ["score", folder, "--out", out, "--bundle", tiny_bundle],
        ["heatmap", out / "1", "--slide", folder],
    ):
        result = CliRunner().invoke(app, [*map(str, command), "--config", str(config)])
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert re.search("1.dcm", (out / "1" / "summary.json").read_text())
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["1"]
