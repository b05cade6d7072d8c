"""The graph that comes with the package, and scoring where torch is not installed."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.synthetic import generate_region
from wsi_pipeline.engine import shipped as module
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.openvino_engine import OpenVinoEngine
from wsi_pipeline.engine.shipped import SHIPPED, shipped
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle

TOLERANCE = 1e-3
"""Largest difference of a score to torch's, from weights in half precision."""

WITHOUT_TORCH = """
import sys
from importlib.metadata import Distribution, PackageNotFoundError
AWAY = {"torch", "torchvision", "timm", "segmentation_models_pytorch"}
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in AWAY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
installed = Distribution.from_name
def from_name(name):
    if name in AWAY:
        raise PackageNotFoundError(name)
    return installed(name)
Distribution.from_name = from_name
from wsi_pipeline import cli
cli.main()
"""


@pytest.fixture(scope="module")
def bundled() -> ModelBundle:
    return ModelBundle.load(BUNDLED_MODEL)


def test_it_is_the_bundled_models(bundled):
    """If not, make it with `python -m tools.ship_graph`."""
    assert shipped(bundled) is not None


def test_it_gives_the_scores_of_torch(bundled):
    tissue = generate_region(3, 1024).rgb
    tiles = np.stack([tissue[y : y + 512, x : x + 512] for y in (0, 512) for x in (0, 512)])
    config = EngineConfig(device="cpu", precision="float32", batch_size=2)
    scores = OpenVinoEngine(bundled, config).predict(tiles)
    with torch.no_grad():
        reference = bundled.network()(torch.from_numpy(tiles)).score.numpy()
    assert np.abs(scores.cellularity - reference).max() < TOLERANCE


def test_no_other_bundle_gets_it(bundled, tiny_bundle):
    assert shipped(ModelBundle.load(tiny_bundle)) is None
    card = bundled.card.model_copy(update={"tile_px": 256})
    assert shipped(replace(bundled, card_json=card.model_dump_json().encode())) is None


def test_a_damaged_one_is_none(bundled, monkeypatch, tmp_path, caplog):
    for path in SHIPPED.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "float32.bin").write_bytes(b"0")
    monkeypatch.setattr(module, "SHIPPED", tmp_path / SHIPPED.name)
    assert shipped(bundled) is None
    assert "damaged" in caplog.text


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], capture_output=True, text=True
    )


def test_a_slide_is_scored_without_torch(write_slide_of, tmp_path):
    ended = without_torch("score", write_slide_of(tmp_path), "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "slide" / "summary.json").exists()


def test_what_needs_torch_names_the_extra(write_slide_of, tmp_path, tiny_bundle):
    slide = write_slide_of(tmp_path)
    for options in (["--bundle", tiny_bundle], ["--device", "cuda"]):
        ended = without_torch("score", slide, "--out", tmp_path / "out", *options)
        assert ended.returncode == 1
        assert 'pip install "wsi-pipeline[torch]"' in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.fixture
def write_slide_of():
    from tests.helpers.made import write_slide

    def write(folder):
        path = folder / "slide.tif"
        return path if path.exists() else write_slide(path, generate_region(1, 640).rgb)

    return write
