"""What a run tells of itself while it goes on: metrics in JSON lines and for TensorBoard."""

import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wsi_pipeline.files import atomic_path

log = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
ENVIRONMENT_NAME = "environment.json"
TENSORBOARD_NAME = "tensorboard"

Metrics = dict[str, float]

_PACKAGES = ("wsi-pipeline", "torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy")


class Record:
    """A run's metrics, a line and a set of TensorBoard scalars for each epoch.

    What an earlier process recorded beyond the epoch that the run goes back to is dropped.
    """

    def __init__(self, run: Path, done: int) -> None:
        self.path = run / METRICS_NAME
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if done else []
        with atomic_path(self.path) as partial:
            partial.write_text("".join(lines[:done]), encoding="utf-8")
        self.tensorboard = SummaryWriter(run / TENSORBOARD_NAME, purge_step=done + 1)

    def add(self, epoch: int, metrics: Metrics) -> None:
        """Record an epoch; they are counted from 1."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, epoch)
        self.tensorboard.flush()
        words = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("epoch %d: %s", epoch, words)

    def draw(self, epoch: int, picture: Tensor) -> None:
        """Show a picture of predictions in TensorBoard, uint8 [3, H, W]."""
        self.tensorboard.add_image("predictions", picture, epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.tensorboard.close()


def save_environment(run: Path, device: torch.device, processes: int) -> None:
    """Save what the run's figures may depend on beside its configuration.

    A run that goes on elsewhere says what has changed.
    """
    path = run / ENVIRONMENT_NAME
    now = _environment(device, processes)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
    for name in now:
        if before.get(name) != now[name]:
            log.warning("the run began with %s %s, not %s", name, before.get(name), now[name])
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


def _environment(device: torch.device, processes: int) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "cuda": torch.version.cuda if on_gpu else None,
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "processes": processes,
        "threads": torch.get_num_threads(),
    }
