"""OpenVINO against torch in float32, and the files that its graphs are kept in."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.helpers.engines import assert_batch_mates_do_not_matter
from wsi_pipeline.engine import export
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.float32 import exported
from wsi_pipeline.engine.graphs import Graph, read_graph, write_graph
from wsi_pipeline.engine.openvino import openvino_is_installed
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.bundle import ModelBundle, ModelCard
from wsi_pipeline.model.network import build_network
from wsi_pipeline.slide.slide import Slide

pytestmark = pytest.mark.skipif(not openvino_is_installed(), reason="needs OpenVINO")

FLOAT32_TOLERANCE = 1e-4
"""Largest difference of a float32 score to torch's."""


def engine_of(bundle, **settings):
    settings = {"device": "cpu", "runtime": "openvino", "precision": "float32", **settings}
    return build_engine(bundle, EngineConfig(**settings))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A path for a cache that is empty yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def plain_bundle():
    return bundle_of(Architecture(regression_backbone="resnet18"))


def bundle_of(architecture):
    torch.manual_seed(1)
    card = ModelCard(
        name="plain",
        version="1",
        architecture=architecture,
        tile_px=64,
        trained_on="Nothing.",
        licence="Apache-2.0",
        intended_use="Tests.",
        limitations="Its scores mean nothing.",
    )
    return ModelBundle.of(build_network(architecture).eval(), card)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return ModelBundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def tiles(section):
    rgb = section.rgb
    corners = [(y, x) for y in range(260, 760, 200) for x in range(260, 760, 200)]
    real = np.stack([rgb[y : y + 64, x : x + 64] for y, x in corners[:7]])
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    return np.concatenate([real, noise])


@pytest.fixture(scope="module")
def reference(bundle, tiles):
    return engine_of(bundle, runtime="torch").predict(tiles)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 4}, {"class_fractions": False}])
def test_scores_are_torchs(bundle, tiles, reference, settings):
    scores = engine_of(bundle, **settings).predict(tiles)
    assert scores.cellularity.dtype == np.float32
    np.testing.assert_allclose(scores.cellularity, reference.cellularity, atol=FLOAT32_TOLERANCE)
    if settings.get("class_fractions", True):
        # A pixel may change sides where two classes are equally likely.
        np.testing.assert_allclose(scores.class_fraction, reference.class_fraction, atol=0.01)
    else:
        assert np.isnan(scores.class_fraction).all()
        assert scores.class_fraction.shape == reference.class_fraction.shape


@pytest.mark.slides
def test_scores_of_real_tissue_are_torchs(bundle, slides_dir):
    with Slide.open(slides_dir / "cmu-1-small-region.svs") as slide:
        corners = [(x, y) for x in range(300, 1800, 250) for y in range(300, 2600, 450)]
        tiles = np.stack([slide.read(Box(x, y, 64, 64), Size(64, 64)) for x, y in corners])
    expected = engine_of(bundle, runtime="torch").predict(tiles).cellularity
    scores = engine_of(bundle).predict(tiles).cellularity
    np.testing.assert_allclose(scores, expected, atol=FLOAT32_TOLERANCE)


def test_eight_views_are_torchs(bundle, tiles):
    expected = engine_of(bundle, runtime="torch", views=8).predict(tiles[:2])
    scores = engine_of(bundle, views=8).predict(tiles[:2])
    for name in ("cellularity", "cellularity_std"):
        np.testing.assert_allclose(
            getattr(scores, name), getattr(expected, name), atol=FLOAT32_TOLERANCE
        )


def test_batch_mates_do_not_matter_at_all(bundle, tiles):
    assert_batch_mates_do_not_matter(engine_of(bundle), engine_of(bundle), tiles)


def test_a_model_without_segmentation(plain_bundle, tiles):
    expected = engine_of(plain_bundle, runtime="torch").predict(tiles)
    scores = engine_of(plain_bundle).predict(tiles)
    np.testing.assert_allclose(scores.cellularity, expected.cellularity, atol=FLOAT32_TOLERANCE)
    assert np.isnan(scores.class_fraction).all()


def test_a_model_that_corrects_the_ratio_of_a_finer_segmentation(bundle, tiles):
    choices = {"upsampling": "half-pixel", "logit_stride": 2, "area_ratio": True}
    finer = bundle_of(bundle.card.architecture.model_copy(update=choices))
    expected = engine_of(finer, runtime="torch").predict(tiles)
    scores = engine_of(finer).predict(tiles)
    np.testing.assert_allclose(scores.cellularity, expected.cellularity, atol=FLOAT32_TOLERANCE)
    assert np.ptp(scores.cellularity) > 0.01


def test_openvino_is_the_automatic_choice_on_a_cpu(bundle, monkeypatch):
    config = EngineConfig(device="cpu")
    assert build_engine(bundle, config).execution.runtime == "openvino"
    monkeypatch.setattr("wsi_pipeline.engine.execution.openvino_is_installed", lambda: False)
    assert build_engine(bundle, config).execution.runtime == "torch"


def test_a_graph_is_exported_once(bundle, monkeypatch):
    first = exported(bundle)
    monkeypatch.setattr(export, "export", None)
    assert exported(bundle) == first


def test_a_kept_graph_is_scored_without_torch(bundle, tiny_bundle, section, make_slide, tmp_path):
    """torch, and what builds networks, take seconds to import and half a gigabyte."""
    exported(bundle)
    settings = {"grid": {"tile_px": 64, "stride_px": 64}, "engine": {"runtime": "openvino"}}
    config = tmp_path / "score.yaml"
    config.write_text(yaml.safe_dump(settings))
    slide = make_slide(section.rgb[:512, :512].copy())
    code = (
        "import sys; from wsi_pipeline import cli\n"
        "try: cli.app()\n"
        "except SystemExit as end: print('ended', end.code, *sys.modules)"
    )
    options = ["--bundle", tiny_bundle, "--config", config, "--out", tmp_path, "--device", "cpu"]
    command = [sys.executable, "-c", code, "score", slide, *options]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    _, _, ended = run.stdout.rpartition("ended ")
    exit_code, *modules = ended.split()
    assert exit_code == "0", run.stderr
    assert "openvino" in modules
    assert not {"torch", "torchvision", "timm", "segmentation_models_pytorch"} & set(modules)


def test_a_signal_after_engines_are_gone_is_handled(bundle, tiny_bundle):
    """Else it is a segmentation fault, in whatever the process does next."""
    exported(bundle)
    code = (
        "import signal, sys\n"
        "from wsi_pipeline.model.bundle import ModelBundle\n"
        "from wsi_pipeline.engine.build import build_engine\n"
        "from wsi_pipeline.engine.execution import EngineConfig\n"
        "config = EngineConfig(device='cpu', runtime='openvino', precision='float32')\n"
        "bundle = ModelBundle.load(sys.argv[1])\n"
        "first, second = build_engine(bundle, config), build_engine(bundle, config)\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    command = [sys.executable, "-c", code, str(tiny_bundle)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_a_damaged_graph_is_made_anew(bundle, own_cache, monkeypatch):
    kept = Graph(b"<net/>", b"0" * 100)
    monkeypatch.setattr(export, "export", lambda _bundle: kept)
    exported(bundle)
    paths = [path for path in own_cache.rglob("*") if path.suffix in (".json", ".xml", ".bin")]
    assert len(paths) == 3
    for path in paths:
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2], b"", whole[:-4] + b"\x7f" + whole[-3:]):
            path.write_bytes(damage)
            assert exported(bundle) == kept
            assert path.read_bytes() == whole
        path.unlink()
        assert exported(bundle) == kept
        assert path.read_bytes() == whole


def test_a_graph_of_another_bundle_is_not_taken(bundle, plain_bundle, own_cache, monkeypatch):
    monkeypatch.setattr(export, "export", lambda of: Graph(of.digest.encode(), b"0"))
    other, mine = exported(plain_bundle), exported(bundle)
    files = {read_graph(path)[0]: path for path in own_cache.rglob("*.json")}
    for suffix in (".json", ".xml", ".bin"):
        theirs = files[other].with_suffix(suffix)
        files[mine].with_suffix(suffix).write_bytes(theirs.read_bytes())
    assert exported(bundle) == mine


def test_no_place_to_keep_a_graph(bundle, own_cache, monkeypatch, caplog):
    own_cache.write_text("a file")
    monkeypatch.setattr(export, "export", lambda _bundle: Graph(b"<net/>", b"0"))
    assert exported(bundle) == Graph(b"<net/>", b"0")
    assert "XDG_CACHE_HOME" in caplog.text


def test_nothing_reports_its_use(bundle):
    exported(bundle)
    assert sys.modules.get("openvino_telemetry") is None


def test_openvino_is_missing(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install wsi-pipeline\[openvino\]"):
        engine_of(bundle)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "wsi quantise"),
        ({"precision": "int8", "runtime": "torch"}, "is for OpenVINO"),
        ({"precision": "bfloat16"}, "does not multiply bfloat16"),
    ],
)
def test_what_cannot_be_run(bundle, monkeypatch, settings, message):
    monkeypatch.setattr("wsi_pipeline.engine.execution._cpu_flags", frozenset)
    with pytest.raises(ConfigError, match=message):
        engine_of(bundle, **settings)


def test_a_file_that_is_no_graph(tmp_path):
    path = tmp_path / "graph.json"
    write_graph(path, Graph(b"<net/>", b"0"), {})
    assert read_graph(path) == (Graph(b"<net/>", b"0"), {})
    for content in (b"", b"{}", b"[]", b"1", b"[" * 100_000, path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="damaged"):
            read_graph(path)
