"""A bundle run by torch: the reference in float32 on a CPU, and the engine of GPUs."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_pipeline.bundle import ModelBundle
from wsi_pipeline.engine import (
    CPU_BATCH,
    GPU_BATCH,
    BatchEngine,
    BatchOutput,
    EngineConfig,
    choose_device,
    execution_of,
)
from wsi_pipeline.network import Prediction


class TorchEngine(BatchEngine):
    """A bundle's network on a device, run eagerly by torch."""

    def __init__(self, bundle: ModelBundle, config: EngineConfig) -> None:
        """Load the network onto its device.

        Raises:
            ConfigError: if the device is not there.
            BundleError: if the bundle does not hold its network's weights.

        """
        self.device = choose_device(config.device)
        default = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        execution = execution_of(bundle, config.model_copy(update={"runtime": "torch"}))
        super().__init__(bundle, config, execution, config.batch_size or default)
        self._network = bundle.network().to(self.device).eval()
        self._network = self._network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def _run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[BatchOutput]:
        for batch in batches:
            score, fraction = self._score(torch.from_numpy(batch).to(self.device))
            yield BatchOutput(
                score.cpu().numpy(), None if fraction is None else fraction.cpu().numpy()
            )

    def _score(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        with self._autocast():
            prediction: Prediction = self._network(pixels, with_segmentation=self._with_fractions)
        logits = prediction.logits
        return prediction.score.float(), None if logits is None else class_fractions(logits)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.execution.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def class_fractions(logits: Tensor) -> Tensor:
    """Return the share of each class among a tile's pixels, float32 [B, classes]."""
    classes = logits.shape[1]
    winner = torch.nn.functional.one_hot(logits.argmax(1), classes)
    return winner.float().mean((1, 2))
