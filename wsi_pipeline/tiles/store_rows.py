"""The scores of single tiles, where those beside them in their shard are not scored yet.

Whole shards are what a store is made for (`store.TileStore.commit_scores`). Here a shard's values
are read, changed and written again, its states last: killed in between, tiles are scored once more.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tile_data import Measures, Scores, TileState
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_layout import MEASURES


def commit_rows(
    store: TileStore, rows: NDArray[np.int64], measures: Measures, scores: Scores | None
) -> None:
    """Store the scores of some tiles, and what was measured of them; all others stay as they are.

    Args:
        store: after `begin_scoring`.
        rows: int64 [n], the tiles.
        measures: of the same tiles.
        scores: of those of them that are readable; None if none is.

    Raises:
        StoreError: if what is stored of their shards is damaged.

    """
    columns = _columns(store, measures, scores)
    found = np.where(measures.readable, TileState.SCORED, TileState.UNREADABLE)
    for shard in store.shards:
        mine = (rows >= shard.start) & (rows < shard.stop)
        if mine.any():
            _commit(store, shard, rows[mine] - shard.start, _of(columns, mine), found[mine])


def _commit(
    store: TileStore,
    shard: slice,
    at: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.generic]],
    found: NDArray[np.integer],
) -> None:
    state = store.state(shard)
    measured, scored = (state != TileState.PENDING).any(), (state == TileState.SCORED).any()
    for name, values in columns.items():
        if measured if name in MEASURES else scored:
            whole = np.array(store.arrays.read(name, shard))
        else:
            array = store.arrays.array(name)
            whole = np.full((len(state), *array.shape[1:]), array.fill_value, array.dtype)
        whole[at] = values
        store.arrays.write(name, shard, whole)
    store.arrays.flush(tuple(columns), shard)
    state[at] = found
    store.mark(shard, state)


def _columns(
    store: TileStore, measures: Measures, scores: Scores | None
) -> dict[str, NDArray[np.generic]]:
    """Return what is to be stored, by the array, a row for each tile."""
    columns: dict[str, NDArray[np.generic]] = {"blur": measures.blur, "pen": measures.pen}
    for name in store.score_arrays:
        array = store.arrays.array(name)
        shape = (len(measures.readable), *array.shape[1:])
        columns[name] = np.full(shape, array.fill_value, array.dtype)
        if scores is not None and (values := getattr(scores, name)) is not None:
            columns[name][measures.readable] = values
    return columns


def _of(
    columns: Mapping[str, NDArray[np.generic]], mine: NDArray[np.bool_]
) -> dict[str, NDArray[np.generic]]:
    return {name: values[mine] for name, values in columns.items()}
