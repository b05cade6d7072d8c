"""A store that an earlier run has left is gone on with: mended, or set aside and made anew.

The grid's arrays are written again, shards whose values are damaged are read or scored once more,
and a store that cannot be mended is renamed, never deleted.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.files import refuse_odd_files
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_layout import (
    GRID,
    MEASURES,
    PIXELS,
    STATE,
    grid_digest,
    write_grid,
)
from wsi_pipeline.tiles.store_place import StorePath, answering, exists, move, remove, unused

log = logging.getLogger(__name__)


def create_or_resume(
    path: StorePath, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]
) -> TileStore:
    """Open a store if it is of this slide and configuration; else set it aside, make a new one.

    What is damaged is mended, or set aside too. The caller is the store's only user.

    Args:
        path: of the store.
        grid: the slide's tiles.
        tile_px: side of a tile in pixels.
        tiling: identity of the slide and the whole tiling configuration.

    Raises:
        StoreError: if the object store does not answer.
        OutputError: if links or pipes lie where the store belongs.

    """
    with answering(path):
        if isinstance(path, Path):
            refuse_odd_files(path.parent)
        if exists(path):
            try:
                store = TileStore(path)
                if store.tiling_digest == digest_of(tiling):
                    _heal(store, grid)
                    return store
                store.set_aside()
            except DamagedStoreError as error:
                _set_aside_unusable(path, str(error))
        elif isinstance(path, Path) and path.exists():
            # Zarr makes missing folders anew: a store that is deleted under it leaves this.
            _set_aside_unusable(path, f"{path}: the store is damaged (it has no metadata).")
        return TileStore.create(path, grid, tile_px=tile_px, tiling=tiling)


def _heal(store: TileStore, grid: TileGrid) -> None:
    """Make good what is damaged, or mark its shards as yet to be done.

    Raises:
        DamagedStoreError: if there is nothing to be made good.

    """
    _sweep(store)
    _heal_grid(store, grid)
    for name in (STATE, *MEASURES):
        store.arrays.array(name)
    if _has_scores(store) and not all(map(store.arrays.opens, store.score_arrays)):
        log.warning("%s: scores are damaged, and set aside; tiles are scored again", store.path)
        store.set_scores_aside()
    if store.has_room_for_pixels and not store.arrays.opens(PIXELS):
        log.warning("%s: the pixels are damaged, and read from the slide again", store.path)
        store.drop_pixels()
    _heal_shards(store)


def _sweep(store: TileStore) -> None:
    """Remove what killed processes have left: files in the making, and pixels half dropped."""
    if isinstance(store.path, Path):
        for leftover in store.path.rglob("*.partial"):
            leftover.unlink()
    if not store.has_room_for_pixels:
        remove(store.path / PIXELS)


def _heal_grid(store: TileStore, grid: TileGrid) -> None:
    try:
        _ = store.grid
    except DamagedStoreError as error:
        if store.arrays.attribute("grid_digest") != grid_digest(grid):
            raise
        log.warning("%s It is made again from the slide.", error)
        write_grid(store.arrays.group, grid)
        store.arrays.register(GRID)


def _heal_shards(store: TileStore) -> None:
    """Mark shards as pending, or as waiting for scores, whose values are not what they were."""
    shards = store.shards
    # A state that is not there is sound: nothing of its shard was committed.
    named = store.arrays.sound(STATE, shards)
    measured = _whole(store, MEASURES)
    scored = (
        _whole(store, store.score_arrays) if _has_scores(store) else np.ones(len(shards), np.bool_)
    )
    states = np.full(len(store), TileState.PENDING, np.uint8)
    for number, shard in enumerate(shards):
        state = store.committed_state(shard) if named[number] else states[shard]
        healed = _healed(state, measured=measured[number], scored=scored[number])
        states[shard] = healed
        if not named[number] or not np.array_equal(healed, state):
            store.mark(shard, healed)
            log.warning(
                "%s: what was stored of tiles %d to %d is damaged or lost; they are done again",
                store.path,
                shard.start,
                shard.stop - 1,
            )
    store.note_all(states)


def _whole(store: TileStore, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return of which shards all of some arrays is there and sound, bool [shards]."""
    whole = np.ones(len(store.shards), np.bool_)
    for name in names:
        whole &= store.arrays.present(name, store.shards) & store.arrays.sound(name, store.shards)
    return whole


def _healed(state: NDArray[np.uint8], *, measured: np.bool_, scored: np.bool_) -> NDArray[np.uint8]:
    """Return what is true of a shard, given whether what was measured and scored is sound."""
    none = (state == TileState.PENDING).all()
    # Single tiles may have been scored, by `store_rows`.
    has_scores = (state >= TileState.SCORED).all() or (state == TileState.SCORED).any()
    if none or (measured and (scored or not has_scores)):
        return state
    if measured and (state == TileState.SCORED).any():
        return np.where(state == TileState.SCORED, TileState.STORED, state).astype(np.uint8)
    return np.full_like(state, TileState.PENDING)


def _has_scores(store: TileStore) -> bool:
    return store.arrays.attribute("scoring_digest") is not None


def _set_aside_unusable(path: StorePath, why: str) -> None:
    aside = unused(path.with_name(f"{path.stem}-unusable.zarr"))
    move(path, aside)
    log.warning("%s It is set aside as %s, and the slide is scored anew.", why, aside.name)
