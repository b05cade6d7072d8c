"""Maps made by hand."""

import numpy as np

from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.maps import Maps
from wsi_pipeline.outputs.score_map import ScoreMap

CELL = 64.0
"""Side of a fine cell in level-0 pixels."""


def maps_of(cellularity, *, tissue=None, unread=None, mpp=0.5, cell=CELL, origin=(0, 0)) -> Maps:
    """Fine maps of some cellularity, all of it tissue and read unless said otherwise."""
    fine = ScoreMap(np.asarray(cellularity, np.float32), origin, cell, Mpp(mpp))
    rows, columns = fine.cellularity.shape
    return Maps(
        coarse=fine.coarsened(8),
        fine=fine,
        tissue=np.ones((rows, columns), np.float32) if tissue is None else np.float32(tissue),
        unread=np.zeros((rows, columns), bool) if unread is None else np.asarray(unread),
        l0_bounds=Box(*origin, round(columns * cell), round(rows * cell)),
    )
