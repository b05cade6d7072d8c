"""A bundle run by torch: the reference in float32 on a CPU, and the engine of GPUs.

On a GPU a batch is one CUDA graph, so that no kernel waits for Python to launch it, and the pixels
of the next batch travel while this one is computed.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_pipeline.engine.base import CPU_BATCH, GPU_BATCH, BatchEngine, BatchOutput
from wsi_pipeline.engine.execution import EngineConfig, choose_device
from wsi_pipeline.machine import threads
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.network import Prediction, graph_outputs

log = logging.getLogger(__name__)

Outputs = tuple[Tensor, ...]
"""As `wsi_pipeline.model.network.graph_outputs` gives them."""


class TorchEngine(BatchEngine):
    """A bundle's network on a device."""

    def __init__(self, bundle: ModelBundle, config: EngineConfig) -> None:
        """Load the network onto its device.

        Raises:
            ConfigError: if the device is not there.
            BundleError: if the bundle does not hold its network's weights.

        """
        self.device = torch.device(choose_device(config.device))
        if self.device.type == "cpu" and (own := threads()):
            torch.set_num_threads(own)
        default = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        super().__init__(bundle, config, "torch", config.batch_size or default)
        self._network = bundle.network().to(self.device).eval()
        self._network = self._network.to(memory_format=torch.channels_last)
        self._on_gpu: GpuBatches | None = None

    @torch.inference_mode()
    def _run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[BatchOutput]:
        run = self._score_on_gpu if self.device.type == "cuda" else self._score_at_once
        for outputs in list(map(run, batches)):
            yield BatchOutput(*(output.cpu().numpy() for output in outputs))

    def _score_at_once(self, batch: NDArray[np.uint8]) -> Outputs:
        return self.score_pixels(torch.from_numpy(batch).to(self.device))

    def _score_on_gpu(self, batch: NDArray[np.uint8]) -> Outputs:
        if self._on_gpu is None or self._on_gpu.shape != batch.shape:
            self._on_gpu = GpuBatches(self.score_pixels, batch.shape, self.device)
        return self._on_gpu.score(batch)

    def score_pixels(self, pixels: Tensor) -> Outputs:
        """Score a batch that is on the device, uint8 [batch, side, side, 3]."""
        with self._autocast():
            prediction: Prediction = self._network(pixels, with_segmentation=self._with_fractions)
        return graph_outputs(prediction)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.execution.precision == "float32":
            return nullcontext()
        # No cache: a CUDA graph must not use what another run has computed.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)


class GpuBatches:
    """Batches of one shape on a GPU: copied ahead on a stream of their own, scored by a CUDA graph.

    Attributes:
        shape: of a batch, [batch, side, side, 3].

    """

    def __init__(
        self, score: Callable[[Tensor], Outputs], shape: tuple[int, ...], device: torch.device
    ) -> None:
        """Capture the graph; where that fails, kernels are launched one by one."""
        self.shape = shape
        self._score = score
        self._device = device
        self._count = 0
        with torch.cuda.device(device):
            self._pinned = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in "ab"]
            self._arriving = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in "ab"]
            self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
            self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._arrived = [torch.cuda.Event() for _ in "ab"]  # type: ignore[no-untyped-call]
            self._taken = [torch.cuda.Event() for _ in "ab"]  # type: ignore[no-untyped-call]
            self._graph: torch.cuda.CUDAGraph | None = torch.cuda.CUDAGraph()
            try:
                self._outputs = self._captured(self._graph)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                log.warning("The model runs without a CUDA graph, which failed: %s", reason)
                self._graph = None

    @property
    def is_captured(self) -> bool:
        """Whether batches are one CUDA graph, and not kernels launched one by one."""
        return self._graph is not None

    def score(self, batch: NDArray[np.uint8]) -> Outputs:
        """Queue a batch; the outputs are on the device, and there when they are copied from it."""
        slot = self._count % 2
        self._count += 1
        with torch.cuda.device(self._device):
            scoring = torch.cuda.current_stream()
            self._arrived[slot].synchronize()  # the batch before the last has left pinned memory
            self._pinned[slot].copy_(torch.from_numpy(batch))
            with torch.cuda.stream(self._copying):
                self._copying.wait_event(self._taken[slot])
                self._arriving[slot].copy_(self._pinned[slot], non_blocking=True)
                self._arrived[slot].record(self._copying)
            scoring.wait_event(self._arrived[slot])
            self._pixels.copy_(self._arriving[slot])
            self._taken[slot].record(scoring)
            if self._graph is None:
                return self._score(self._pixels)
            self._graph.replay()
            return tuple(output.clone() for output in self._outputs)

    def _captured(self, graph: torch.cuda.CUDAGraph) -> Outputs:
        """Run the model a few times, as capturing demands, and capture it."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._score(self._pixels)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            return self._score(self._pixels)
