"""A slide's mean from part of its tiles, and the whole result from there on."""

import json

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import ConfigError, TissueError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.estimate import ESTIMATE_FILES, Estimate
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring import estimate as library
from wsi_pipeline.scoring.estimate import estimate_slide
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.store import TileStore


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    return build_engine(ModelBundle.load(tiny_bundle), config)


@pytest.fixture
def slide_path(make_slide, section):
    return make_slide(section.rgb, downsamples=(4,), name="block A1.tif")


def outline(path, *boxes):
    rings = [[[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]] for x, y, w, h in boxes]
    geometry = {"type": "MultiPolygon", "coordinates": rings}
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    return path


def test_part_of_the_tiles_tells_the_mean_and_the_rest_is_scored_from_there(
    slide_path, tmp_path, engine, tiny_config
):
    direct = score_slide(slide_path, tmp_path / "direct", engine, tiny_config)
    true = direct.cellularity.mean
    out, spread = tmp_path / "out", direct.cellularity.quantiles
    wide = (spread["0.95"] - spread["0.05"]) / 10
    narrow = wide / 4
    first = estimate_slide(slide_path, out, engine, tiny_config, wide)
    assert isinstance(first, Estimate)
    assert first.scored < first.tiles == direct.tiles.scored
    assert first.high - first.low <= 2 * wide + 2e-6
    assert abs(first.mean - true) < 2 * wide
    folder = out / "block A1"
    assert Estimate.model_validate_json((folder / "estimate.json").read_text()) == first
    assert not (folder / "summary.json").exists()  # an estimate is no result

    drawn = read_cellularity(folder / "estimate.ome.tiff").cellularity
    whole = read_cellularity(tmp_path / "direct" / "block A1" / "cellularity.ome.tiff").cellularity
    there = np.isfinite(drawn)
    assert there.sum() == first.scored
    np.testing.assert_array_equal(drawn[there], whole[there])
    assert Image.open(folder / "estimate.png").size[0] > 1000

    before = TileStore(folder / "tiles.zarr").state(slice(0, first.tiles)) == TileState.SCORED
    second = estimate_slide(slide_path, out, engine, tiny_config, narrow)
    now = TileStore(folder / "tiles.zarr").state(slice(0, first.tiles)) == TileState.SCORED
    assert now[before].all()
    if isinstance(second, Estimate):
        assert second.scored == now.sum() > first.scored

    summary = score_slide(slide_path, out, engine, tiny_config)
    assert summary == direct
    assert not any((folder / name).exists() for name in ESTIMATE_FILES)
    assert estimate_slide(slide_path, out, engine, tiny_config, wide) == summary


def test_a_rerun_says_the_same_and_scores_nothing(slide_path, tmp_path, engine, tiny_config):
    said = [estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 0.05)]
    folder = tmp_path / "out" / "block A1"
    files = {name: (folder / name).read_bytes() for name in ESTIMATE_FILES}
    busy = engine.busy_s
    said.append(estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 0.05))
    assert said[0] == said[1]
    assert engine.busy_s == busy
    assert files == {name: (folder / name).read_bytes() for name in ESTIMATE_FILES}


def test_a_precision_that_takes_all_tiles_gives_the_result(
    slide_path, tmp_path, engine, tiny_config
):
    found = estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 1e-9)
    assert isinstance(found, SlideSummary)
    assert found == score_slide(slide_path, tmp_path / "direct", engine, tiny_config)


def test_the_mean_of_a_bed_is_that_of_the_whole_result(slide_path, tmp_path, engine, tiny_config):
    bed = outline(tmp_path / "bed.geojson", (150, 170, 600, 500), (760, 200, 90, 90))
    direct = score_slide(slide_path, tmp_path / "direct", engine, tiny_config, bed=bed)
    found = estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 0.02, bed=bed)
    assert isinstance(found, Estimate)
    assert found.of == "bed"
    assert found.scored < found.tiles < direct.tiles.scored
    assert found.low - 0.02 <= direct.bed.cellularity <= found.high + 0.02


def test_a_bed_beside_the_tissue_is_named(slide_path, tmp_path, engine, tiny_config):
    bed = outline(tmp_path / "bed.geojson", (0, 0, 60, 60))
    with pytest.raises(TissueError, match=r"block A1.tif: no tile with tissue lies in the bed"):
        estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 0.02, bed=bed)


def test_an_estimate_leaves_a_finished_result_of_other_settings_alone(
    slide_path, tmp_path, engine, tiny_config
):
    score_slide(slide_path, tmp_path / "out", engine, tiny_config)
    folder = tmp_path / "out" / "block A1"
    names = json.loads((folder / "summary.json").read_text())["outputs"]
    before = {name: (folder / name).read_bytes() for name in (*names, "summary.json")}
    other = tiny_config.model_copy(
        update={"grid": tiny_config.grid.model_copy(update={"min_tissue": 0.5})}
    )
    found = estimate_slide(slide_path, tmp_path / "out", engine, other, 0.05)
    assert isinstance(found, Estimate)
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert TileStore(folder / "tiles.zarr").is_scored


def test_a_run_that_is_stopped_goes_on_with_the_tiles_that_it_has(
    slide_path, tmp_path, engine, tiny_config, monkeypatch
):
    def stopped(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 0.05)
    busy = engine.busy_s
    found = estimate_slide(slide_path, tmp_path / "out", engine, tiny_config, 0.05)
    assert engine.busy_s == busy
    assert found == estimate_slide(slide_path, tmp_path / "direct", engine, tiny_config, 0.05)


def test_a_cluster_is_told_to_score_whole_slides(slide_path, tmp_path, tiny_config, monkeypatch):
    class Remote(library.Cluster):
        def __init__(self):
            pass

        def __del__(self):
            pass

    with pytest.raises(ConfigError, match="--precision"):
        estimate_slide(slide_path, tmp_path / "out", Remote(), tiny_config, 0.05)
