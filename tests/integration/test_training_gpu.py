"""Both stages on a GPU, in half precision and compiled: they learn, and a CPU runs their bundle."""

import json
from pathlib import Path

import pytest
import torch

from training.reg import RegConfig, train_regression
from training.seg import SegConfig, train_segmentation
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.validation import load_yaml

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_both_stages_learn_on_a_gpu(tmp_path, compiled):
    how = {"device": "cuda", "precision": "bfloat16", "compile": compiled}
    seg = load_yaml(CONFIGS / "seg-smoke.yaml", SegConfig)
    data = seg.data.model_copy(update={"cache": tmp_path / "patches"})
    seg = seg.model_copy(update={"data": data, "fit": seg.fit.model_copy(update=how)})
    train_segmentation(seg, tmp_path / "seg")
    reg = load_yaml(CONFIGS / "reg-smoke.yaml", RegConfig)
    reg = reg.model_copy(update={"data": data, "fit": reg.fit.model_copy(update=how)})
    bundle = train_regression(reg, tmp_path / "reg", tmp_path / "seg")

    for run in ("seg", "reg"):
        lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert losses[-1] < losses[0]
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    loaded = ModelBundle.load(tmp_path / "reg" / "bundle")
    assert loaded.digest == bundle.digest
    with torch.no_grad():
        assert torch.isfinite(loaded.network()(pixels).score).all()
