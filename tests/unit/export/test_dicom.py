"""Results as DICOM: what a validator, an archive and other readers make of them."""

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from pydicom import Dataset, dcmread
from typer.testing import CliRunner

from tests.helpers.dicom_slides import write_dicom_slide
from tests.helpers.made import config_of_tiny, write_slide
from tests.helpers.orthanc import archive, free_port, needs_orthanc
from wsi_pipeline.bed.outline import Bed, write_bed
from wsi_pipeline.cli.app import app
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import ConfigError, OutputError, ResultError
from wsi_pipeline.export.dicom import write_dicom
from wsi_pipeline.export.dicom_web import send
from wsi_pipeline.geometry import Size
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity, write_cellularity
from wsi_pipeline.outputs.colours import colours
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.folder import read_summary
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.scoring.slide_arguments import one_slide
from wsi_pipeline.slide.slide import Slide

pytest.importorskip("highdicom")

BED = shapely.MultiPolygon(
    [
        shapely.box(50, 40, 400, 300) - shapely.box(100, 100, 200, 200),
        shapely.Polygon([(420, 330), (560, 330), (560, 520)]),
    ]
)
ORIGIN_MM, ORIENTATION = (12.5, 40.25), [0, -1, 0, -1, 0, 0]
NAME = "Doe^Jane"


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    return build_engine(ModelBundle.load(tiny_bundle), config)


@pytest.fixture(scope="module")
def results(engine, section, tmp_path_factory):
    """The folder of a TIFF's result, and that of a DICOM slide's with the slide."""
    base, config = tmp_path_factory.mktemp("dicom"), config_of_tiny()
    rgb = section.rgb[:576, :576]
    plain = write_slide(base / "block A1.tif", rgb, downsamples=(4,))
    score_slide(plain, base / "out", engine, config)
    series = base / "series"
    write_dicom_slide(series, rgb, {4: rgb[::4, ::4]})
    for path in series.iterdir():
        of_patient(path)
    slide = one_slide(str(series))
    score_slide(file_slide(slide, "file", "series"), base / "out", engine, config)
    score_slide(slide, base / "hidden", engine, config.model_copy(update={"names": "digest"}))
    write_bed(base / "bed.geojson", Bed(BED, "drawn"), slide="bed", l0_size=Size(576, 576))
    file = file_slide(slide, "file", "bed")
    score_slide(file, base / "out", engine, config, bed=base / "bed.geojson")
    (hidden,) = (base / "hidden").glob("slide-*")
    return {
        "tiff": (base / "out" / "block A1", None),
        "dicom": (base / "out" / "series", slide),
        "hidden": (hidden, None),
        "bed": (base / "out" / "bed", slide),
    }


def of_patient(path):
    """Say of a level whose it is and where it lies on the glass, as scanners do."""
    level = dcmread(path)
    level.PatientName, level.PatientID, level.PatientSex = NAME, "P-4711", "F"
    level.PatientBirthDate, level.AccessionNumber, level.StudyID = "19700101", "ACC-1", "7"
    level.StudyInstanceUID = "1.2.3.4.5"
    level.StudyDate, level.StudyTime = "20260102", "030405"
    level.ReferringPhysicianName = ""
    level.ImageOrientationSlide = ORIENTATION
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = ORIGIN_MM
    level.TotalPixelMatrixOriginSequence = [origin]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S26-1 A1", "1.2.3.4.6"
    specimen.SpecimenPreparationSequence = []
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    level.ImagedVolumeWidth, level.ImagedVolumeHeight = 0.288, 0.288
    level.ImagedVolumeDepth = 0.001
    level.ContainerIdentifier = "S26-1 A1 1"
    level.IssuerOfTheContainerIdentifierSequence = []
    container = Dataset()
    container.CodeValue, container.CodingSchemeDesignator = "433466003", "SCT"
    container.CodeMeaning = "Microscope slide"
    level.ContainerTypeCodeSequence = [container]
    level.SpecimenDescriptionSequence = [specimen]
    level.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def exported(results):
    return {kind: write_dicom(*where) for kind, where in results.items()}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="Debian's dicom3tools is missing")
@pytest.mark.parametrize("kind", ["tiff", "dicom", "hidden", "bed"])
def test_a_validator_finds_no_error(exported, kind):
    for path in exported[kind]:
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        errors = [line for line in said.stderr.splitlines() if line.startswith("Error")]
        assert not errors, path.name
        assert said.returncode == 0


def pixels_of(path):
    """Put the frames of a map together by what the file says of each."""
    found = dcmread(path)
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    rows, columns = found.TotalPixelMatrixRows, found.TotalPixelMatrixColumns
    whole = np.full((rows, columns), np.inf, np.float32)
    for frame, groups in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        place = groups.PlanePositionSlideSequence[0]
        top = place.RowPositionInTotalImagePixelMatrix - 1
        left = place.ColumnPositionInTotalImagePixelMatrix - 1
        part = whole[top : top + found.Rows, left : left + found.Columns]
        part[:] = frame[: part.shape[0], : part.shape[1]]
    return found, whole


@pytest.mark.parametrize("kind", ["tiff", "dicom", "hidden"])
def test_its_pixels_are_the_map_in_per_cent(exported, results, kind):
    found, whole = pixels_of(exported[kind][0])
    scores = read_cellularity(results[kind][0] / "cellularity-fine.ome.tiff").cellularity
    there = np.isfinite(scores)
    assert there.any()
    assert not there.all()
    np.testing.assert_array_equal(whole[there], 100 * scores[there])
    assert (whole[~there] == found.FloatPixelPaddingValue).all()
    mapping = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)


def test_each_cell_lies_where_it_lies_on_the_glass(exported, results):
    """By the slide's own numbers: the middle of its first pixel, its axes and its pixel size."""
    found, _ = pixels_of(exported["dicom"][0])
    scores = read_cellularity(results["dicom"][0] / "cellularity-fine.ome.tiff")
    shared = found.SharedFunctionalGroupsSequence[0]
    spacing = float(shared.PixelMeasuresSequence[0].PixelSpacing[0])
    assert spacing == pytest.approx(scores.cell_um / 1000)
    for groups in found.PerFrameFunctionalGroupsSequence:
        place = groups.PlanePositionSlideSequence[0]
        column = place.ColumnPositionInTotalImagePixelMatrix - 1
        row = place.RowPositionInTotalImagePixelMatrix - 1
        x_px = scores.l0_origin[0] + (column + 0.5) * scores.l0_cell - 0.5
        y_px = scores.l0_origin[1] + (row + 0.5) * scores.l0_cell - 0.5
        # Rows of the slide run down the glass's -y, columns down its -x.
        assert place.XOffsetInSlideCoordinateSystem == pytest.approx(ORIGIN_MM[0] - y_px * 0.0005)
        assert place.YOffsetInSlideCoordinateSystem == pytest.approx(ORIGIN_MM[1] - x_px * 0.0005)


def test_another_reader_finds_the_map_over_the_slide(exported, results):
    wsidicom = pytest.importorskip("wsidicom")
    with (
        wsidicom.WsiDicom.open(results["dicom"][1]) as slide,
        Slide.open(results["dicom"][1]) as own,
    ):
        level = slide.pyramids[0].base_level
        found = dcmread(exported["dicom"][0])
        spacing = float(
            found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]
        )
        wide_mm = found.TotalPixelMatrixColumns * spacing
        assert wide_mm == pytest.approx(level.mpp.width * level.size.width / 1000, abs=spacing)
        assert own.mpp == pytest.approx(level.mpp.width)


def test_the_report_tells_the_figures_in_codes(exported, results):
    summary = read_summary(results["dicom"][0])
    report = dcmread(exported["dicom"][2])
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    groups = report.ContentSequence[-1].ContentSequence
    said = [
        {
            item.ConceptNameCodeSequence[0].CodeValue: float(
                item.MeasuredValueSequence[0].NumericValue
            )
            for item in group.ContentSequence
            if item.ValueType == "NUM"
        }
        for group in groups
    ]
    assert said[0]["cellularity"] == pytest.approx(100 * summary.cellularity.mean, abs=1e-4)
    assert said[0]["42798000"] == summary.tissue_area_mm2
    if summary.bed is not None:
        assert said[1]["cellularity"] == pytest.approx(100 * summary.bed.cellularity, abs=1e-4)
    texts = [element.value for element in report.iterall() if element.keyword == "TextValue"]
    assert any(summary.provenance.bundle.digest in text for text in texts)
    assert any("research use only" in text for text in texts)


def test_the_bed_lies_in_the_report_where_it_lies_on_the_glass(exported):
    report = dcmread(exported["bed"][2])
    outlines = {}
    for group in report.ContentSequence[-1].ContentSequence:
        named = {
            item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group.ContentSequence
        }
        regions = [item for item in group.ContentSequence if item.ValueType == "SCOORD3D"]
        if regions:
            (region,) = regions
            points = np.reshape(region.GraphicData, (-1, 3))
            assert (points[0] == points[-1]).all()
            # The slide's axes are turned: its x runs down the glass's y, its y down the x.
            l0 = (np.array(ORIGIN_MM)[::-1] - points[:, 1::-1]) / 0.0005 + 0.5
            area = float(named["Area"].MeasuredValueSequence[0].NumericValue)
            outlines[named["Tracking Identifier"].TextValue] = shapely.Polygon(l0), area
    assert set(outlines) == {"bed, part 1", "bed, part 1, hole 1", "bed, part 2"}
    hole = outlines["bed, part 1, hole 1"][0]
    found = outlines["bed, part 1"][0] - hole
    expected = sorted(BED.geoms, key=lambda part: part.bounds[0])
    for part, whole in zip((found, outlines["bed, part 2"][0]), expected, strict=True):
        assert part.symmetric_difference(whole).area < 5  # its floats hold a hundredth of a pixel
    for polygon, area in outlines.values():
        assert area == pytest.approx(polygon.area * 0.0005**2, rel=1e-3)


def test_the_report_tells_the_burden_of_the_slides_case(results, tmp_path):
    folder, slide = results["bed"]
    entries = {
        "case": "Jane's", "slides": [str(folder)], "tumour_bed_mm": [24, 18],
        "cellularity_percent": 10, "in_situ_percent": 5, "positive_nodes": 3,
        "largest_metastasis_mm": 4,
    }  # fmt: skip

    def case(name, **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(entries | changes))
        CliRunner().invoke(app, ["case", str(path), "--out", str(tmp_path / name)])
        return tmp_path / name

    known = case("known")
    copy = shutil.copytree(folder, tmp_path / "copy")
    command = ["export", str(copy), "--dicom", "--slide", slide, "--case"]
    done = CliRunner().invoke(app, [*command, str(known)])
    assert done.exit_code == 0, done.output
    report = dcmread(copy / "dicom" / "report.dcm")
    group = report.ContentSequence[-1].ContentSequence[-1]
    said = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
    index = float(said["rcb-index"].MeasuredValueSequence[0].NumericValue)
    assert index == pytest.approx(3.0313, abs=1e-4)  # the calculator's worked example
    assert said["rcb-class"].ConceptCodeSequence[0].CodeMeaning == "RCB-II"
    assert b"Jane's" not in (copy / "dicom" / "report.dcm").read_bytes()
    if shutil.which("dciodvfy"):
        path = copy / "dicom" / "report.dcm"
        told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in told.stderr
    without = dcmread(write_dicom(copy, slide)[2])
    assert without.SOPInstanceUID != report.SOPInstanceUID

    for other, problem in (
        (case("nodes", positive_nodes=None), "no class yet"),
        (case("another", slides=[str(results["tiff"][0])]), "is no slide of the case"),
        (tmp_path / "nowhere", "cannot be read"),
    ):
        refused = CliRunner().invoke(app, [*command, str(other)])
        assert problem in str(refused.exception), other.name
    content = json.loads((known / "case.json").read_text())
    content["blocks"][0]["bed"]["area_mm2"] += 1
    (known / "case.json").write_text(json.dumps(content))
    refused = CliRunner().invoke(app, [*command, str(known)])
    assert "measured anew" in str(refused.exception)


def test_a_dicom_slide_gives_its_patient_and_study(exported, results):
    for path in exported["dicom"]:
        found = dcmread(path)
        assert (found.PatientName, found.PatientID) == (NAME, "P-4711")
        assert (found.StudyInstanceUID, found.AccessionNumber) == ("1.2.3.4.5", "ACC-1")
    scores_map = dcmread(exported["dicom"][0])
    assert scores_map.ContainerIdentifier == "S26-1 A1 1"
    levels = [dcmread(path) for path in _files(results["dicom"][1])]
    assert scores_map.FrameOfReferenceUID == levels[0].FrameOfReferenceUID
    (reference,) = scores_map.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == levels[0].SeriesInstanceUID
    (image,) = reference.ReferencedInstanceSequence
    assert image.ReferencedSOPInstanceUID in {level.SOPInstanceUID for level in levels}


def _files(slide):
    return sorted(Path(slide).parent.iterdir())


def test_nothing_is_invented_of_another_slide(exported):
    for path in exported["tiff"]:
        found = dcmread(path)
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
            assert not found.get(name), name
    scores_map = dcmread(exported["tiff"][0])
    assert "SpecimenDescriptionSequence" not in scores_map
    assert "ReferencedSeriesSequence" not in scores_map


def test_under_a_pseudonym_nothing_of_the_patient_leaves(exported, results):
    for path in exported["hidden"]:
        content = path.read_bytes()
        for word in (b"Doe", b"P-4711", b"ACC-1", b"S26-1", b"1.2.3.4", b"series", b"19700101"):
            assert word not in content, (path.name, word)
    assert results["hidden"][0].name.encode() in exported["hidden"][0].read_bytes()


def test_the_same_result_gives_the_same_bytes(exported, results, tmp_path):
    before = [path.read_bytes() for path in exported["dicom"]]
    time.sleep(1.1)  # DICOM counts seconds
    copy = tmp_path / "copy"
    shutil.copytree(results["dicom"][0], copy, copy_function=shutil.copyfile)
    assert before == [path.read_bytes() for path in write_dicom(copy, results["dicom"][1])]


def test_a_map_that_was_changed_since_is_refused(results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results["tiff"][0], copy)
    scores = read_cellularity(copy / "cellularity-fine.ome.tiff")
    write_cellularity(
        copy / "cellularity-fine.ome.tiff", replace(scores, cellularity=scores.cellularity / 2)
    )
    with pytest.raises(
        ResultError, match=r"cellularity-fine.ome.tiff: is gone, or not what it was"
    ):
        write_dicom(copy)


def test_a_configuration_that_hides_names_hides_them_here_too(results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results["dicom"][0], copy)
    for path in write_dicom(copy, names="digest"):
        content = path.read_bytes()
        assert not any(word in content for word in (b"Doe", b"P-4711", b"1.dcm", b"1.2.3.4"))


def test_names_keep_their_letters_and_colours_are_the_results_own(
    engine, section, tmp_path, make_slide
):
    config = config_of_tiny()
    config = config.model_copy(
        update={"overlay": config.overlay.model_copy(update={"palette": "plasma"})}
    )
    slide = make_slide(section.rgb[:320, :320], name="Größe µ 李.tif")
    score_slide(slide, tmp_path / "out", engine, config)
    paths = write_dicom(tmp_path / "out" / "Größe µ 李")
    assert dcmread(paths[0]).SeriesDescription == "Cellularity of Größe µ 李.tif"
    state = dcmread(paths[1])
    red = np.frombuffer(state.RedPaletteColorLookupTableData, np.uint16) // 257
    np.testing.assert_array_equal(red, colours("plasma")[:, 0])


def test_a_dicom_slide_has_to_be_named_and_be_the_one(results, make_slide, section, tmp_path):
    with pytest.raises(ConfigError, match=r"the slide is DICOM.*--slide"):
        write_dicom(results["dicom"][0])
    other = tmp_path / "other"
    write_dicom_slide(other, section.rgb[::-1].copy(), {})
    with pytest.raises(ConfigError, match="not the slide that was scored"):
        write_dicom(results["dicom"][0], one_slide(str(other)))
    with pytest.raises(ResultError, match="wsi score"):
        write_dicom(tmp_path)


@needs_orthanc
def test_an_archive_holds_each_file_once_after_three_sendings_and_a_kill(
    exported, results, tmp_path
):
    folder, slide = results["dicom"]
    with archive(tmp_path / "archive") as there:
        command = ["export", str(folder), "--dicom", "--slide", slide, "--to", there.web]
        process = subprocess.Popen([Path(sys.executable).parent / "wsi", *command])
        while process.poll() is None and not there.get("/instances"):
            time.sleep(0.01)
        process.kill()  # with the first file there, or the second on its way
        process.wait()
        for _ in range(2):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
        assert "0 of 3 sent" in done.output
        assert len(there.get("/patients")) == len(there.get("/studies")) == 1
        assert len(there.get("/series")) == len(there.get("/instances")) == 3
        back = {}
        for instance in there.get("/instances"):
            path = tmp_path / f"{instance}.dcm"
            path.write_bytes(there.file(instance))
            back[dcmread(path).SOPClassUID] = path
    for path in exported["dicom"]:
        sent = dcmread(path)
        assert dcmread(back[sent.SOPClassUID]) == sent
    np.testing.assert_array_equal(
        pixels_of(back[dcmread(exported["dicom"][0]).SOPClassUID])[1],
        pixels_of(exported["dicom"][0])[1],
    )


@needs_orthanc
def test_an_archive_that_starts_late_is_waited_for(exported, tmp_path):
    port, sent = free_port(), []
    sender = threading.Thread(
        target=lambda: sent.append(send(exported["tiff"], f"http://127.0.0.1:{port}/dicom-web"))
    )
    sender.start()
    time.sleep(0.5)
    with archive(tmp_path / "archive", port) as there:
        sender.join(60)
        assert sent == [3]
        assert len(there.get("/instances")) == 3


def test_an_archive_that_is_not_there_is_named(exported, monkeypatch):
    monkeypatch.setattr("wsi_pipeline.export.dicom_web.FIRST_WAIT_S", 0.01)
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    with pytest.raises(OutputError, match=rf"{url}: the archive did not take the result"):
        send(exported["tiff"], url)
    with pytest.raises(ConfigError, match="no DICOMweb address"):
        send(exported["tiff"], "ftp://archive")


def test_an_address_alone_sends_nothing(results):
    done = CliRunner().invoke(app, ["export", str(results["tiff"][0]), "--to", "https://pacs"])
    assert done.exit_code != 0
    assert isinstance(done.exception, ConfigError | SystemExit)
