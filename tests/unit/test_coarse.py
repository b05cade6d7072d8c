"""A small model before a large one: against both of them run apart."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from tests.engines import assert_batch_mates_do_not_matter
from tests.made import save_tiny_bundle
from training.synthetic import generate_region
from wsi_pipeline.bundle import ModelBundle
from wsi_pipeline.cohort import Cohort, known
from wsi_pipeline.config import ScoreConfig
from wsi_pipeline.engine import CoarseConfig, EngineConfig, build_engine, execution_of
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.grid import GridConfig
from wsi_pipeline.naming import Filing
from wsi_pipeline.pipeline import score_slide, scoring_identity, start_engine
from wsi_pipeline.tiles import read_parquet

ALONE = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=2)
FINE_PX, COARSE_PX = 128, 64


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    fine = save_tiny_bundle(folder / "fine", tile_px=FINE_PX)
    coarse = save_tiny_bundle(folder / "coarse", tile_px=COARSE_PX, mpp=1.0, seed=1)
    return fine, coarse


@pytest.fixture(scope="module")
def tiles():
    rgb = generate_region(3, 4 * FINE_PX).rgb
    rows = rgb.reshape(4, FINE_PX, 4, FINE_PX, 3).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(16, FINE_PX, FINE_PX, 3))


def averaged(tiles):
    """Halve tiles by hand."""
    blocks = tiles.reshape(len(tiles), COARSE_PX, 2, COARSE_PX, 2, 3).astype(np.float64)
    return np.round(blocks.mean((2, 4))).astype(np.uint8)


def config_of(coarse, **thresholds):
    return ALONE.model_copy(update={"coarse": CoarseConfig(bundle=str(coarse), **thresholds)})


@pytest.fixture(scope="module")
def apart(bundles, tiles):
    """The scores of both models over all tiles."""
    fine, coarse = (build_engine(ModelBundle.load(folder), ALONE) for folder in bundles)
    return fine.predict(tiles), coarse.predict(averaged(tiles))


def test_what_the_small_model_leaves_open_is_scored_by_the_large_one(bundles, tiles, apart):
    fine, coarse = apart
    by_size = np.sort(coarse.cellularity)
    low, high = ((by_size[i] + by_size[i + 1]).item() / 2 for i in (4, 11))  # between two tiles
    config = config_of(bundles[1], refine_from=low, refine_to=high)
    scores = build_engine(ModelBundle.load(bundles[0]), config).predict(tiles)

    again = (coarse.cellularity > low) & (coarse.cellularity < high)
    assert again.sum() == 7
    # OpenCV may round a mean of four that ends in a half the other way.
    np.testing.assert_allclose(scores.cellularity_coarse, coarse.cellularity, atol=2e-3)
    np.testing.assert_allclose(scores.cellularity[again], fine.cellularity[again], atol=1e-5)
    np.testing.assert_array_equal(scores.cellularity[~again], scores.cellularity_coarse[~again])
    np.testing.assert_allclose(scores.class_fraction[again], fine.class_fraction[again], atol=2e-3)
    assert np.isfinite(scores.class_fraction).all()
    assert np.isnan(scores.cellularity_std).all()


def test_batch_mates_do_not_matter_at_all(bundles, tiles, apart):
    fine, coarse = bundles
    middle = float(np.median(apart[1].cellularity))
    engine, again = (
        build_engine(ModelBundle.load(fine), config_of(coarse, refine_from=middle)) for _ in "12"
    )
    assert_batch_mates_do_not_matter(engine, again, tiles)


@pytest.mark.parametrize(("low", "high", "refined"), [(0.0, 1.0, True), (1.0, 1.0, False)])
def test_all_or_nothing(bundles, tiles, apart, low, high, refined):
    config = config_of(bundles[1], refine_from=low, refine_to=high)
    engine = build_engine(ModelBundle.load(bundles[0]), config)
    scores = engine.predict(tiles)
    if refined:
        np.testing.assert_allclose(scores.cellularity, apart[0].cellularity, atol=1e-5)
    else:
        np.testing.assert_array_equal(scores.cellularity, scores.cellularity_coarse)
    assert engine.busy_s > 0


def test_models_must_see_the_same_tissue(bundles, tmp_path):
    other = save_tiny_bundle(tmp_path / "other", tile_px=64, mpp=0.5)
    with pytest.raises(ConfigError, match=r"64 px at 0\.5 µm/px, 32 µm of tissue.*same 64 µm"):
        build_engine(ModelBundle.load(bundles[0]), config_of(other))
    with pytest.raises(ConfigError, match="no more pixels"):
        build_engine(ModelBundle.load(bundles[1]), config_of(bundles[0]))


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="nothing would be refined"):
        CoarseConfig(bundle="x", refine_from=0.9, refine_to=0.1)


def test_a_slide_from_coarse_to_fine(make_slide, section, bundles, tmp_path):
    path = make_slide(section.rgb, downsamples=(4,), name="slide.tif")
    grid = GridConfig(tile_px=FINE_PX, stride_px=FINE_PX)

    def score(folder, **thresholds):
        engine_config = config_of(bundles[1], **thresholds)
        config = ScoreConfig(grid=grid, engine=engine_config, workers=2)
        engine = start_engine(ModelBundle.load(bundles[0]), config)
        summary = score_slide(path, tmp_path / folder, engine, config)
        table, _ = read_parquet(tmp_path / folder / "slide" / "tiles.parquet")
        return summary, table, scoring_identity(engine)

    _, whole, identity = score("whole", refine_from=0)
    low = float(np.median(whole.cellularity_coarse))
    summary, table, other = score("part", refine_from=low)

    kept = table.cellularity_coarse < np.float32(low)
    assert summary.tiles.coarse == kept.sum() > 0
    np.testing.assert_array_equal(table.cellularity[kept], table.cellularity_coarse[kept])
    np.testing.assert_array_equal(table.cellularity[~kept], whole.cellularity[~kept])
    assert identity != other
    # The model is known by its digest, wherever it lies.
    assert str(bundles[1]) not in json.dumps(summary.provenance.model_dump(mode="json"))
    assert other["execution"]["coarse"] == {
        "bundle": ModelBundle.load(bundles[1]).digest,
        "graph": None,
        "refine_from": low,
        "refine_to": 1.0,
    }
    assert other["execution"] == summary.provenance.execution.model_dump(mode="json")


def test_a_night_knows_the_small_model_by_its_weights(make_slide, section, bundles, tmp_path):
    fine, coarse = bundles
    other = save_tiny_bundle(tmp_path / "other", tile_px=COARSE_PX, mpp=1.0, seed=2)
    moved = shutil.copytree(coarse, tmp_path / "moved")
    path = make_slide(section.rgb, downsamples=(4,), name="slide.tif")

    def cohort(small, **thresholds):
        grid = GridConfig(tile_px=FINE_PX, stride_px=FINE_PX)
        config = ScoreConfig(grid=grid, engine=config_of(small, **thresholds), workers=2)
        return Cohort.prepare(str(tmp_path), tmp_path / "out", str(fine), config)

    tonight = cohort(coarse)
    engine = start_engine(tonight.bundle, tonight.config)
    summary = score_slide(path, tonight.out, engine, tonight.config)
    filing = Filing("slide", "slide.tif", summary.provenance.slide.digest)
    for same in (tonight, cohort(moved)):
        outcome = known(same, filing)
        assert outcome is not None
        assert outcome.kind == "done"
    for new in (cohort(other), cohort(coarse, refine_from=0.5)):
        assert known(new, filing) is None


def test_how_both_models_run_can_be_told_before(bundles):
    config = config_of(bundles[1], refine_from=0.2)
    bundle = ModelBundle.load(bundles[0])
    assert build_engine(bundle, config).execution == execution_of(bundle, config)
    assert str(execution_of(bundle, config)) == "cpu, torch, float32, coarse to fine"
