import ctypes

import pytest
import torch

from wsi_pipeline.engine import execution
from wsi_pipeline.engine.execution import choose_device, choose_precision, has_gpu_driver
from wsi_pipeline.errors import ConfigError


def test_the_automatic_device_is_torchs():
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_where_torch_finds_a_gpu_there_is_a_driver():
    assert has_gpu_driver() >= torch.cuda.is_available()


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_torch_is_asked_where_there_is_a_driver(monkeypatch, gpu, device):
    """A driver alone is no GPU: there may be none behind it, or torch be built without CUDA."""
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", loaded.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device("auto") == device
    assert loaded == ["libcuda.so.1"]


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "meta"])
def test_devices_keep_the_names_that_torch_knows(name):
    assert choose_device(name) == name


def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match="--device cpu"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError, match="'abacus'"):
        choose_device("abacus")


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_bfloat16_is_chosen_only_where_it_is_native(monkeypatch, device):
    monkeypatch.setattr(execution, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert choose_precision(device) == "bfloat16"
    monkeypatch.setattr(execution, "_cpu_flags", lambda: frozenset({"avx2"}))
    assert choose_precision(device) == "float32"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpus_say_for_themselves_whether_they_multiply_bfloat16():
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert choose_precision("cuda:0") == ("bfloat16" if native else "float32")
