"""What a slide file says of its patient, and what the environment knows, get into no output.

A slide's label and macro pictures show names and numbers, and its header holds more of them. A
slide that has them must give the very outputs of one that has not.
"""

import ast
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import wsi_pipeline
from flows.report import markdown, picture_uri
from tests.helpers.object_store import serve_objects
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import WsiError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.night.outcome import of_summary
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.night.report_folder import write_report
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.grid import GridConfig

GREEN = (0, 255, 0)
"""Of the labels; neither tissue nor any colour map comes near it."""

MARKERS = {
    "User": "Dr-Marker-Usher",
    "ScanScope ID": "SCANNER-SERIAL-4711",
    "Date": "12/29/1909",
    "Time": "23:59:58",
    "Filename": "Mustermann-Erika-1964",
    "Title": "MUSTERMANN^ERIKA",
    "Barcode": "H26-0012345",
    "Patient": "DOB 12.08.1964",
}
SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCY"


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    return build_engine(ModelBundle.load(tiny_bundle), config)


@pytest.fixture(scope="module")
def config(engine):
    grid = GridConfig(tile_px=64, stride_px=64)
    return ScoreConfig(grid=grid, engine=engine.config, keep_tiles=True, workers=2)


def label(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREEN, np.uint8)


def write_aperio(path: Path, rgb: np.ndarray, *, with_patient: bool) -> Path:
    """Write a slide as Aperio's scanners do: level 0, thumbnail, level 1, label and macro."""
    height, width = rgb.shape[:2]
    said = "|".join(f"{key} = {value}" for key, value in MARKERS.items()) if with_patient else "x"
    head = f"Aperio Image Library v11.2.1 \r\n{width}x{height}|AppMag = 20|MPP = 0.5|{said}"
    tiled = {"tile": (256, 256), "compression": "deflate"}
    stripped = {"rowsperstrip": 16, "compression": "deflate"}
    with tifffile.TiffWriter(path) as tiff:

        def page(pixels: np.ndarray, description: str, subfiletype: int, **how: object) -> None:
            tiff.write(
                np.ascontiguousarray(pixels), photometric="rgb", metadata=None,
                description=description, subfiletype=subfiletype, **how,
            )  # fmt: skip

        page(rgb, head, 0, **tiled)
        page(rgb[::4, ::4], f"{head} -> thumbnail", 0, **stripped)
        page(rgb[::4, ::4], f"{head} -> {width // 4}x{height // 4}", 0, **tiled)
        if with_patient:
            for name, size, kind in (("label", (463, 387), 1), ("macro", (431, 1280), 9)):
                text = f"Aperio Image Library v11.2.1 \r\n{name} {size[1]}x{size[0]}"
                page(label(*size), text, kind, **stripped)
    return path


@pytest.fixture(scope="module")
def scored(engine, config, section, tmp_path_factory):
    """Folders of outputs of one slide with and one without its patient, and what was logged."""
    root = tmp_path_factory.mktemp("privacy")
    folders, summaries, logged = {}, {}, []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: logged.append(handler.format(record))
    logging.getLogger().addHandler(handler)
    try:
        for kind in ("with", "without"):
            (root / kind).mkdir()
            path = write_aperio(root / kind / "slide.svs", section.rgb, with_patient=kind == "with")
            summaries[kind] = score_slide(path, root / kind / "out", engine, config)
            folders[kind] = root / kind / "out" / "slide"
    finally:
        logging.getLogger().removeHandler(handler)
    with Slide.open(root / "with" / "slide.svs") as slide:
        assert slide.vendor == "aperio"
    with tifffile.TiffFile(root / "with" / "slide.svs") as tiff:
        assert {"label", "macro"} <= {
            page.description.split("\n")[1].split()[0] for page in tiff.pages[3:]
        }
    return folders, summaries, "\n".join(logged)


def pictures_of(folder: Path) -> dict[str, np.ndarray]:
    """Every picture in every output, decoded: all pages of TIFFs, and the store's pixels."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".tif", ".tiff"}:
            with tifffile.TiffFile(path) as tiff:
                for index, series in enumerate(tiff.series):
                    for level, pages in enumerate(series.levels):
                        found[f"{path.name} {index} {level}"] = np.asarray(pages.asarray())
                assert sum(len(s.levels) for s in tiff.series) >= 1
        elif path.suffix in {".png", ".jpg"}:
            with Image.open(path) as picture:
                assert set(picture.info) <= {"dpi", "gamma", "srgb", "icc_profile"}, path.name
                found[path.name] = np.asarray(picture.convert("RGB"))
    found["store"] = zarr.open_group(folder / "tiles.zarr", mode="r")["rgb"][:]
    return found


def green_pixels(pixels: np.ndarray) -> int:
    if pixels.ndim < 3 or pixels.shape[-1] < 3 or pixels.dtype != np.uint8:
        return 0
    distance = np.abs(pixels[..., :3].astype(np.int16) - GREEN).max(axis=-1)
    return int((distance < 60).sum())


def assert_says_nothing(folder: Path, *words: str, but_for: str = "") -> None:
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.name == but_for:
            continue
        for word in words:
            assert word.encode() not in content, f"{path.name} says {word}"
            assert word.encode("utf-16-le") not in content, f"{path.name} says {word}"
            assert word not in path.name


def test_the_label_and_the_macro_are_in_no_picture(scored):
    folders, _, _ = scored
    pictures, others = pictures_of(folders["with"]), pictures_of(folders["without"])
    assert len(pictures) >= 8
    assert pictures.keys() == others.keys()
    for name, pixels in pictures.items():
        np.testing.assert_array_equal(pixels, others[name], err_msg=name)
        assert green_pixels(pixels) == 0, name
    assert green_pixels(label(9, 9)) == 81


def test_what_the_header_says_of_the_patient_is_in_no_output(scored):
    folders, _, logged = scored
    folder = folders["with"]
    assert_says_nothing(folder, *MARKERS.values())
    # The report's scripts know many words, and among them names of fields.
    assert_says_nothing(folder, *MARKERS, but_for="report.html")
    for word in MARKERS.values():
        assert word not in logged
    # But for its digest and size, not even that there is a label changes anything.
    digest_or_size = {
        "report.html", "summary.json", "tiles.parquet", "run.log", ".lock", "tiles.zarr/zarr.json",
    }  # fmt: skip
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in digest_or_size:
            assert path.read_bytes() == (folders["without"] / name).read_bytes(), name


def test_pages_and_reports_do_not_show_them_either(scored, tmp_path):
    folders, summaries, _ = scored
    folder = folders["with"]
    page = markdown(summaries["with"], folder) + picture_uri(folder / "overlay.png")
    out = folder.parent
    outcome = of_summary(
        SlideFile("slide.svs", ("slide.svs",), "slide", "slide.svs"), summaries["with"]
    )
    ended = datetime(2026, 1, 2, tzinfo=UTC)
    night = write_report(out, NightReport(ended - timedelta(hours=1), ended, "inbox", [outcome]))
    page += "".join(
        path.read_text()
        for path in (night if night.is_dir() else night.parent).rglob("*")
        if path.suffix in {".html", ".csv"}
    )
    assert "slide.svs" in page
    for word in MARKERS.values():
        assert word not in page


def test_a_pseudonym_hides_the_name_of_the_file(engine, config, section, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    name = "MUSTERMANN-ERIKA-H26"
    path = write_aperio(tmp_path / f"{name}.svs", section.rgb[256:768, 256:768], with_patient=False)
    hidden = config.model_copy(update={"names": "digest"})
    score_slide(path, tmp_path / "out", engine, hidden)
    damaged = tmp_path / f"{name}-damaged.svs"
    damaged.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(WsiError) as caught:
        score_slide(damaged, tmp_path / "out", engine, hidden)
    folders = sorted(folder.name for folder in (tmp_path / "out").iterdir())
    assert all(folder.startswith("slide-") for folder in folders)
    assert_says_nothing(tmp_path / "out", name)
    assert name not in caplog.text
    assert name not in str(caught.value)


@pytest.mark.slides
def test_the_label_of_a_real_slide_stays_in_it(slides_dir, engine, config, tmp_path):
    path = slides_dir / "cmu-1-small-region.svs"
    coarse = config.model_copy(update={"grid": GridConfig(tile_px=64, stride_px=512)})
    score_slide(path, tmp_path, engine, coarse)
    folder = tmp_path / "cmu-1-small-region"
    assert_says_nothing(folder, "CPAPERIOCS", "b414003d", "12/29/09", "09:59:15", "ScanScope")
    with tifffile.TiffFile(path) as tiff:
        slide = tiff.pages[0].asarray()
    with Image.open(folder / "thumbnail.png") as thumbnail:
        shown = np.asarray(thumbnail.convert("RGB"), np.float64)
        expected = Image.fromarray(slide).resize(thumbnail.size, Image.Resampling.BOX)
    assert np.corrcoef(shown.ravel(), np.asarray(expected, np.float64).ravel())[0, 1] > 0.98


def test_nothing_reads_associated_pictures_or_other_properties():
    """The properties that are read are named one by one; none is of a person, place or time."""
    package = Path(wsi_pipeline.__file__).parent
    allowed = {
        "vendor", "mpp-x", "mpp-y", "objective-power", "series-index", "series-composition",
        "MPP", "AppMag", "SourceLens", "ObjectiveLensPower",
        "SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[{}]",
    }  # fmt: skip
    for path in [*package.rglob("*.py"), *(package.parent / "flows").rglob("*.py")]:
        text = path.read_text()
        assert "associated_images" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                prefix, _, key = node.value.partition(".")
                if prefix in {"openslide", "tiffslide", "aperio", "hamamatsu", "dicom", "tiff"}:
                    assert not key or key in allowed, f"{path}: {node.value}"


@pytest.mark.parametrize("layout", ["stripped label first", "tiled label first", "label larger"])
def test_a_label_that_comes_first_is_not_taken_for_the_slide(layout, section, tmp_path):
    """In a TIFF that says nothing of its pictures; tiffslide and OpenSlide take the first."""
    tiled, stripped = {"tile": (256, 256)}, {"rowsperstrip": 16}
    pages = {
        "stripped label first": [(label(300, 400), stripped), (section.rgb, tiled)],
        "tiled label first": [(label(320, 512), tiled), (section.rgb, tiled)],
        "label larger": [(section.rgb, tiled), (label(3000, 4000), stripped)],
    }[layout]
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for pixels, how in pages:
            tiff.write(
                pixels, photometric="rgb", metadata=None, resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER", **how,
            )  # fmt: skip
    with pytest.raises(WsiError, match=r"the first may be the label\. Export the slide alone"):
        Slide.open(path)


def test_a_key_in_the_environment_is_in_no_output_or_log(
    engine, config, section, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "wsi_pipeline")
    path = write_aperio(tmp_path / "slide.svs", section.rgb[256:768, 256:768], with_patient=False)
    with serve_objects() as store:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        store.files.put_file(str(path), "scans/slide.svs")
        out = tmp_path / "out"
        on_s3 = config.model_copy(
            update={"store": config.store.model_copy(update={"root": "s3://scans/stores"})}
        )
        assert score_slide("s3://scans/slide.svs", out, engine, on_s3).status == "scored"
        said = []
        for missing in ("s3://scans/missing.svs", "s3://nobody/x.svs"):
            with pytest.raises(WsiError) as caught:
                score_slide(missing, out, engine, on_s3)
            said.append(str(caught.value))
        objects = store.objects("stores")
        assert any(name.endswith("zarr.json") for name in objects)
    assert_says_nothing(out, SECRET, "the-secret-key")
    for text in (*said, caplog.text, *(content.decode("latin-1") for content in objects.values())):
        assert SECRET not in text
        assert "the-secret-key" not in text
