"""A bundle run by OpenVINO, the engine of CPUs.

Several tiles are scored side by side, each by a share of the cores, which then wait for each other
less often than where all work on one tile.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.base import CPU_BATCH, BatchEngine, BatchOutput
from wsi_pipeline.engine.execution import EngineConfig, Precision
from wsi_pipeline.engine.float32 import exported
from wsi_pipeline.engine.graphs import Graph
from wsi_pipeline.engine.int8 import quantised
from wsi_pipeline.engine.openvino import core, import_openvino
from wsi_pipeline.errors import BundleError
from wsi_pipeline.machine import threads
from wsi_pipeline.memory import is_about_memory
from wsi_pipeline.model.bundle import ModelBundle

_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""What is left to choose of a graph: in 8 bits, for the layers that were not quantised."""


class OpenVinoEngine(BatchEngine):
    """A bundle's graph on the CPU."""

    def __init__(
        self, bundle: ModelBundle, config: EngineConfig, graph: Graph | None = None
    ) -> None:
        """Load the graph, exporting it at the first time.

        Args:
            bundle: the model.
            config: how to run it.
            graph: run in place of the bundle's own: one on trial.

        Raises:
            ConfigError: if OpenVINO is not installed, the precision is not for this CPU, or the
                bundle was not quantised to it.
            BundleError: if the bundle does not hold its network's weights, or its quantised graph
                is damaged or another bundle's.

        """
        super().__init__(bundle, config, "openvino", config.batch_size or CPU_BATCH)
        if graph is None:
            in_8_bits = self.execution.precision == "int8"
            graph = quantised(bundle) if in_8_bits else exported(bundle)
        try:
            self._queue = self._start(graph)
        except RuntimeError as error:
            if is_about_memory(error):
                raise
            raise BundleError(
                f"{bundle.source}: OpenVINO cannot run its graph ({str(error).splitlines()[0]}). "
                f"Make it again with `wsi quantise`, or set `engine.precision: auto`."
            ) from error

    def _run(self, batches: Iterable[NDArray[np.uint8]]) -> list[BatchOutput]:
        outputs: dict[int, BatchOutput] = {}

        def keep(request: Any, index: int) -> None:  # noqa: ANN401
            outputs[index] = BatchOutput(*(t.data.copy() for t in request.output_tensors))

        self._queue.set_callback(keep)
        for index, batch in enumerate(batches):
            self._queue.start_async({0: batch}, index)
        self._queue.wait_all()
        return [outputs[index] for index in range(len(outputs))]

    def _start(self, graph: Graph) -> Any:  # noqa: ANN401
        openvino = import_openvino()
        side = self.bundle.card.tile_px
        model = graph.model()
        _require_finite(model)
        model.reshape([self.batch_size, side, side, 3])
        if not self._with_fractions:
            model = openvino.Model([model.get_results()[0]], model.get_parameters())
        compiled = core().compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": _HINTS[self.execution.precision],
                "INFERENCE_NUM_THREADS": threads() or 0,  # 0 is one to each core
                "ENABLE_HYPER_THREADING": False,
                # Threads that read the slide want the same cores now and then.
                "ENABLE_CPU_PINNING": False,
            },
        )
        expected = self._output_shapes()
        if (gives := [list(output.shape) for output in compiled.outputs]) != expected:
            raise RuntimeError(f"it gives {gives} instead of {expected}")
        return openvino.AsyncInferQueue(compiled)


def _require_finite(model: Any) -> None:  # noqa: ANN401
    """Raise if a graph holds infinities or no numbers, which the layers behind them may hide."""
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant":
            values = operation.data
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise RuntimeError(f"{operation.get_friendly_name()} is not finite")
