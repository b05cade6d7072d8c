"""Models that compute no numbers, or want more than a machine has: refused on every engine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from wsi_pipeline.cluster import worker as cluster_worker
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.graphs import Graph, write_graph
from wsi_pipeline.engine.int8 import Calibration
from wsi_pipeline.engine.openvino import import_openvino
from wsi_pipeline.engine.torch_engine import TorchEngine
from wsi_pipeline.errors import BundleError, ShortOfMemoryError
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.model.bundle import ModelBundle

ENGINES = ("torch", "openvino", "cluster")


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    """A bundle whose card does not say which weights it is written for."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    change_card(folder, weights_sha256=None)
    return folder


def change_card(folder, **changes):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    path.write_bytes(safetensors.torch.save(change(tensors)))


def start(folder, engine="torch", **config):
    config = EngineConfig(device="cpu", precision="float32", **{"batch_size": 2, **config})
    if engine != "cluster":
        config = config.model_copy(update={"runtime": engine})
        return build_engine(ModelBundle.load(folder), config)
    digest = ModelBundle.load(folder).digest
    return cluster_worker._engine(str(folder), digest, config)


def first(tensors, ending):
    return next(name for name in tensors if name.startswith("regr") and name.endswith(ending))


@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_that_cannot_be_are_refused(folder, engine):
    def negative(tensors):
        tensors[first(tensors, "running_var")][0] = -1.0
        return tensors

    change_weights(folder, negative)
    with pytest.raises(BundleError, match=r"model\.safetensors holds a negative variance, in regr"):
        start(folder, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_that_overflows_is_refused(folder, engine):
    """OpenVINO's layers make 0 of what is no number: the score looks like any other."""

    def huge(tensors):
        tensors[first(tensors, "conv1.weight")] *= 1e38
        return tensors

    change_weights(folder, huge)
    with pytest.raises(BundleError, match=r"computes infinities or no numbers, in regression\."):
        start(folder, engine)


@pytest.mark.parametrize(
    "kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.uint16]
)
def test_weights_in_other_types_are_refused_by_name(folder, kind):
    def stored(tensors):
        return {n: t.to(kind) if t.is_floating_point() else t for n, t in tensors.items()}

    change_weights(folder, stored)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(
        BundleError, match=rf"(as|is) {name}(, and weights are read as float16| \[)"
    ):
        start(folder)
    raw = (folder / "model.safetensors").read_bytes()
    header = raw[: 8 + int.from_bytes(raw[:8], "little")]
    if kind is torch.float8_e5m2:  # a type that safetensors knows, and torch does not
        changed = header.replace(b'"F8_E5M2"', b'"F8_E8M0"')
        (folder / "model.safetensors").write_bytes(changed + raw[len(header) :])
        with pytest.raises(BundleError, match=r"F8_E8M0|no safetensors file"):
            start(folder)


def test_float64_and_bfloat16_are_read(folder):
    for kind in (torch.float64, torch.bfloat16):
        change_weights(
            folder,
            lambda t, kind=kind: {
                n: v.to(kind) if v.is_floating_point() else v for n, v in t.items()
            },
        )
        assert start(folder).predict(np.zeros((1, 64, 64, 3), np.uint8)).cellularity.shape == (1,)


@pytest.mark.parametrize("changes", [{"std": [1e-300, 1, 1]}, {"mean": [1e30, 0, 0]}])
def test_a_normalisation_that_cannot_be_is_refused(folder, changes):
    card = json.loads((folder / "card.json").read_text())
    change_card(folder, architecture=card["architecture"] | changes)
    with pytest.raises(BundleError, match=r"architecture\.(std|mean)\.0: "):
        ModelBundle.load(folder)


def test_a_card_names_the_weights_that_it_is_written_for(tiny_bundle, folder):
    bundle = ModelBundle.load(tiny_bundle)
    assert bundle.card.weights_sha256 == bundle.weights_sha256
    for wrong in ("0" * 64, "../../etc", "A" * 64, "0" * 64 + "\n"):
        change_card(folder, weights_sha256=wrong)
        with pytest.raises(
            BundleError, match=r"other weights than|weights_sha256: String should match"
        ):
            ModelBundle.load(folder)


class NoNumbers(TorchEngine):
    """Stands for what only some tiles bring about: the third is no number."""

    def _run(self, batches):
        for number, output in enumerate(super()._run(batches)):
            output.score[:] = np.nan if number else output.score
            yield output


def test_scores_that_are_none_are_refused_when_they_come(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=2)
    engine = NoNumbers(ModelBundle.load(tiny_bundle), config)
    tiles = np.zeros((3, 64, 64, 3), np.uint8)
    assert engine.predict(tiles[:2]).cellularity.shape == (2,)
    with pytest.raises(BundleError, match="gives scores that are none, such as nan"):
        engine.predict(tiles)


@pytest.mark.parametrize(
    ("factor", "outputs", "message"),
    [
        (37.0, 3, r"gives scores that are none, such as \d+"),
        (-1.0, 3, "gives scores that are none, such as -"),
        (np.nan, 3, r"OpenVINO cannot run its graph \(.* is not finite\)"),
        (0.001, 1, r"OpenVINO cannot run its graph \(it gives \[\[2\]\] instead of"),
        (0.001, 2, r"it gives \[\[2\], \[2, 4\]\] instead of .* Make it again with `wsi quantise`"),
        (None, 3, "OpenVINO cannot run its graph"),
    ],
)
def test_a_graph_in_8_bits_that_gives_no_scores_is_refused(folder, factor, outputs, message):
    openvino = import_openvino()
    from openvino import opset13 as ops

    graph = Graph(b"<net/>", b"")
    if factor is not None:
        pixels = ops.parameter([-1, 64, 64, 3], np.uint8)
        mean = ops.reduce_mean(ops.convert(pixels, "f32"), np.array([1, 2, 3]))
        score = ops.multiply(mean, np.float32(factor))
        four = ops.broadcast(np.float32(0.25), ops.concat([ops.shape_of(mean), np.array([4])], 0))
        shape = ops.concat([ops.shape_of(mean), np.array([2, 2, 2])], 0)
        areas = ops.broadcast(np.float32(0.25), shape)
        graph = Graph.of(openvino.Model([score, four, areas][:outputs], [pixels]))
    how = Calibration(
        bundle=ModelBundle.load(folder).digest, slides=1, tiles=1, seed=0, float32_share=0,
        checked_on=1, mean_error=0, max_error=0, bias=0, software={},
    )  # fmt: skip
    write_graph(folder / "int8.json", graph, how.model_dump())
    config = EngineConfig(device="cpu", runtime="openvino", precision="int8", batch_size=2)
    with pytest.raises(BundleError, match=message):
        build_engine(ModelBundle.load(folder), config)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_batches_larger_than_the_machine_are_refused(tiny_bundle, engine):
    for batch_size in (10**8, 10**30):
        with pytest.raises(
            ShortOfMemoryError, match=r"a batch of 1[0,]+ tiles of 64 px takes .* GiB"
        ):
            start(tiny_bundle, engine, batch_size=batch_size)


def test_giant_tiles_are_refused(folder):
    change_card(folder, tile_px=8192)
    with pytest.raises(ShortOfMemoryError, match=r"tiles of 8192 px takes .* `engine\.batch_size`"):
        start(folder, batch_size=10_000)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_too_little_memory_is_one_line(tiny_bundle, runtime):
    """By the system's own limit, at the first batch: nothing of a slide was touched."""
    start(tiny_bundle, runtime)  # its graph is kept from here on
    code = f"""
import resource, sys
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.errors import ShortOfMemoryError
config = EngineConfig(device="cpu", runtime={runtime!r}, precision="float32", batch_size=1)
bundle = ModelBundle.load({str(tiny_bundle)!r})
build_engine(bundle, config)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
try:
    build_engine(bundle, config.model_copy(update={{"batch_size": 20_000}}))
except ShortOfMemoryError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert "takes more memory than there is" in ended.stdout, ended.stderr
    assert len(ended.stdout.splitlines()) == 1


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes do not match"), enough_memory("x"):
        raise RuntimeError("shapes do not match")
    with (
        pytest.raises(
            ShortOfMemoryError, match=r"^x takes more memory than there is \(MemoryError\)"
        ),
        enough_memory("x"),
    ):
        raise MemoryError
