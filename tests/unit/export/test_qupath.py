import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import wsi_pipeline as wsi
from tests.helpers.real_slides import SAMPLE
from wsi_pipeline.bed.outline import BED, read_bed
from wsi_pipeline.errors import ResultError
from wsi_pipeline.export.qupath import groovy_string, write_qupath
from wsi_pipeline.geometry import Size

STANDINS = Path(__file__).parents[2] / "helpers" / "qupath"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None).folder


def test_the_scripts_name_files_that_are_there_and_classes_that_they_hold(folder):
    project, show, send = (path.read_text() for path in write_qupath(folder))
    assert groovy_string(folder.as_posix()) in show
    for name in re.findall(r"folder(?: \+ '/|, ')([\w.-]+)'", show + project):
        assert (folder / name).is_file(), name
    written = json.loads((folder / BED).read_text())["features"][0]["properties"]
    assert written["classification"]["name"] == "Proposed tumour bed"
    assert "Proposed tumour bed" in show
    assert project.count("{") == project.count("}")
    assert show.count("{") == show.count("}")
    assert send.count("{") == send.count("}")
    tiles = json.loads((folder / "tiles.geojson").read_text())["features"]
    names = {f["properties"].get("classification", {}).get("name", "") for f in tiles} - {""}
    assert all(name.startswith("Cellularity ") for name in names)
    assert wsi.open_result(folder).name  # scripts beside it leave the result whole


def test_a_bed_as_qupath_writes_it_is_read_and_measured(folder, tmp_path):
    """QuPath 0.5's form of an annotation: an id, a Polygon and properties of its own."""
    copy = tmp_path / "result"
    shutil.copytree(folder, copy)
    drawn = copy / "qupath" / "bed-drawn.geojson"
    drawn.parent.mkdir(exist_ok=True)
    ring = [[100, 100], [1200, 100], [1200.5, 900.25], [100, 900], [100, 100]]
    drawn.write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "id": "9f5c3c9e-0d2c-4f0e-9d52-3f5a8c8c3a10",
                        "geometry": {"type": "Polygon", "coordinates": [ring]},
                        "properties": {
                            "objectType": "annotation",
                            "classification": {"name": "Tumour bed", "color": [0, 90, 60]},
                        },
                    }
                ],
            }
        )
    )
    bed = read_bed(drawn, Size(1695, 1209), "sample")
    assert bed.area.area == pytest.approx(1100 * 800, rel=0.01)


def test_a_path_cannot_end_its_string():
    assert groovy_string("a'; println 1; '\\") == "'a\\'; println 1; \\'\\\\'"


def test_without_a_result_there_is_nothing_to_show(tmp_path):
    with pytest.raises(ResultError, match="no finished result"):
        write_qupath(tmp_path)


@pytest.mark.skipif(shutil.which("groovy") is None, reason="Debian's groovy is not installed")
def test_the_project_is_made_once_and_shows_the_result_as_it_is(folder, tmp_path):
    """By Groovy itself, over stand-ins for the classes of QuPath that it calls."""
    copy = tmp_path / "a 'result' für $x"
    shutil.copytree(folder, copy)
    slide = tmp_path / "block 'A1' $y.svs"
    slide.write_bytes(b"a slide")
    script = write_qupath(copy, str(slide))[0]
    told = []
    for _ in range(2):
        done = subprocess.run(
            ["groovy", "-cp", str(STANDINS), str(script)],
            capture_output=True,
            text=True,
            env=os.environ | {"JAVA_TOOL_OPTIONS": "-Dfile.encoding=UTF-8"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told.append(json.loads((copy / "qupath" / "project" / "project.qpproj").read_text()))
    assert told[0] == told[1]
    (entry,) = told[0]
    assert entry["name"] == slide.name
    assert entry["type"] == "BRIGHTFIELD_H_E"
    assert entry["read"] == ["tiles.geojson", "bed.geojson"]
