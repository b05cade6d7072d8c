"""Coarse to fine: a small model scores every tile, and the large one those that it leaves open.

The small one may take its pixels at a lower resolution, since its card says at which: tiles are
shrunk to it. What it finds surely free of tumour, or surely full of it, keeps its score.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.bundle import ModelBundle, ModelCard
from wsi_pipeline.engine import CoarseConfig, Engine, EngineConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.execution import Execution
from wsi_pipeline.store import Scores


class CoarseToFine:
    """Two models in one; takes the place of an `Engine`.

    Attributes:
        bundle: the large model; `config` and `batch_size` are its own too.
        coarse: the small one.

    """

    def __init__(self, coarse: Engine, fine: Engine, thresholds: CoarseConfig) -> None:
        """Join two engines.

        Raises:
            ConfigError: if the models do not see the same piece of tissue.

        """
        _require_same_field(coarse.bundle.card, fine.bundle.card)
        self.coarse = coarse
        self._fine = fine
        self._thresholds = thresholds
        self._same_classes = _classes(coarse.bundle) == _classes(fine.bundle)
        first_pass = thresholds.first_pass(coarse.bundle, coarse.execution)
        self._execution = fine.execution.model_copy(update={"coarse": first_pass})

    @property
    def bundle(self) -> ModelBundle:
        """The large model."""
        return self._fine.bundle

    @property
    def config(self) -> EngineConfig:
        """How it was asked to run."""
        return self._fine.config

    @property
    def execution(self) -> Execution:
        """How both run."""
        return self._execution

    @property
    def batch_size(self) -> int:
        """Its tiles to a batch."""
        return self._fine.batch_size

    @property
    def busy_s(self) -> float:
        """Seconds that both spent in `predict` so far."""
        return self.coarse.busy_s + self._fine.busy_s

    def predict(self, rgb: NDArray[np.uint8]) -> Scores:
        """Score any number of tiles, uint8 [n, side, side, 3]: all coarsely, and some again."""
        first = self.coarse.predict(shrunk(rgb, self.coarse.bundle.card.tile_px))
        again = self._thresholds.leaves_open(first.cellularity)
        cellularity = first.cellularity.copy()
        deviation = np.full(len(rgb), np.nan, np.float32)
        fraction = np.full((len(rgb), len(_classes(self.bundle))), np.nan, np.float32)
        if self._same_classes:
            fraction[:] = first.class_fraction
        if again.any():
            second = self._fine.predict(rgb[again])
            cellularity[again] = second.cellularity
            deviation[again] = second.cellularity_std
            fraction[again] = second.class_fraction
        return Scores(
            cellularity=cellularity,
            cellularity_std=deviation,
            class_fraction=fraction,
            cellularity_coarse=first.cellularity,
        )


def shrunk(rgb: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Shrink tiles, uint8 [n, side, side, 3], to [n, side_px, side_px, 3] by averaging."""
    if rgb.shape[1] == side_px:
        return rgb
    small = np.empty((len(rgb), side_px, side_px, 3), np.uint8)
    for tile, target in zip(rgb, small, strict=True):
        cv2.resize(tile, (side_px, side_px), dst=target, interpolation=cv2.INTER_AREA)
    return small


def _classes(bundle: ModelBundle) -> tuple[str, ...]:
    return bundle.card.architecture.classes


def _require_same_field(coarse: ModelCard, fine: ModelCard) -> None:
    coarse_um, fine_um = (card.tile_px * card.mpp for card in (coarse, fine))
    if not np.isclose(coarse_um, fine_um) or coarse.tile_px > fine.tile_px:
        raise ConfigError(
            f"The coarse model {coarse.name} scores {coarse.tile_px} px at {coarse.mpp:g} µm/px, "
            f"{coarse_um:g} µm of tissue, and {fine.name} {fine.tile_px} px at {fine.mpp:g} µm/px, "
            f"{fine_um:g} µm. Take one that scores the same {fine_um:g} µm from no more pixels."
        )
