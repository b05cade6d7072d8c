"""`wsi doctor`: what this machine has, what runs the model on it, and whether that scores right.

The sample is a tile of TCGA-A2-A0D2 (BCSS, CC0), which training has not seen. Whatever can run the
model here scores it, and its scores are held against torch in float32 where that is installed, else
against OpenVINO in float32.
"""

import os
import platform
import shutil
import time
from dataclasses import dataclass, replace
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig, Precision, Runtime, machine_execution
from wsi_pipeline.engine.openvino import openvino_is_installed
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.machine import cores, free_bytes, total_bytes
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.torch_extra import torch_at_hand, torch_version

LARGEST_ERROR = 0.02
"""Of a score against float32, beyond which a way to run the model is called wrong: bfloat16 is
within 0.01 on tissue."""

LEAST_GIB = 2.0
"""Of memory, and of disk."""

PACKAGES = "openslide-python", "openslide-bin", "tiffslide", "openvino", "torch", "prefect"
"""Whose versions matter."""

_TILES = 8
_USED_ON_GPU, _FALLBACK_ON_GPU = "captured graph, bfloat16", "autocast, bfloat16"
_GIB = 2**30
_LIMITS = {
    "sqlalchemy": ((2, 1), "Prefect 3.8's scheduler fails"),
    "fastapi": ((0, 150), "Prefect's server fails"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it is.
        found: as it is here.
        remedy: what to do about it; None if all is well.

    """

    what: str
    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Way:
    """A way to run the model here.

    Attributes:
        name: of device, library and precision.
        tiles_per_s: measured on the sample.
        largest_error: of its scores against float32.
        chosen: whether scoring takes it by itself.
        failure: why it cannot run; None if it can.

    """

    name: str
    tiles_per_s: float = 0.0
    largest_error: float = 0.0
    chosen: bool = False
    failure: str | None = None


def machine(place: Path) -> list[Finding]:
    """Return what this machine has.

    Args:
        place: where results would go.

    """
    memory, free, disk = total_bytes(), free_bytes(), shutil.disk_usage(place)
    return [
        Finding("Python", platform.python_version()),
        Finding("wsi-pipeline", version("wsi-pipeline")),
        *(Finding(name, _installed(name)) for name in PACKAGES),
        *_held_back(),
        Finding("cores", f"{cores()} of {os.cpu_count()}"),
        Finding(
            "memory",
            f"{free / _GIB:.1f} GiB free of {memory / _GIB:.1f}",
            None if free >= LEAST_GIB * _GIB else f"Scoring takes {LEAST_GIB:g} GiB or so.",
        ),
        Finding(
            "disk here",
            f"{disk.free / _GIB:.1f} GiB free",
            None if disk.free >= LEAST_GIB * _GIB else "Free some, or choose another --out.",
        ),
    ]


def ways(bundle: ModelBundle, device: str = "auto") -> list[Way]:
    """Run a model on the sample in every way that this machine might.

    Args:
        bundle: the model.
        device: "auto", "cpu" or "cuda"; a GPU that cannot run it is a way that failed.

    """
    tiles = sample_tiles(bundle.card.tile_px)
    try:
        chosen = str(machine_execution(EngineConfig(device=device)))
    except ConfigError:
        chosen = ""  # each way that needs the device says so
    found, reference = [], None
    for config in _configs(device):
        name = f"{config.device}, {config.runtime}, {config.precision}"
        try:
            engine = build_engine(bundle, config)
            engine.predict(tiles[:1])
            start = time.perf_counter()
            scores = engine.predict(tiles).cellularity
        except (WsiError, RuntimeError) as error:
            found.append(Way(name, failure=str(error).splitlines()[0]))
            continue
        seconds = time.perf_counter() - start
        reference = scores if reference is None else reference
        largest = float(np.abs(scores - reference).max())
        is_chosen = str(engine.execution) == chosen
        found.append(Way(str(engine.execution), len(tiles) / seconds, largest, is_chosen))
    return found


def gpu_ways(bundle: ModelBundle, device: str) -> list[Way]:
    """Run a model on a GPU in each form that torch has for it; the first is what all are held to.

    Args:
        bundle: the model.
        device: "cuda" or "cuda:1". Any other that torch knows has the same forms but for graphs.

    Raises:
        ConfigError: if torch is not installed.

    """
    with torch_at_hand(f"The device {device!r}"):
        from wsi_pipeline.engine.torch_forms import forms

    found: list[Way] = []
    reference = None
    for form in forms(bundle, device, sample_tiles(bundle.card.tile_px)):
        if form.scores is None:
            found.append(Way(form.name, failure=form.failure))
            continue
        reference = form.scores if reference is None else reference
        largest = float(np.abs(form.scores - reference).max())
        found.append(Way(form.name, form.tiles_per_s, largest, form.name == _USED_ON_GPU))
    if found and not any(way.chosen for way in found):
        # What scoring falls back to by itself, with a word in its log.
        found = [
            replace(way, chosen=way.name == _FALLBACK_ON_GPU and way.failure is None)
            for way in found
        ]
    return found


def sample_tiles(side: int) -> NDArray[np.uint8]:
    """Return the sample and its rotations and reflections, uint8 [8, side, side, 3]."""
    content = resources.files("wsi_pipeline.engine").joinpath("sample.jpg").read_bytes()
    with Image.open(BytesIO(content)) as picture:
        tile = np.asarray(picture.convert("RGB").resize((side, side)), np.uint8)
    turned = [np.rot90(view, turns) for view in (tile, tile[:, ::-1]) for turns in range(4)]
    return np.stack(turned)[:_TILES]


def _configs(device: str) -> list[EngineConfig]:
    """Return ways to run a model, that in float32 which all others are held against first."""
    pairs: list[tuple[Literal["cpu", "cuda"], Runtime, Precision]] = []
    if torch_version():
        pairs.append(("cpu", "torch", "float32"))
    if openvino_is_installed():
        pairs += [("cpu", "openvino", "float32"), ("cpu", "openvino", "bfloat16")]
    if device.startswith("cuda") or (device == "auto" and _has_gpu()):
        pairs += [("cuda", "torch", "float32"), ("cuda", "torch", "bfloat16")]
    return [
        EngineConfig(device=where, runtime=runtime, precision=precision)
        for where, runtime, precision in pairs
    ]


def _has_gpu() -> bool:
    if not torch_version():
        return False
    import torch  # which takes seconds

    return bool(torch.cuda.is_available())


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _held_back() -> list[Finding]:
    """Return packages of versions with which nights have failed without a word."""
    found = []
    for package, (limit, why) in _LIMITS.items():
        has = _installed(package)
        parts = has.split(".")[:2]
        if all(part.isdecimal() for part in parts) and tuple(map(int, parts)) >= limit:
            below = ".".join(map(str, limit))
            remedy = f'{why} with it: `pip install "{package}<{below}"`.'
            found.append(Finding(package, has, remedy))
    return found
