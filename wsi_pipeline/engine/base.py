"""What an engine is: one interface, and what all that run a model share.

Pixels go to the device as uint8 and are normalised inside the graph. Every batch has the same
shape (the last one is filled up), so a tile meets the same kernels whoever its batch mates are:
scores do not depend on them, on the batch size beyond rounding, or on how tiles were read.

torch in float32 is the reference that all else is checked against.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.execution import (
    EngineConfig,
    Execution,
    Runtime,
    machine_execution,
    of_bundle,
)
from wsi_pipeline.errors import BundleError
from wsi_pipeline.memory import enough_memory, require_memory
from wsi_pipeline.model.architecture import SQUARE_PX
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.tile_data import Scores

CPU_BATCH, GPU_BATCH = 1, 64
"""Measured: on a CPU a batch of 4 takes 1.5 times as long for each tile, since its features leave
the caches; a GPU wants to be filled."""

_TURNS = 4

LEAST_BYTES_PER_PIXEL = 15
"""What any network takes of memory for a pixel: as it comes, and as three float32. Features take
many times as much, which only trying can tell."""


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


class BatchOutput(NamedTuple):
    """What one batch gives."""

    score: NDArray[np.float32]
    """[batch]"""
    class_fraction: NDArray[np.float32] | None = None
    """[batch, classes]; None if unwanted or not to be had."""
    areas: NDArray[np.float32] | None = None
    """[batch, 2, rows, columns]; see `wsi_pipeline.tile_data.Scores.cell_area`."""


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
        architecture = bundle.card.architecture
        guided = architecture.segmentation_backbone is not None
        self._with_fractions = guided and config.class_fractions
        self._with_areas = self._with_fractions and architecture.tells_areas

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
        cell_area = None
        if self._with_areas:
            areas = np.concatenate([o.areas for o in outputs if o.areas is not None])
            cell_area = self._in_255ths(areas.reshape(views, -1, *areas.shape[1:])[:, :n_tiles])
        deviation = score.std(0) if views > 1 else np.full(n_tiles, np.nan, np.float32)
        self.busy_s += time.perf_counter() - start
        return Scores(
            cellularity=score.mean(0),
            cellularity_std=deviation,
            class_fraction=fraction,
            cell_area=cell_area,
        )

    def _in_255ths(self, areas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Average areas over views, float32 [views, n, 2, rows, columns], each turned back."""
        turned_back = [
            np.rot90(view, -number, (2, 3))
            if number < _TURNS
            else np.rot90(view, -number, (2, 3))[..., ::-1]
            for number, view in enumerate(areas)
        ]
        mean = np.clip(np.mean(turned_back, axis=0), 0, 1)
        _require_shares(mean, "areas of cells", self.bundle)
        return np.asarray(np.rint(255 * mean), np.uint8)

    def _output_shapes(self) -> list[list[int]]:
        """Return the shapes of what a graph has to give for a batch."""
        card, batch = self.bundle.card, self.batch_size
        shapes = [[batch]]
        if self._with_fractions:
            shapes.append([batch, len(card.architecture.classes)])
        if self._with_areas:
            shapes.append([batch, 2, *2 * [card.tile_px // SQUARE_PX]])
        return shapes

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
        np.rot90(flipped, turns, (1, 2))
        for flipped in (rgb, rgb[:, :, ::-1])
        for turns in range(_TURNS)
    ]
    return views[:count]
