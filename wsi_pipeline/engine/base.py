"""How a bundle is executed: one interface, and the choice of what runs behind it.

Pixels go to the device as uint8 and are normalised inside the graph. Every batch has the same
shape (the last one is filled up), so a tile meets the same kernels whoever its batch mates are:
scores do not depend on them, on the batch size beyond rounding, or on how tiles were read.

torch in float32 is the reference that all else is checked against.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.engine.device import choose_device, choose_precision, kind_of
from wsi_pipeline.engine.execution import Execution, Precision, Runtime
from wsi_pipeline.engine.graphs import calibration, import_openvino, openvino_is_installed
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.memory import enough_memory, require_memory
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.tile_data import Scores

CPU_BATCH, GPU_BATCH = 1, 64
"""Measured: on a CPU a batch of 4 takes 1.5 times as long for each tile, since its features leave
the caches; a GPU wants to be filled."""

LEAST_BYTES_PER_PIXEL = 15
"""What any network takes of memory for a pixel: as it comes, and as three float32. Features take
many times as much, which only trying can tell."""


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


class Engine(Protocol):
    """A model, ready to score tiles."""

    @property
    def bundle(self) -> ModelBundle:
        """The model."""
        ...

    @property
    def config(self) -> EngineConfig:
        """How it was asked to run."""
        ...

    @property
    def execution(self) -> Execution:
        """How it runs."""
        ...

    @property
    def batch_size(self) -> int:
        """Tiles to a batch."""
        ...

    @property
    def busy_s(self) -> float:
        """Seconds spent in `predict` so far."""
        ...

    def predict(self, rgb: NDArray[np.uint8]) -> Scores:
        """Score any number of tiles, uint8 [n, side, side, 3]."""
        ...


def build_engine(bundle: ModelBundle, config: EngineConfig) -> Engine:
    """Make a model ready on this machine.

    Raises:
        ConfigError: if it cannot be run here as configured.
        BundleError: if the bundle does not hold its network's weights, or they do not give scores.
        ShortOfMemoryError: if a batch takes more memory than there is.

    """
    # Here, since each knows this module; and torch, which takes seconds to import, is needed by its
    # own engine alone.
    engine: BatchEngine
    with enough_memory(f"{bundle.source}: running it"):
        if machine_execution(config).runtime == "openvino":
            from wsi_pipeline.engine.openvino_engine import OpenVinoEngine

            engine = OpenVinoEngine(bundle, config)
        else:
            from wsi_pipeline.engine.torch_engine import TorchEngine

            engine = TorchEngine(bundle, config)
        engine.try_out()
    return engine


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


class BatchOutput(NamedTuple):
    """What one batch gives."""

    score: NDArray[np.float32]
    """[batch]"""
    class_fraction: NDArray[np.float32] | None
    """[batch, classes]; None if unwanted or not to be had."""


class BatchEngine(ABC):
    """What all engines share: batches of one shape, the views of a tile, and their average."""

    def __init__(
        self, bundle: ModelBundle, config: EngineConfig, runtime: Runtime, batch_size: int
    ) -> None:
        self.bundle = bundle
        self.config = config
        machine = machine_execution(config.model_copy(update={"runtime": runtime}))
        self.execution = of_bundle(bundle, machine)
        self.batch_size = batch_size
        side = bundle.card.tile_px
        require_memory(
            f"{bundle.source}: a batch of {batch_size:,} tiles of {side} px",
            LEAST_BYTES_PER_PIXEL * batch_size * side**2,
        )
        self.busy_s = 0.0
        guided = bundle.card.architecture.segmentation_backbone is not None
        self._with_fractions = guided and config.class_fractions

    def predict(self, rgb: NDArray[np.uint8]) -> Scores:
        """Score any number of tiles, uint8 [n, side, side, 3].

        Raises:
            BundleError: if the model gives anything but scores and shares.
            ShortOfMemoryError: if a batch takes more memory than there is.

        """
        start = time.perf_counter()
        with enough_memory(f"{self.bundle.source}: scoring a batch of {self.batch_size:,} tiles"):
            outputs = list(self._run(self._batches(rgb)))
        n_tiles, views = len(rgb), self.config.views
        n_classes = len(self.bundle.card.architecture.classes)
        score = np.concatenate([output.score for output in outputs])
        score = score.reshape(views, -1)[:, :n_tiles]
        fraction = np.full((n_tiles, n_classes), np.nan, np.float32)
        fractions = [o.class_fraction for o in outputs if o.class_fraction is not None]
        if fractions:
            by_view = np.concatenate(fractions).reshape(views, -1, n_classes)
            fraction = by_view[:, :n_tiles].mean(0)
            _require_shares(fraction, "shares of classes", self.bundle)
        _require_shares(score, "scores", self.bundle)
        deviation = score.std(0) if views > 1 else np.full(n_tiles, np.nan, np.float32)
        self.busy_s += time.perf_counter() - start
        return Scores(
            cellularity=score.mean(0),
            cellularity_std=deviation,
            class_fraction=fraction,
        )

    def try_out(self) -> None:
        """Score a batch of noise: what cannot be run here shall fail before the first slide.

        Raises:
            BundleError: as `predict` does.

        """
        side = self.bundle.card.tile_px
        noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        (output,) = self._run([np.repeat(noise, self.batch_size, 0)])
        _require_shares(output.score, "scores", self.bundle)

    @abstractmethod
    def _run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterable[BatchOutput]:
        """Score full batches, uint8 [batch, side, side, 3], in their order."""

    def _batches(self, rgb: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Cut tiles into batches, view by view, the last of each view filled up."""
        for view in dihedral_views(rgb, self.config.views):
            for first in range(0, len(rgb), self.batch_size):
                batch = view[first : first + self.batch_size]
                if len(batch) < self.batch_size:
                    filler = np.zeros((self.batch_size - len(batch), *rgb.shape[1:]), np.uint8)
                    batch = np.concatenate([batch, filler])
                yield np.ascontiguousarray(batch)


def _require_shares(values: NDArray[np.float32], what: str, bundle: ModelBundle) -> None:
    """Raise if a model's outputs are not all within 0 to 1."""
    wrong = ~((values >= 0) & (values <= 1))  # of NaN, neither is true
    if wrong.any():
        raise BundleError(
            f"{bundle.source}: the model gives {what} that are none, such as {values[wrong][0]:g}: "
            f"its training diverged, or a file of it is damaged. Copy or export the bundle again."
        )


def dihedral_views(rgb: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Return the first `count` of tiles' rotations and reflections; [n, side, side, 3] each."""
    views = [
        np.rot90(flipped, turns, (1, 2)) for flipped in (rgb, rgb[:, :, ::-1]) for turns in range(4)
    ]
    return views[:count]
