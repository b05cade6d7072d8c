"""How a model is run: as configured, and as this machine does it.

What decides scores besides the weights is an `Execution`; it belongs to their identity. torch takes
seconds to import, and a machine without a GPU may score without it: it is asked only about devices
that it alone knows.
"""

import ctypes
import logging
import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.digests import Sha256
from wsi_pipeline.engine.int8 import calibration
from wsi_pipeline.engine.openvino import import_openvino, openvino_is_installed
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.torch_extra import torch_at_hand, torch_version

log = logging.getLogger(__name__)

Runtime = Literal["torch", "openvino"]
"""The library that runs a model."""

Precision = Literal["float32", "bfloat16", "int8"]


class Execution(BaseModel):
    """How a model is run: on equal terms, equal tiles get equal scores but for rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """The kind of device: "cpu", "cuda" or "mps"."""
    runtime: Runtime
    precision: Precision
    graph: Sha256 | None = None
    """Digest of the graph in 8 bits, which weights and calibration make; None in other precisions,
    whose graphs follow from the bundle."""

    def __str__(self) -> str:
        return f"{self.device}, {self.runtime}, {self.precision}"


class EngineConfig(BaseModel):
    """How to run the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps"."""
    runtime: Literal["auto"] | Runtime = "auto"
    """The library that runs it; "auto" takes OpenVINO on a CPU, where it is installed."""
    precision: Literal["auto"] | Precision = "auto"
    """"auto" takes bfloat16 where the device multiplies it natively. float32 is the reference.
    "int8" is OpenVINO's, for bundles that `wsi quantise` has prepared."""
    batch_size: int | None = Field(default=None, ge=1)
    """Tiles to a batch; None chooses by device."""
    views: Literal[1, 8] = 1
    """8 averages over rotations and reflections, eight times as slow, and gives their deviation."""
    class_fractions: bool = True
    """Whether tiles get their shares of tissue classes; without, the decoder is not run."""


def execution_of(bundle: ModelBundle, config: EngineConfig) -> Execution:
    """Say how a model would be run on this machine.

    Raises:
        ConfigError: if it cannot be run here as configured.
        BundleError: if its graph in 8 bits is damaged or another bundle's.

    """
    return of_bundle(bundle, machine_execution(config))


def machine_execution(config: EngineConfig) -> Execution:
    """Say how this machine would run any model; a graph in 8 bits is the bundle's to say.

    Raises:
        ConfigError: if it cannot be run here as configured.

    """
    device = choose_device(config.device)
    runtime = config.runtime
    if runtime == "auto":
        for_openvino = kind_of(device) == "cpu" and openvino_is_installed()
        runtime = "openvino" if for_openvino else "torch"
    precision = choose_precision(device) if config.precision == "auto" else config.precision
    if runtime == "openvino":
        import_openvino()
        if kind_of(device) != "cpu":
            raise ConfigError(
                f"OpenVINO runs models on the CPU here, and not on {device}. Set `engine.runtime: "
                f"torch`, or `engine.device: cpu`."
            )
        if precision == "bfloat16" and choose_precision(device) != "bfloat16":
            raise ConfigError(
                "This CPU does not multiply bfloat16, and OpenVINO would run float32 instead. Set "
                "`engine.precision: auto`."
            )
    elif precision == "int8":
        raise ConfigError(
            "`engine.precision: int8` is for OpenVINO on a CPU: install `wsi-pipeline[openvino]` "
            "and set `engine.device: cpu`, or take another precision."
        )
    return Execution(device=kind_of(device), runtime=runtime, precision=precision)


def of_bundle(bundle: ModelBundle, execution: Execution) -> Execution:
    """Add the digest of the bundle's graph in 8 bits, if that is what runs.

    Raises:
        ConfigError: if there is none.
        BundleError: if it is damaged or another bundle's.

    """
    if execution.precision != "int8":
        return execution
    _, digest = calibration(bundle)
    return execution.model_copy(update={"graph": digest})


def choose_device(name: str) -> str:
    """Turn "auto" into the best device there is; any other name has to be a device's.

    Returns:
        its name as torch takes it, such as "cpu" or "cuda:1".

    Raises:
        ConfigError: if there is no such device, or torch is not installed, which knows it.

    """
    if name == "cpu" or (name == "auto" and not has_gpu_driver()):
        return "cpu"
    if name == "auto" and not torch_version():
        log.warning(
            "There may be a GPU here, but torch is not installed, and the CPU scores: "
            '`pip install "wsi-pipeline[torch]"`, or --device cpu.'
        )
        return "cpu"
    with torch_at_hand(f"The device {name!r}"):
        import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"There is no device {name!r} here ({reason}). Use --device cpu, or auto."
        ) from error
    return str(device)


def kind_of(device: str) -> str:
    """Return "cuda" for "cuda:1"."""
    return device.partition(":")[0]


def choose_precision(device: str) -> Literal["float32", "bfloat16"]:
    """Return bfloat16 where the device multiplies it natively; elsewhere it would be slower."""
    native = False
    if kind_of(device) == "cpu":
        native = bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())
    elif kind_of(device) == "cuda":
        import torch

        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def has_gpu_driver() -> bool:
    """Say whether there may be a GPU that torch can use: without a driver there is none."""
    if os.path.exists("/dev/kfd"):  # noqa: PTH110 - AMD's, a kernel file
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # NVIDIA's, by the name that CUDA looks for
    except OSError:
        return False
    return True


def _cpu_flags() -> frozenset[str]:
    if not os.path.exists("/proc/cpuinfo"):  # noqa: PTH110 - a kernel file, not a path of ours
        return frozenset()
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        flags = next((line for line in file if line.startswith("flags")), "")
    return frozenset(flags.split())
