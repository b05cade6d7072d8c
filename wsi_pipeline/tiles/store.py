"""`TileStore`: the tiles and scores of one slide, in zarr; `store_layout` has what lies where.

A shard's writer writes the data first and the shard's `state` last, each chunk as one file renamed
into place and flushed: a shard counts as done only by its state, so a process may be killed at any
moment and the next one goes on with the shards that were not committed.

The attributes hold all that decides the tiles and scores. A store answers only to the digest of
its slide and configuration (`tiling_digest`), its scores only to that of the bundle and how it ran
(`scoring_digest`). What has another digest is set aside under a name of its own, never mixed in and
never deleted. What is damaged raises a `DamagedStoreError`; `store_resume` mends it.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.tile_data import Measures, Scores, ShardPixels, TileState, TileTable
from wsi_pipeline.tiles.checked_arrays import CheckedArrays
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store_layout import (
    CELL_AREA,
    GRID,
    MEASURES,
    PIXELS,
    SCORES,
    STATE,
    grid_of,
    make_cell_area,
    make_per_tile,
    make_pixels,
    make_store,
)
from wsi_pipeline.tiles.store_place import (
    StorePath,
    exists,
    files,
    flush,
    move,
    remove,
    unused,
    zarr_store,
)


class TileStore:
    """The tiles and scores of one slide, in a folder or an object store.

    Threads, processes and machines may share a store as long as each shard has one writer at a
    time, or writers that write the same.

    Attributes:
        path: of the store.
        arrays: what it is made of.

    """

    def __init__(self, path: StorePath) -> None:
        """Open an existing store.

        Raises:
            DamagedStoreError: if there is none at `path`, it is damaged or of another version.
            StoreError: if its object store does not answer.

        """
        self.path = path
        self.arrays = CheckedArrays(path)
        self._known_state: NDArray[np.uint8] | None = None

    @classmethod
    def create(
        cls, path: StorePath, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]
    ) -> Self:
        """Create a store that appears under its name only when it is complete; see `make_store`."""
        partial = path.with_name(f".partial-{path.name}")
        remove(partial)
        make_store(partial, grid, tile_px=tile_px, tiling=tiling)
        flush(partial, files(partial))
        move(partial, path)
        return cls(path)

    def set_aside(self) -> StorePath:
        """Rename the store after its digest, out of the way of another; return its new path."""
        aside = unused(self.path.with_name(f"{self.path.stem}-{self.tiling_digest[:12]}.zarr"))
        move(self.path, aside)
        return aside

    @property
    def tiling(self) -> dict[str, Any]:
        """Identity of the slide and the whole tiling configuration."""
        return dict(self.arrays.attribute("tiling"))

    @property
    def tiling_digest(self) -> str:
        """Digest of `tiling`."""
        return self.arrays.digest("tiling_digest")

    @property
    def scoring(self) -> dict[str, Any] | None:
        """Bundle and configuration of the scores; None before any."""
        scoring = self.arrays.attribute("scoring")
        return None if scoring is None else dict(scoring)

    @property
    def scoring_digest(self) -> str | None:
        """Digest of `scoring`; None before any."""
        if self.arrays.attribute("scoring_digest") is None:
            return None
        return self.arrays.digest("scoring_digest")

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return int(self.arrays.attribute("tile_px"))

    @property
    def grid(self) -> TileGrid:
        """The grid that the store was made for.

        Raises:
            DamagedStoreError: if it is damaged.

        """
        columns = {name: self.arrays.read(name) for name in GRID}
        return grid_of(columns, self.arrays.attribute("grid"))

    def __len__(self) -> int:
        return int(self.arrays.array(STATE).shape[0])

    @property
    def shards(self) -> list[slice]:
        """The tiles of each shard."""
        per_shard = self._per_shard
        return [
            slice(start, min(start + per_shard, len(self)))
            for start in range(0, len(self), per_shard)
        ]

    def state(self, shard: slice) -> NDArray[np.uint8]:
        """`TileState` of each tile of a shard, as this process knows it."""
        return self._state[shard].copy()

    def committed_state(self, shard: slice) -> NDArray[np.uint8]:
        """`TileState` of each tile of a shard, as it is stored at this moment."""
        return np.asarray(self.arrays.read_or_fill(STATE, shard), np.uint8)

    def note(self, shard: slice, state: NDArray[np.uint8]) -> None:
        """Take over what another process says it has committed."""
        self._state[shard] = state

    def note_all(self, states: NDArray[np.uint8]) -> None:
        """Take over the states of all tiles as they are stored."""
        self._known_state = states

    @property
    def is_scored(self) -> bool:
        """Whether every tile has been scored or found unreadable."""
        return bool((self._state >= TileState.SCORED).all())

    @property
    def n_scored(self) -> int:
        """Number of tiles that have been scored."""
        return int((self._state == TileState.SCORED).sum())

    @property
    def n_unreadable(self) -> int:
        """Number of tiles that no reader could decode."""
        return int((self._state == TileState.UNREADABLE).sum())

    @property
    def has_room_for_pixels(self) -> bool:
        """Whether there is an array of pixels: they may be stored, and some may have been."""
        return PIXELS in self.arrays.attribute("arrays")

    def make_room_for_pixels(self) -> None:
        """Give the store an array of pixels if it has none. The caller is its only user."""
        if not self.has_room_for_pixels:
            make_pixels(self.arrays.group, len(self), self.tile_px, self._per_shard)
            self.arrays.register((PIXELS,))

    def have_pixels(self) -> NDArray[np.bool_]:
        """Return of which shards pixels are stored, bool [shards]."""
        if not self.has_room_for_pixels:
            return np.zeros(len(self.shards), np.bool_)
        return self.arrays.present(PIXELS, self.shards)

    def commit_pixels(self, shard: slice, pixels: ShardPixels, *, lasting: bool = False) -> None:
        """Store the pixels of a whole shard, after `make_room_for_pixels`.

        Tiles that have been scored stay so.

        Args:
            shard: the tiles.
            pixels: of all of them.
            lasting: whether all is flushed to the disk. What is dropped once it is scored need not
                be: the slide has it.

        """
        self.arrays.write(PIXELS, shard, pixels.rgb)
        self._write_measures(shard, pixels.measures)
        if lasting:
            self.arrays.flush((PIXELS, *MEASURES), shard)
        found = np.where(pixels.measures.readable, TileState.STORED, TileState.UNREADABLE)
        state = self._state[shard]
        self.mark(shard, np.where(state == TileState.SCORED, state, found), lasting=lasting)

    def read_pixels(self, shard: slice) -> NDArray[np.uint8]:
        """Read the pixels of a whole shard, uint8 [n, tile, tile, 3].

        Raises:
            DamagedStoreError: if they are damaged on disk, or gone.

        """
        if not self.has_room_for_pixels:
            raise DamagedStoreError(f"{self.path}: the pixels have been dropped.")
        return np.asarray(self.arrays.read(PIXELS, shard), np.uint8)

    def read_shard(self, shard: slice) -> ShardPixels:
        """Read all that tiling has stored of a shard; see `read_pixels`."""
        measures = Measures(
            blur=np.asarray(self.arrays.read("blur", shard), np.float32),
            pen=np.asarray(self.arrays.read("pen", shard), np.float32),
            readable=self.committed_state(shard) != TileState.UNREADABLE,
        )
        return ShardPixels(self.read_pixels(shard), measures)

    def begin_scoring(
        self, scoring: Mapping[str, Any], n_classes: int, *, squares: int | None = None
    ) -> None:
        """Make room for scores, or go on with those that came from the very same model and config.

        Scores of another model are kept in the group ``previous/<digest>``.

        Args:
            scoring: what they follow from.
            n_classes: of the model.
            squares: along a tile's side, of which areas of cells are stored; None for none.

        """
        digest = digest_of(scoring)
        if self.arrays.attribute("scoring_digest") == digest:
            return
        if self.arrays.attribute("scoring_digest") is not None:
            self.set_scores_aside()
        for shard in self.shards:
            # There is room for the scores of shards that are yet to come, and none is to be had.
            if (self._state[shard] == TileState.UNREADABLE).all():
                self.mark(shard, np.full(shard.stop - shard.start, TileState.PENDING))
        group = self.arrays.group
        for name in ("cellularity", "cellularity_std"):
            make_per_tile(group, name, (len(self),), self._per_shard)
        make_per_tile(group, "class_fraction", (len(self), n_classes), self._per_shard)
        names: tuple[str, ...] = SCORES
        if squares is not None:
            make_cell_area(group, len(self), squares, self._per_shard)
            names = (*SCORES, CELL_AREA)
        self.arrays.register(names, scoring=dict(scoring), scoring_digest=digest)

    @property
    def score_arrays(self) -> tuple[str, ...]:
        """Names of the arrays that hold scores; stores of earlier versions have no areas."""
        told = CELL_AREA in self.arrays.attribute("arrays")
        return (*SCORES, CELL_AREA) if told else SCORES

    def cell_area(self, shard: slice) -> NDArray[np.uint8] | None:
        """Read the areas of cells and tissue of a scored shard, as `Scores` has them.

        Returns:
            uint8 [n, 2, rows, columns], 0 where no tile is scored; None if none are stored.

        Raises:
            DamagedStoreError: if they are damaged on disk, or gone.

        """
        if CELL_AREA not in self.score_arrays:
            return None
        scored = (self._state[shard] == TileState.SCORED).any()
        read = self.arrays.read if scored else self.arrays.read_or_fill
        return np.asarray(read(CELL_AREA, shard), np.uint8)

    def commit_scores(
        self,
        shard: slice,
        measures: Measures,
        scores: Scores | None,
        *,
        rgb: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Store the scores of a shard, and with them what was measured of it.

        Args:
            shard: the tiles.
            measures: of all of them.
            scores: of those that are readable; None if none is.
            rgb: pixels of all of them, if they are to be kept and are not stored yet.

        Returns:
            its `TileState`, uint8 [n].

        """
        names: tuple[str, ...] = (*MEASURES, *self.score_arrays)
        if rgb is not None:
            self.arrays.write(PIXELS, shard, rgb)
            names = (PIXELS, *names)
        self._write_measures(shard, measures)
        self._write_scores(shard, measures.readable, scores)
        self.arrays.flush(names, shard)
        state = np.where(measures.readable, TileState.SCORED, TileState.UNREADABLE).astype(np.uint8)
        self.mark(shard, state)
        return state

    def drop_pixels(self) -> None:
        """Delete the pixels of a store and their array; they can be had again from the slide."""
        if self.has_room_for_pixels:
            self.arrays.unregister((PIXELS,))
        # Killed from here on, it leaves what the next one to open the store removes.
        remove(self.path / PIXELS)

    def table(self) -> TileTable:
        """Return all that is known of each tile.

        Raises:
            DamagedStoreError: if the store was deleted, damaged or changed since it was opened.

        """
        grid = self.grid
        read = self.arrays.read if self.is_scored else self.arrays.read_or_fill
        columns = {
            name: np.asarray(read(name, slice(0, len(self))), np.float32)
            for name in (*MEASURES, *SCORES)
        }
        scored = self._state == TileState.SCORED
        same = np.array_equal(self.committed_state(slice(None)), self._state)
        if not same or not np.isfinite(columns["cellularity"][scored]).all():
            raise self.arrays.broken("what was stored of its tiles is gone")
        for name in SCORES:  # a run may have been killed before it said that they are whole
            columns[name][~scored] = np.nan
        return TileTable(
            l0_xy=grid.l0_xy, m_xy=grid.m_xy, tissue=grid.tissue, inside=grid.inside, **columns
        )

    def mark(self, shard: slice, state: NDArray[Any], *, lasting: bool = True) -> None:
        """Commit the `TileState` of each tile of a shard, once all else of it is written."""
        self.arrays.write(STATE, shard, state.astype(np.uint8))
        if lasting:
            self.arrays.flush((STATE,), shard)
        # A worker of many commits shards without ever asking for the states of all.
        if self._known_state is not None:
            self._known_state[shard] = state

    def set_scores_aside(self) -> None:
        """Move scores to ``previous/`` and mark their tiles as not scored."""
        digest = self.arrays.digest("scoring_digest")
        aside = self.path / "previous" / digest[:12]
        for group, attributes in (
            ("previous", {}),
            (f"previous/{digest[:12]}", {"scoring": self.scoring, "scoring_digest": digest}),
        ):
            if not exists(self.path / group):
                zarr.create_group(zarr_store(self.path / group), attributes=attributes)
        # States first: after a kill in between, scores without a state are merely computed again.
        for shard in self.shards:
            state = self._state[shard]
            if (state == TileState.SCORED).any():
                self.mark(shard, np.where(state == TileState.SCORED, TileState.STORED, state))
        names = self.score_arrays
        self.arrays.forget(names)
        for name in names:
            source, target = self.path / name, aside / name
            if exists(source):
                remove(target)
                move(source, target)
        self.arrays.unregister(names, scoring=None, scoring_digest=None)

    def _write_measures(self, shard: slice, measures: Measures) -> None:
        self.arrays.write("blur", shard, measures.blur)
        self.arrays.write("pen", shard, measures.pen)

    def _write_scores(self, shard: slice, scored: NDArray[np.bool_], scores: Scores | None) -> None:
        for name in self.score_arrays:
            array = self.arrays.array(name)
            whole = np.full((len(scored), *array.shape[1:]), array.fill_value, array.dtype)
            if scores is not None and (values := getattr(scores, name)) is not None:
                whole[scored] = values
            self.arrays.write(name, shard, whole)

    @property
    def _per_shard(self) -> int:
        return int(self.arrays.array(STATE).chunks[0])

    @property
    def _state(self) -> NDArray[np.uint8]:
        if self._known_state is None:
            self._known_state = self.committed_state(slice(None))
        return self._known_state
