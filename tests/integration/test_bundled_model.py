"""What the bundled model says of tissue that it has not seen."""

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile

from tests.helpers.pages import ROOT
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.pipeline import score_slide

SAMPLE = ROOT / "docs" / "sample" / "tcga-a2-a0d2.tif"
FIELDS = ROOT / "tests" / "data" / "fields"
SCORES = json.loads((FIELDS / "scores.json").read_text())
"""Of each field: what the model said when it was bundled, and the cellularity by its labels."""

DRIFT = 0.01


@pytest.fixture(scope="module")
def engine():
    config = EngineConfig(device="cpu", precision="float32", batch_size=1)
    return build_engine(ModelBundle.load(BUNDLED_MODEL), config)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_fields_of_patients_held_back_get_what_they_got(engine, name):
    rgb = cv2.imread(str(FIELDS / f"{name}.png"))[..., ::-1]
    tile = np.full((1, 512, 512, 3), 255, np.uint8)
    tile[0, : rgb.shape[0], : rgb.shape[1]] = rgb
    assert engine.predict(tile).cellularity[0] == pytest.approx(SCORES[name]["score"], abs=DRIFT)


def test_more_carcinoma_gets_more():
    by_truth = sorted(SCORES.values(), key=lambda field: field["truth"])
    assert all(low["score"] < high["score"] for low, high in pairwise(by_truth))


def test_glass_is_nothing(engine):
    assert engine.predict(np.full((1, 512, 512, 3), 255, np.uint8)).cellularity[0] < 0.02


@pytest.mark.parametrize("covered", [0.25, 0.5])
def test_glass_beside_carcinoma_hides_none_of_it(engine, covered):
    """The figure is of the tissue: half a tile beyond the scan leaves that of the other half."""
    tissue = tifffile.imread(SAMPLE, key=0)[:512, :512]
    tile = tissue.copy()
    tile[int(512 * (1 - covered)) :] = 255
    whole, part = engine.predict(np.stack([tissue, tile])).cellularity
    assert part > 0.5 * whole


def test_the_sample_is_higher_where_pathologists_drew_tumour(engine, tmp_path):
    summary = score_slide(SAMPLE, tmp_path, engine, ScoreConfig())
    assert 0.1 < summary.cellularity.mean < 0.6
    scores = read_cellularity(tmp_path / "tcga-a2-a0d2" / "cellularity.ome.tiff").cellularity
    outline = json.loads((SAMPLE.parent / "tcga-a2-a0d2-tumour.geojson").read_text())
    tumour = shapely.from_geojson(json.dumps(outline["features"][0]["geometry"]))
    share = np.zeros_like(scores)
    for row, column in np.ndindex(scores.shape):
        square = shapely.box(512 * column, 512 * row, 512 * column + 512, 512 * row + 512)
        share[row, column] = tumour.intersection(square).area / 512**2
    inside, outside = scores[share > 0.6], scores[share < 0.2]
    assert np.nanmean(inside) > 2 * np.nanmean(outside)


@pytest.mark.slides
def test_healthy_skin_gets_next_to_nothing(engine, slides_dir: Path, tmp_path):
    """The negative control: the model before gave 4 to 39 %."""
    slide = slides_dir / "cmu-1-small-region.svs"
    summary = score_slide(slide, tmp_path, engine, ScoreConfig())
    assert summary.cellularity.mean < 0.05
