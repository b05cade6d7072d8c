"""Graphs in 8 bits: how they are made, kept and found, and what they cost."""

import json
import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from wsi_pipeline.engine import int8
from wsi_pipeline.engine import quantise as module
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig, execution_of
from wsi_pipeline.engine.float32 import exported
from wsi_pipeline.engine.graphs import Graph
from wsi_pipeline.engine.int8 import Calibration, calibration, keep_quantised, quantised
from wsi_pipeline.engine.quantise import MAX_MEAN_ERROR, quantise
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.identity import scoring_facts
from wsi_pipeline.scoring.sample import sample_tiles
from wsi_pipeline.tiles.grid import GridConfig

pytestmark = pytest.mark.skipif(
    find_spec("nncf") is None or find_spec("openvino") is None, reason="needs nncf and OpenVINO"
)

INT8 = EngineConfig(device="cpu", precision="int8")
GRAPH = Graph(b"<net/>", b"0")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    ModelBundle.load(tiny_bundle).save(tmp_path / "bundle")
    return ModelBundle.load(tmp_path / "bundle")


@pytest.fixture(scope="module")
def tiles(section):
    rgb = section.rgb
    corners = [(y, x) for y in range(260, 760, 80) for x in range(260, 760, 80)]
    corners = np.random.default_rng(0).permutation(corners)[:24]
    return np.stack([rgb[y : y + 64, x : x + 64] for y, x in corners])


def a_calibration(of):
    return Calibration(
        bundle=of.digest,
        slides=1,
        tiles=18,
        seed=0,
        float32_share=0,
        checked_on=6,
        mean_error=0.001,
        max_error=0.002,
        bias=0,
        software={},
    )


@pytest.mark.long
@pytest.mark.slides
def test_a_quantised_bundle_scores_as_before(slides_dir, tmp_path):
    """Of a trained model: random weights pass every rounding on like noise."""
    ModelBundle.load(BUNDLED_MODEL).save(tmp_path / "demo")
    bundle = ModelBundle.load(tmp_path / "demo")
    paths = [str(slides_dir / f"{name}.tif") for name in ("her2st-b4", "her2st-c3")]
    paths.append(str(slides_dir / "cmu-1-small-region.svs"))
    config = ScoreConfig(grid=GridConfig(allow_upsampling=True))
    tiles = sample_tiles(paths, bundle.card, config, count=100, seed=0)
    digest = bundle.digest
    graph, cost = quantise(bundle, tiles, slides=3, seed=0)
    assert cost.tiles + cost.checked_on == len(tiles)
    assert cost.checked_on == len(tiles) // 4
    path = keep_quantised(bundle, graph, cost)
    again = ModelBundle.load(bundle.folder)
    assert again.digest == digest
    again.save(bundle.folder)
    assert json.loads(path.read_text())["mean_error"] == cost.mean_error

    engine = build_engine(again, INT8)
    facts = scoring_facts(engine)
    assert (facts.runtime, facts.precision, facts.graph) == ("openvino", "int8", graph.digest)
    config = ScoreConfig(engine=INT8)
    assert config.settings(again).calibration == graph.digest
    reference = build_engine(again, EngineConfig(device="cpu", runtime="torch"))
    checked = tiles[: cost.checked_on]
    scores, expected = engine.predict(checked), reference.predict(checked)
    error = np.abs(scores.cellularity - expected.cellularity)
    assert error.mean() <= MAX_MEAN_ERROR
    assert error.mean() == pytest.approx(cost.mean_error, rel=0.01)
    assert np.abs(scores.class_fraction.sum(1) - 1).max() < 1e-5
    assert error.max() > 1e-4, "nothing was quantised"


@pytest.mark.long
def test_no_more_stays_in_float32_than_has_to(bundle, tiles, monkeypatch):
    tried = []

    def calibrated(graph, _tiles, *, float32_share):
        tried.append(float32_share)
        return graph

    def predict(engine, rgb):
        scores = original(engine, rgb)
        scores.cellularity[:] += (0.03, 0.02, 0.005)[len(tried) - 1]
        return scores

    original = module.OpenVinoEngine.predict
    monkeypatch.setattr(module, "_calibrated", calibrated)
    monkeypatch.setattr(module.OpenVinoEngine, "predict", predict)
    _, cost = quantise(bundle, tiles, slides=1, seed=0)
    assert tried == [0, 0.25, 0.5]
    assert cost.float32_share == 0.5
    assert cost.mean_error == pytest.approx(0.005, abs=1e-4)
    assert cost.bias == pytest.approx(0.005, abs=1e-4)


def test_a_bundle_that_loses_too_much_is_refused(bundle, tiles, monkeypatch):
    monkeypatch.setattr(module, "_calibrated", lambda graph, _tiles, float32_share: graph)
    monkeypatch.setattr(module, "MAX_MEAN_ERROR", -1)
    with pytest.raises(BundleError, match="loses too much in 8 bits"):
        quantise(bundle, tiles, slides=1, seed=0)


def test_nncf_is_missing(bundle, tiles, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ConfigError, match=r"pip install wsi-pipeline\[quantise\]"):
        quantise(bundle, tiles, slides=1, seed=0)


def test_a_graph_of_another_bundle_is_refused(bundle):
    how = a_calibration(bundle).model_copy(update={"bundle": "another"})
    keep_quantised(bundle, GRAPH, how)
    for use in (calibration, quantised, lambda of: execution_of(of, INT8)):
        with pytest.raises(BundleError, match="another bundle"):
            use(bundle)


def test_a_damaged_graph_is_refused(bundle):
    path = keep_quantised(bundle, GRAPH, a_calibration(bundle))
    assert quantised(bundle) == GRAPH
    assert execution_of(bundle, INT8).graph == GRAPH.digest
    for part in (path, path.with_suffix(".xml"), path.with_suffix(".bin")):
        whole = part.read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole[:-2] + b"?"):
            part.write_bytes(content)
            with pytest.raises(BundleError, match="damaged"):
                quantised(bundle)
        part.write_bytes(whole)
    path.with_suffix(".bin").unlink()
    with pytest.raises(BundleError, match=r"int8\.json is damaged \(int8\.bin is missing\)"):
        quantised(bundle)


def test_a_bundle_that_was_not_quantised(bundle):
    with pytest.raises(ConfigError, match="wsi quantise"):
        execution_of(bundle, INT8)


def test_a_folder_that_cannot_be_written(bundle, cache, monkeypatch):
    def write(path, graph, record):
        if path.parent == bundle.folder:
            raise PermissionError(13, os.strerror(13), str(path))
        original(path, graph, record)

    original = int8.write_graph
    monkeypatch.setattr(int8, "write_graph", write)
    path = keep_quantised(bundle, GRAPH, a_calibration(bundle))
    assert path.is_relative_to(cache)
    assert quantised(bundle) == GRAPH
    path.unlink()


def test_what_is_reckoned_from_probabilities_is_no_network():
    """In 8 bits it cost more than all layers: 0.014 with three quarters of them in float32."""
    model = exported(ModelBundle.load(BUNDLED_MODEL)).model()
    kept = set(module._reckoned(model))
    kinds = {}
    for operation in model.get_ordered_ops():
        kinds.setdefault(operation.get_type_name(), set()).add(operation.get_friendly_name())
    for kind in ("Softmax", "Divide", "Log", "MaxPool", "Sigmoid"):
        assert kinds[kind]
        assert kinds[kind] <= kept
    for kind in ("Convolution", "GroupConvolution", "Parameter", "Result"):
        assert not kinds[kind] & kept
