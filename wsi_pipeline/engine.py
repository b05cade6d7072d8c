"""How a bundle is executed.

Pixels go to the device as uint8 and are normalised inside the graph. Every batch has the same
shape (the last one is filled up), so a tile meets the same kernels whoever its batch mates are:
scores do not depend on them, on the batch size beyond rounding, or on how tiles were read.
"""

import logging
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from wsi_pipeline.bundle import ModelBundle
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.network import Prediction
from wsi_pipeline.store import Scores

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

CPU_BATCH, GPU_BATCH = 1, 64
"""Measured: on a CPU a batch of 4 takes 1.5 times as long for each tile, since its features leave
the caches; a GPU wants to be filled."""


class EngineConfig(BaseModel):
    """How to run the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps"."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto" takes bfloat16 where the device multiplies it natively. float32 is the reference."""
    batch_size: int | None = Field(default=None, ge=1)
    """Tiles to a batch; None chooses by device."""
    views: Literal[1, 8] = 1
    """8 averages over rotations and reflections, eight times as slow, and gives their deviation."""


class TorchEngine:
    """A bundle's network on a device, run eagerly by torch.

    Attributes:
        device: where it runs.
        precision: "float32" or "bfloat16".
        batch_size: tiles to a batch.
        busy_s: seconds spent in `predict` so far.

    """

    def __init__(self, bundle: ModelBundle, config: EngineConfig) -> None:
        """Load the network onto its device.

        Raises:
            ConfigError: if the device is not there.
            BundleError: if the bundle does not hold its network's weights.

        """
        self.bundle = bundle
        self.config = config
        self.device = choose_device(config.device)
        self.precision: Precision = (
            choose_precision(self.device) if config.precision == "auto" else config.precision
        )
        default = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        self.batch_size = config.batch_size or default
        self.busy_s = 0.0
        self._network = bundle.network().to(self.device).eval()
        self._network = self._network.to(memory_format=torch.channels_last)

    def predict(self, rgb: NDArray[np.uint8]) -> Scores:
        """Score any number of tiles, uint8 [n, side, side, 3]."""
        start = time.perf_counter()
        batches = [
            self._predict_batch(rgb[first : first + self.batch_size])
            for first in range(0, len(rgb), self.batch_size)
        ]
        self.busy_s += time.perf_counter() - start
        return Scores(
            cellularity=np.concatenate([batch.cellularity for batch in batches]),
            cellularity_std=np.concatenate([batch.cellularity_std for batch in batches]),
            class_fraction=np.concatenate([batch.class_fraction for batch in batches]),
        )

    @torch.inference_mode()
    def _predict_batch(self, rgb: NDArray[np.uint8]) -> Scores:
        count = len(rgb)
        if count < self.batch_size:
            filler = np.zeros((self.batch_size - count, *rgb.shape[1:]), np.uint8)
            rgb = np.concatenate([rgb, filler])
        pixels = torch.from_numpy(rgb).to(self.device)
        scores, fractions = [], []
        for view in dihedral_views(pixels, self.config.views):
            with self._autocast():
                prediction: Prediction = self._network(view)
            scores.append(prediction.score.float())
            if prediction.logits is not None:
                fractions.append(class_fractions(prediction.logits))
        score = torch.stack(scores)
        n_classes = len(self.bundle.card.architecture.classes)
        unknown = torch.full((self.batch_size, n_classes), float("nan"))
        fraction = torch.stack(fractions).mean(0) if fractions else unknown
        deviation = score.std(0, correction=0) if len(scores) > 1 else score[0] * float("nan")
        return Scores(
            cellularity=score.mean(0)[:count].cpu().numpy(),
            cellularity_std=deviation[:count].cpu().numpy(),
            class_fraction=fraction[:count].cpu().numpy(),
        )

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def class_fractions(logits: Tensor) -> Tensor:
    """Return the share of each class among a tile's pixels, float32 [B, classes]."""
    classes = logits.shape[1]
    winner = torch.nn.functional.one_hot(logits.argmax(1), classes)
    return winner.float().mean((1, 2))


def dihedral_views(pixels: Tensor, count: int) -> list[Tensor]:
    """Return the first `count` of a batch's rotations and reflections; [B, side, side, 3] each."""
    views = [
        torch.rot90(flipped, turns, (1, 2))
        for flipped in (pixels, pixels.flip(2))
        for turns in range(4)
    ]
    return views[:count]


def choose_device(name: str) -> torch.device:
    """Turn "auto" into the best device there is, and any other name into that device.

    Raises:
        ConfigError: if there is no such device.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"There is no device {name!r} here ({reason}). Use --device cpu, or auto."
        ) from error
    return device


def choose_precision(device: torch.device) -> Precision:
    """Return bfloat16 where the device multiplies it natively; elsewhere it would be slower."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and {"avx512_bf16", "amx_bf16"} & _cpu_flags():
        return "bfloat16"
    return "float32"


def _cpu_flags() -> frozenset[str]:
    if not os.path.exists("/proc/cpuinfo"):  # noqa: PTH110 - a kernel file, not a path of ours
        return frozenset()
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        flags = next((line for line in file if line.startswith("flags")), "")
    return frozenset(flags.split())
