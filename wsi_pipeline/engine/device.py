"""Which device runs a model, and in which precision it does so natively.

torch takes seconds to import, and a machine without a GPU may score without it: it is asked only
about devices that it alone knows.
"""

import ctypes
import os
from typing import Literal

from wsi_pipeline.errors import ConfigError


def choose_device(name: str) -> str:
    """Turn "auto" into the best device there is; any other name has to be a device's.

    Returns:
        its name as torch takes it, such as "cpu" or "cuda:1".

    Raises:
        ConfigError: if there is no such device.

    """
    if name == "cpu" or (name == "auto" and not has_gpu_driver()):
        return "cpu"
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
