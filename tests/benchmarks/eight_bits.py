"""Bundles in 8 bits for timing, also of random weights, which `wsi quantise` refuses."""

from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.int8 import Calibration, keep_quantised
from wsi_pipeline.engine.quantise import MAX_MEAN_ERROR, quantise
from wsi_pipeline.model.bundle import ModelBundle

CALIBRATED_ON = 24
"""Tiles that are enough for the ranges of a benchmark."""


def keep_in_8_bits(
    bundle: ModelBundle, tiles: NDArray[np.uint8], *, slides: int, trained: bool
) -> Calibration:
    """Quantise a bundle and put the graph beside it; random weights whatever it costs.

    They pass rounding on like noise, and take as long as any others.

    Raises:
        BundleError: if scores of trained weights suffer too much.

    """
    limit = MAX_MEAN_ERROR if trained else float("inf")
    with patch("wsi_pipeline.engine.quantise.MAX_MEAN_ERROR", limit):
        graph, cost = quantise(bundle, tiles, slides=slides, seed=0)
    keep_quantised(bundle, graph, cost)
    return cost
