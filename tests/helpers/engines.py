"""What every engine has to keep to, whatever runs its model."""

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.base import Engine


def assert_batch_mates_do_not_matter(engine: Engine, again: Engine, tiles: NDArray[np.uint8]):
    """To the last bit: a resumed run meets other batches than an uninterrupted one.

    Args:
        engine: the engine.
        again: the same, started once more.
        tiles: six or more.

    """
    whole = engine.predict(tiles)
    order = np.random.default_rng(0).permutation(len(tiles))
    shuffled = engine.predict(tiles[order])
    np.testing.assert_array_equal(shuffled.cellularity, whole.cellularity[order])
    np.testing.assert_array_equal(shuffled.class_fraction, whole.class_fraction[order])
    np.testing.assert_array_equal(shuffled.cell_area, whole.cell_area[order])
    alone = again.predict(tiles[5:6])
    np.testing.assert_array_equal(alone.cellularity, whole.cellularity[5:6])
    np.testing.assert_array_equal(alone.cell_area, whole.cell_area[5:6])
