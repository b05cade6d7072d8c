"""What all engines do with what a model gives, whatever runs it."""

import numpy as np
import pytest

from wsi_pipeline.engine.base import BatchEngine, BatchOutput
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.bundle import ModelBundle

SQUARE = 32


class Brightness(BatchEngine):
    """Gives the mean of red as its score, and of each square red as cells and green as tissue."""

    factor = 1.0

    def _run(self, batches):
        for batch in batches:
            share = self.factor * batch.astype(np.float32) / 255
            count, side = share.shape[:2]
            blocks = share.reshape(count, side // SQUARE, SQUARE, side // SQUARE, SQUARE, 3)
            areas = blocks.mean(axis=(2, 4)).transpose(0, 3, 1, 2)[:, :2]
            classes = np.full((count, 4), 0.25, np.float32)
            yield BatchOutput(share[..., 0].mean(axis=(1, 2)) / self.factor, classes, areas)


def engine(tiny_bundle, **changes) -> Brightness:
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", **changes)
    return Brightness(ModelBundle.load(tiny_bundle), config, "torch", 2)


@pytest.fixture
def tiles():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("views", [1, 8])
def test_areas_of_turned_views_are_turned_back(tiny_bundle, tiles, views):
    scores = engine(tiny_bundle, views=views).predict(tiles)
    blocks = tiles.reshape(5, 2, SQUARE, 2, SQUARE, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    assert scores.cell_area.dtype == np.uint8
    assert np.abs(scores.cell_area.astype(float) - blocks[:, :2]).max() <= 0.51


def test_without_class_fractions_there_are_no_areas(tiny_bundle, tiles):
    assert engine(tiny_bundle, class_fractions=False).predict(tiles).cell_area is None


def test_areas_that_are_no_numbers_are_refused(tiny_bundle, tiles):
    broken = engine(tiny_bundle)
    broken.factor = np.nan
    with pytest.raises(BundleError, match=r"gives .* that are none"):
        broken.predict(tiles)
