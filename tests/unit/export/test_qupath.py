import json
import re
import shutil

import pytest

import wsi_pipeline as wsi
from tests.helpers.real_slides import SAMPLE
from wsi_pipeline.bed.outline import BED, read_bed
from wsi_pipeline.errors import ResultError
from wsi_pipeline.export.qupath import groovy_string, write_qupath
from wsi_pipeline.geometry import Size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None).folder


def test_the_scripts_name_files_that_are_there_and_classes_that_they_hold(folder):
    path = write_qupath(folder)
    show = path.read_text()
    send = (path.parent / "send-bed.groovy").read_text()
    assert groovy_string(folder.as_posix()) in show
    for name in re.findall(r"folder \+ '/([\w.-]+)'", show):
        assert (folder / name).is_file(), name
    written = json.loads((folder / BED).read_text())["features"][0]["properties"]
    assert written["classification"]["name"] == "Proposed tumour bed"
    assert "Proposed tumour bed" in show
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
