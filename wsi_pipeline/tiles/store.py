"""`TileStore`: the zarr v3 store of one slide's tiles and scores.

Layout (N tissue tiles; S of them make a shard, the unit of work)::

    rgb             uint8   [N, tile, tile, 3]   only while pixels are kept
    l0_xy           int64   [N, 2]               corner, level-0 pixels
    m_xy            int32   [N, 2]               (column, row) in the score map
    tissue, inside  float32 [N]                  shares of the tile's area
    blur, pen       float32 [N]                  quality measures of the pixels
    cellularity     float32 [N]                  NaN is "not scored"
    cellularity_std float32 [N]                  NaN unless several views were scored
    class_fraction  float32 [N, classes]
    state           uint8   [N]                  see `TileState`

A shard's writer writes the data first and the shard's `state` last, each chunk as one file renamed
into place and flushed: a shard counts as done only by its state, so a process may be killed at any
moment and the next one goes on with the shards that were not committed.

**Nothing that is damaged is believed.** Every chunk carries a CRC-32C. A chunk that is missing, and
should be there by its shard's state, is damage, although zarr would read fill values. The root's
attributes carry a digest of themselves and of each array's metadata. `TileStore.create_or_resume`
heals: the grid's arrays are written again, shards whose values are damaged are read or scored once
more, and a store that cannot be mended is set aside and made anew. Whoever else meets damage raises
a `DamagedStoreError`.

The attributes hold all that decides the tiles and scores. A store answers only to the digest of
its slide and configuration (`tiling_digest`), its scores only to that of the bundle and how it ran
(`scoring_digest`). What has another digest is set aside under a name of its own, never mixed in and
never deleted.

**Pixel codec.** Blosc LZ4 with a CRC-32C of each chunk of 16 tiles, measured on 128 real H&E tiles
at 0.5 µm/px, one core, ms of CPU a tile (`tests/benchmarks/codec.py` repeats it):

================= ===== ==== ================
tiles to a chunk  write read one tile of many
================= ===== ==== ================
1                 2.0   0.8  1.3
8                 1.2   0.8  3.9
16                1.0   0.5  5.0
32                0.8   0.4  9.9
64                0.9   0.8  45
================= ===== ==== ================

LZ4 costs no more than writing raw bytes, since fewer have to move (0.75 of them); zstd's are fewer
by a tenth, at level 1, and take twice the time to write. Lossy codecs are out: a score must not
depend on whether its pixels came by way of the store.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from wsi_pipeline.digests import digest_of, is_sha256
from wsi_pipeline.errors import ConfigError, DamagedStoreError
from wsi_pipeline.files import refuse_odd_files
from wsi_pipeline.geometry import Size
from wsi_pipeline.tile_data import Measures, Scores, ShardPixels, TileState, TileTable
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store_place import (
    ROOT_METADATA,
    StorePath,
    answering,
    exists,
    files,
    flush,
    move,
    remove,
    store_path,
    unused,
    zarr_store,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION = 3

MAX_SHARD_TILES = 64
MIN_SHARD_TILES = 8
WANTED_SHARDS = 16
"""Small slides get small shards, so that reading and scoring can still overlap."""

CHUNK_TILES = 16
"""Tiles to a chunk of pixels, at most: enough for zarr to write quickly, few for who wants one."""

NAME = "tiles.zarr"

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

_PIXELS = "rgb"
_GRID = ("l0_xy", "m_xy", "tissue", "inside")
_MEASURES = ("blur", "pen")
_SCORES = ("cellularity", "cellularity_std", "class_fraction")


class StoreConfig(BaseModel):
    """Where tiles are kept while a slide is being scored, and scores for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    root: str | None = None
    """A folder or fsspec URL that gets one folder per slide; None is the output folder. Give each
    output folder a root of its own: its lock guards the stores too."""

    pixels: bool = True
    """Whether pixels are stored until they are scored, so that a run that is killed need not read
    them again. With `keep_tiles` they are stored in any case."""

    @field_validator("root")
    @classmethod
    def _without_credentials(cls, root: str | None) -> str | None:
        if root is not None:
            try:
                store_path(root)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return root

    def path(self, folder: Path) -> StorePath:
        """Return where the store of a slide is, given its folder of outputs.

        Raises:
            ConfigError: if the root cannot be used.

        """
        return folder / NAME if self.root is None else store_path(self.root) / folder.name / NAME


def shard_tiles(n_tiles: int) -> int:
    """Tiles to a shard: a power of two that gives small slides several shards."""
    wanted = max(1, n_tiles // WANTED_SHARDS)
    return min(MAX_SHARD_TILES, max(MIN_SHARD_TILES, 1 << (wanted.bit_length() - 1)))


class TileStore:
    """The tiles and scores of one slide, in a folder or an object store.

    Threads, processes and machines may share a store as long as each shard has one writer at a
    time, or writers that write the same.
    """

    def __init__(self, path: StorePath) -> None:
        """Open an existing store.

        Raises:
            DamagedStoreError: if there is none at `path`, it is damaged or of another version.
            StoreError: if its object store does not answer.

        """
        self.path = path
        with answering(path):
            try:
                _require_sound_root((path / ROOT_METADATA).read_bytes())
            except (*_NO_FILE, ValueError, RecursionError) as error:
                raise DamagedStoreError(
                    f"{path}: this is not a tile store of this program, or it is damaged "
                    f"({error}). Score the slide again; move the folder away if it is not needed."
                ) from error
            self._group = zarr.open_group(
                zarr_store(path), mode="r+", zarr_format=3, use_consolidated=False
            )
        self._arrays: dict[str, Any] = {}
        self._known_state: NDArray[np.uint8] | None = None

    @classmethod
    def create(
        cls, path: StorePath, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]
    ) -> Self:
        """Create a store that appears under its name only when it is complete.

        Args:
            path: of the store; must not exist.
            grid: the tiles.
            tile_px: side of a tile in pixels.
            tiling: identity of the slide and the whole tiling configuration; its digest is the
                store's.

        """
        partial = path.with_name(f".partial-{path.name}")
        remove(partial)
        per_shard = shard_tiles(len(grid))
        group = zarr.create_group(zarr_store(partial))
        _write_grid(group, grid)
        for name in _MEASURES:
            _per_tile(group, name, (len(grid),), per_shard)
        _make(
            group,
            "state",
            shape=(len(grid),),
            chunks=(per_shard,),
            dtype="uint8",
            fill_value=int(TileState.PENDING),
            attributes={state.name.lower(): int(state) for state in TileState},
        )
        attributes = {
            "schema_version": SCHEMA_VERSION,
            "tiling": dict(tiling),
            "tiling_digest": digest_of(tiling),
            "scoring": None,
            "scoring_digest": None,
            "tile_px": tile_px,
            "grid": _frame_of(grid),
            "grid_digest": _digest_of_grid(grid),
            "arrays": _metadata_digests(partial, (*_GRID, *_MEASURES, "state")),
        }
        group.update_attributes(_sealed(attributes))
        flush(partial, files(partial))
        move(partial, path)
        return cls(path)

    @classmethod
    def create_or_resume(
        cls, path: StorePath, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]
    ) -> Self:
        """Open the store if it is of this slide and configuration; else set it aside, make anew.

        What is damaged is healed, or set aside too. The caller is the store's only user.

        Raises:
            StoreError: if the object store does not answer.

        """
        with answering(path):
            if isinstance(path, Path):
                refuse_odd_files(path.parent)
            if exists(path):
                try:
                    store = cls(path)
                    if store.tiling_digest == digest_of(tiling):
                        store._heal(grid)
                        return store
                    store.set_aside()
                except DamagedStoreError as error:
                    _set_aside_unusable(path, str(error))
            elif isinstance(path, Path) and path.exists():
                # Zarr makes missing folders anew: a store that is deleted under it leaves this.
                _set_aside_unusable(path, f"{path}: the store is damaged (it has no metadata).")
            return cls.create(path, grid, tile_px=tile_px, tiling=tiling)

    def set_aside(self) -> StorePath:
        """Rename the store after its digest, out of the way of another; return its new path."""
        aside = unused(self.path.with_name(f"{self.path.stem}-{self.tiling_digest[:12]}.zarr"))
        move(self.path, aside)
        return aside

    @property
    def tiling(self) -> dict[str, Any]:
        """Identity of the slide and the whole tiling configuration."""
        return dict(self._attribute("tiling"))

    @property
    def tiling_digest(self) -> str:
        """Digest of `tiling`."""
        return self._digest("tiling_digest")

    @property
    def scoring(self) -> dict[str, Any] | None:
        """Bundle and configuration of the scores; None before any."""
        scoring = self._attribute("scoring")
        return None if scoring is None else dict(scoring)

    @property
    def scoring_digest(self) -> str | None:
        """Digest of `scoring`; None before any."""
        return None if self._attribute("scoring_digest") is None else self._digest("scoring_digest")

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return int(self._attribute("tile_px"))

    @property
    def grid(self) -> TileGrid:
        """The grid that the store was made for.

        Raises:
            DamagedStoreError: if it is damaged.

        """
        frame = self._attribute("grid")
        return TileGrid(
            l0_xy=np.asarray(self._read("l0_xy"), np.int64),
            m_xy=np.asarray(self._read("m_xy"), np.int32),
            tissue=np.asarray(self._read("tissue"), np.float32),
            inside=np.asarray(self._read("inside"), np.float32),
            m_size=Size(*frame["m_size"]),
            l0_origin=(frame["l0_origin"][0], frame["l0_origin"][1]),
            l0_tile=frame["l0_tile"],
            l0_stride=frame["l0_stride"],
            n_candidates=frame["n_candidates"],
        )

    def __len__(self) -> int:
        return int(self._array("state").shape[0])

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
        with self._reading("state"):
            return np.asarray(self._array("state")[shard], np.uint8)

    def note(self, shard: slice, state: NDArray[np.uint8]) -> None:
        """Take over what another process says it has committed."""
        self._state[shard] = state

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
        return _PIXELS in self._attribute("arrays")

    def make_room_for_pixels(self) -> None:
        """Give the store an array of pixels if it has none. The caller is its only user."""
        if self.has_room_for_pixels:
            return
        side = self.tile_px
        _make(
            self._group,
            _PIXELS,
            shape=(len(self), side, side, 3),
            chunks=(min(self._per_shard, CHUNK_TILES), side, side, 3),
            dtype="uint8",
            fill_value=0,
            compressors=(
                BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.noshuffle),
                Crc32cCodec(),
            ),
            dimension_names=("tile", "row", "column", "channel"),
        )
        self._register((_PIXELS,))

    def have_pixels(self) -> NDArray[np.bool_]:
        """Return of which shards pixels are stored, bool [shards]."""
        if not self.has_room_for_pixels:
            return np.zeros(len(self.shards), np.bool_)
        return self._present(_PIXELS)

    def commit_pixels(self, shard: slice, pixels: ShardPixels, *, lasting: bool = False) -> None:
        """Store the pixels of a whole shard, after `make_room_for_pixels`.

        Tiles that have been scored stay so.

        Args:
            shard: the tiles.
            pixels: of all of them.
            lasting: whether all is flushed to the disk. What is dropped once it is scored need not
                be: the slide has it.

        """
        self._write(_PIXELS, shard, pixels.rgb)
        self._write_measures(shard, pixels.measures)
        if lasting:
            flush(self.path, self._all_chunks((_PIXELS, *_MEASURES), shard))
        found = np.where(pixels.measures.readable, TileState.STORED, TileState.UNREADABLE)
        state = self._state[shard]
        self._commit(shard, np.where(state == TileState.SCORED, state, found), lasting=lasting)

    def read_pixels(self, shard: slice) -> NDArray[np.uint8]:
        """Read the pixels of a whole shard, uint8 [n, tile, tile, 3].

        Raises:
            DamagedStoreError: if they are damaged on disk, or gone.

        """
        if not self.has_room_for_pixels:
            raise DamagedStoreError(f"{self.path}: the pixels have been dropped.")
        return np.asarray(self._read(_PIXELS, shard), np.uint8)

    def read_shard(self, shard: slice) -> ShardPixels:
        """Read all that tiling has stored of a shard; see `read_pixels`."""
        measures = Measures(
            blur=np.asarray(self._read("blur", shard), np.float32),
            pen=np.asarray(self._read("pen", shard), np.float32),
            readable=self.committed_state(shard) != TileState.UNREADABLE,
        )
        return ShardPixels(self.read_pixels(shard), measures)

    def begin_scoring(self, scoring: Mapping[str, Any], n_classes: int) -> None:
        """Make room for scores, or go on with those that came from the very same model and config.

        Scores of another model are kept in the group ``previous/<digest>``.
        """
        digest = digest_of(scoring)
        if self._attribute("scoring_digest") == digest:
            return
        if self._attribute("scoring_digest") is not None:
            self._set_scores_aside()
        for shard in self.shards:
            # There is room for the scores of shards that are yet to come, and none is to be had.
            if (self._state[shard] == TileState.UNREADABLE).all():
                self._commit(shard, np.full(shard.stop - shard.start, TileState.PENDING))
        for name in ("cellularity", "cellularity_std"):
            _per_tile(self._group, name, (len(self),), self._per_shard)
        _per_tile(self._group, "class_fraction", (len(self), n_classes), self._per_shard)
        self._register(_SCORES, scoring=dict(scoring), scoring_digest=digest)

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
        names: tuple[str, ...] = (*_MEASURES, *_SCORES)
        if rgb is not None:
            self._write(_PIXELS, shard, rgb)
            names = (_PIXELS, *names)
        self._write_measures(shard, measures)
        self._write_scores(shard, measures.readable, scores)
        flush(self.path, self._all_chunks(names, shard))
        state = np.where(measures.readable, TileState.SCORED, TileState.UNREADABLE).astype(np.uint8)
        self._commit(shard, state)
        return state

    def drop_pixels(self) -> None:
        """Delete the pixels of a store and their array; they can be had again from the slide."""
        if self.has_room_for_pixels:
            self._unregister((_PIXELS,))
        # Killed from here on, it leaves what the next one to open the store removes.
        remove(self.path / _PIXELS)

    def table(self) -> TileTable:
        """Return all that is known of each tile of a scored store.

        Raises:
            DamagedStoreError: if the store was deleted, damaged or changed since it was opened.

        """
        grid = self.grid
        if not np.array_equal(self._read("state"), self._state):
            raise self._broken("what was stored of its tiles is gone")
        columns = {
            name: np.asarray(self._read(name), np.float32) for name in (*_MEASURES, *_SCORES)
        }
        return TileTable(
            l0_xy=grid.l0_xy, m_xy=grid.m_xy, tissue=grid.tissue, inside=grid.inside, **columns
        )

    def _heal(self, grid: TileGrid) -> None:
        """Make good what is damaged, or mark its shards as yet to be done.

        Raises:
            DamagedStoreError: if there is nothing to be made good.

        """
        self._sweep()
        self._heal_grid(grid)
        for name in ("state", *_MEASURES):
            self._array(name)
        if self._attribute("scoring_digest") is not None and not all(map(self._opens, _SCORES)):
            log.warning("%s: scores are damaged, and set aside; tiles are scored again", self.path)
            self._set_scores_aside()
        if self.has_room_for_pixels and not self._opens(_PIXELS):
            log.warning("%s: the pixels are damaged, and read from the slide again", self.path)
            self.drop_pixels()
        self._heal_shards()

    def _sweep(self) -> None:
        """Remove what killed processes have left: files in the making, and pixels half dropped."""
        if isinstance(self.path, Path):
            for leftover in self.path.rglob("*.partial"):
                leftover.unlink()
        if not self.has_room_for_pixels:
            remove(self.path / _PIXELS)

    def _heal_grid(self, grid: TileGrid) -> None:
        try:
            _ = self.grid
        except DamagedStoreError as error:
            if self._attribute("grid_digest") != _digest_of_grid(grid):
                raise
            log.warning("%s It is made again from the slide.", error)
            _write_grid(self._group, grid)
            self._register(_GRID)

    def _heal_shards(self) -> None:
        """Mark shards as pending, or as waiting for scores, whose values are not what they were."""
        named = self._sound("state")
        measured = self._sound("blur") & self._sound("pen")
        scored = np.ones(len(self.shards), np.bool_)
        if self._attribute("scoring_digest") is not None:
            for name in _SCORES:
                scored &= self._sound(name)
        states = np.full(len(self), TileState.PENDING, np.uint8)
        for number, shard in enumerate(self.shards):
            state = self.committed_state(shard) if named[number] else states[shard]
            healed = _healed(state, measured=measured[number], scored=scored[number])
            states[shard] = healed
            if not named[number] or not np.array_equal(healed, state):
                self._commit(shard, healed)
                log.warning(
                    "%s: what was stored of tiles %d to %d is damaged or lost; they are done again",
                    self.path,
                    shard.start,
                    shard.stop - 1,
                )
        self._known_state = states

    def _sound(self, name: str) -> NDArray[np.bool_]:
        """Return which shards of an array are there and pass their checksums, bool [shards].

        A state that is not there is sound: nothing of its shard was committed.
        """
        sound = np.ones(len(self.shards), np.bool_) if name == "state" else self._present(name)
        try:
            with self._reading(name):
                self._array(name)[:]
        except DamagedStoreError:
            for number in np.flatnonzero(sound):
                try:
                    with self._reading(name):
                        self._array(name)[self.shards[number]]
                except DamagedStoreError:
                    sound[number] = False
        return sound

    def _opens(self, name: str) -> bool:
        try:
            self._array(name)
        except DamagedStoreError:
            return False
        return True

    def _set_scores_aside(self) -> None:
        """Move scores to ``previous/`` and mark their tiles as not scored."""
        digest = self._digest("scoring_digest")
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
                self._commit(shard, np.where(state == TileState.SCORED, TileState.STORED, state))
        for name in _SCORES:
            self._arrays.pop(name, None)
            source, target = self.path / name, aside / name
            if exists(source):
                remove(target)
                move(source, target)
        self._unregister(_SCORES, scoring=None, scoring_digest=None)

    def _write_measures(self, shard: slice, measures: Measures) -> None:
        self._write("blur", shard, measures.blur)
        self._write("pen", shard, measures.pen)

    def _write_scores(self, shard: slice, scored: NDArray[np.bool_], scores: Scores | None) -> None:
        for name in _SCORES:
            whole = np.full((len(scored), *self._array(name).shape[1:]), np.nan, np.float32)
            if scores is not None:
                whole[scored] = getattr(scores, name)
            self._write(name, shard, whole)

    def _commit(self, shard: slice, state: NDArray[Any], *, lasting: bool = True) -> None:
        self._write("state", shard, state.astype(np.uint8))
        if lasting:
            flush(self.path, self._chunks("state", shard))
        # A worker of many commits shards without ever asking for the states of all.
        if self._known_state is not None:
            self._known_state[shard] = state

    def _write(self, name: str, shard: slice, values: NDArray[Any]) -> None:
        with answering(self.path):
            self._array(name)[shard] = values

    def _read(self, name: str, shard: slice | None = None) -> Any:  # noqa: ANN401 - zarr's
        """Read an array, or a shard of it, that has been committed.

        Raises:
            DamagedStoreError: if a part is missing or fails its checksum.

        """
        array = self._array(name)
        with self._reading(name, shard):
            if shard is None:
                there = array.nchunks_initialized == array.nchunks
            else:
                there = all((self.path / chunk).is_file() for chunk in self._chunks(name, shard))
            if not there:
                # To zarr a missing chunk is one of fill values: black tiles, and scores for them.
                raise self._broken(f"of {_of(name, shard)} something is gone")
            return array[:] if shard is None else array[shard]

    @contextmanager
    def _reading(self, name: str, shard: slice | None = None) -> Iterator[None]:
        """Say what is damaged if reading it fails."""
        try:
            with answering(self.path):
                try:
                    yield
                # Checksums fail as ValueError and codecs as RuntimeError; a disk may fail too.
                except (ValueError, RuntimeError) as error:
                    raise self._broken(f"{_of(name, shard)} cannot be read: {error}") from error
        except OSError as error:
            raise self._broken(f"{_of(name, shard)} cannot be read: {error}") from error

    def _present(self, name: str) -> NDArray[np.bool_]:
        """Return for which shards an array has all of its chunks, bool [shards]."""
        with answering(self.path):
            there = {f"{name}/{file}" for file in files(self.path / name)}
        return np.array([there.issuperset(self._chunks(name, shard)) for shard in self.shards])

    def _chunks(self, name: str, shard: slice) -> list[str]:
        """Name the files that hold a shard of an array, relative to the store."""
        array = self._array(name)
        rows = array.chunks[0]
        return [
            f"{name}/{array.metadata.encode_chunk_key((row, *(0 for _ in array.shape[1:])))}"
            for row in range(shard.start // rows, -(-shard.stop // rows))
        ]

    def _all_chunks(self, names: tuple[str, ...], shard: slice) -> list[str]:
        return [chunk for name in names for chunk in self._chunks(name, shard)]

    @property
    def _per_shard(self) -> int:
        return int(self._array("state").chunks[0])

    @property
    def _state(self) -> NDArray[np.uint8]:
        if self._known_state is None:
            self._known_state = self.committed_state(slice(None))
        return self._known_state

    def _array(self, name: str) -> Any:  # noqa: ANN401 - zarr types items as array or group
        # Opening an array parses its metadata: as long as writing several tiles.
        if name not in self._arrays:
            with answering(self.path):
                metadata = self.path / name / ROOT_METADATA
                try:
                    digest = hashlib.sha256(metadata.read_bytes()).hexdigest()
                except OSError as error:
                    raise self._broken(f"the array {name} cannot be opened: {error}") from error
                if self._attribute("arrays").get(name) != digest:
                    raise self._broken(f"the metadata of the array {name} were changed")
                # What was created with this option forgets it: fill values would be no files.
                array: Any = self._group[name]
                self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def _register(self, names: tuple[str, ...], **changes: object) -> None:
        """Take arrays that were just made for good, and change attributes with that."""
        digests = self._attribute("arrays") | _metadata_digests(self.path, names)
        for name in names:
            self._arrays.pop(name, None)
        flush(self.path, (f"{name}/{file}" for name in names for file in files(self.path / name)))
        self._change(arrays=digests, **changes)

    def _unregister(self, names: tuple[str, ...], **changes: object) -> None:
        """Take arrays for none, and change attributes with that."""
        for name in names:
            self._arrays.pop(name, None)
        digests = self._attribute("arrays")
        self._change(arrays={key: digests[key] for key in digests if key not in names}, **changes)

    def _change(self, **changes: object) -> None:
        with answering(self.path):
            self._group.update_attributes(_sealed(self._group.attrs.asdict() | changes))
        flush(self.path, [ROOT_METADATA])

    def _broken(self, how: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self.path}: the store is damaged ({how}). Move it away and score the slide again."
        )

    def _digest(self, name: str) -> str:
        """Return a digest, parts of which become names of folders."""
        digest = self._attribute(name)
        if not is_sha256(digest):
            raise self._broken(f"{name} is no digest")
        return str(digest)

    def _attribute(self, name: str) -> Any:  # noqa: ANN401 - JSON
        return self._group.attrs[name]


def _healed(state: NDArray[np.uint8], *, measured: np.bool_, scored: np.bool_) -> NDArray[np.uint8]:
    """Return what is true of a shard, given whether what was measured and scored is sound."""
    none = (state == TileState.PENDING).all()
    if none or (measured and (scored or not (state >= TileState.SCORED).all())):
        return state
    if measured and (state == TileState.SCORED).any():
        return np.where(state == TileState.SCORED, TileState.STORED, state).astype(np.uint8)
    return np.full_like(state, TileState.PENDING)


def _of(name: str, shard: slice | None) -> str:
    return name if shard is None else f"{name} of tiles {shard.start} to {shard.stop - 1}"


def _set_aside_unusable(path: StorePath, why: str) -> None:
    aside = unused(path.with_name(f"{path.stem}-unusable.zarr"))
    move(path, aside)
    log.warning("%s It is set aside as %s, and the slide is scored anew.", why, aside.name)


def _make(group: zarr.Group, name: str, **layout: Any) -> Any:  # noqa: ANN401 - zarr's
    layout = {"compressors": (Crc32cCodec(),)} | layout
    return group.create_array(name, overwrite=True, config={"write_empty_chunks": True}, **layout)


def _per_tile(group: zarr.Group, name: str, shape: tuple[int, ...], per_shard: int) -> None:
    chunks = (per_shard, *shape[1:])
    _make(group, name, shape=shape, chunks=chunks, dtype="float32", fill_value=float("nan"))


def _write_grid(group: zarr.Group, grid: TileGrid) -> None:
    for name in _GRID:
        values = getattr(grid, name)
        array = _make(group, name, shape=values.shape, chunks=values.shape, dtype=values.dtype)
        array[:] = values


def _frame_of(grid: TileGrid) -> dict[str, Any]:
    return {
        "m_size": [grid.m_size.width, grid.m_size.height],
        "l0_origin": list(grid.l0_origin),
        "l0_tile": grid.l0_tile,
        "l0_stride": grid.l0_stride,
        "n_candidates": grid.n_candidates,
    }


def _digest_of_grid(grid: TileGrid) -> str:
    digest = hashlib.sha256(digest_of(_frame_of(grid)).encode())
    for name in _GRID:
        digest.update(np.ascontiguousarray(getattr(grid, name)).tobytes())
    return digest.hexdigest()


def _metadata_digests(path: StorePath, names: tuple[str, ...]) -> dict[str, str]:
    return {
        name: hashlib.sha256((path / name / ROOT_METADATA).read_bytes()).hexdigest()
        for name in names
    }


def _sealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest of attributes to them, in an order that their history does not change."""
    arrays = dict(sorted(attributes["arrays"].items()))
    return {**attributes, "arrays": arrays, "digest": _digest_without_itself(attributes)}


def _digest_without_itself(attributes: Mapping[str, Any]) -> str:
    return digest_of({key: value for key, value in attributes.items() if key != "digest"})


def _require_sound_root(metadata: bytes) -> None:
    """Raise ValueError unless the metadata of a store's root are as they were written."""
    root = json.loads(metadata)
    if not isinstance(root, dict) or not isinstance(root.get("attributes"), dict):
        raise ValueError("its metadata are of something else")  # noqa: TRY004 - bad data
    attributes = root.pop("attributes")
    root.pop("consolidated_metadata", None)
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"it has layout version {version}, and {SCHEMA_VERSION} is read here")
    sealed = attributes.get("digest") == _digest_without_itself(attributes)
    if not sealed or root != {"zarr_format": 3, "node_type": "group"}:
        raise ValueError("its metadata were changed")
