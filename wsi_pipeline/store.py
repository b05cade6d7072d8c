"""`TileStore`: the zarr v3 store of one slide's tiles and scores.

Layout (N tissue tiles; all arrays are sharded or chunked alike, S tiles to a shard)::

    rgb             uint8   [N, tile, tile, 3]   one tile a chunk
    l0_xy           int64   [N, 2]               corner, level-0 pixels
    m_xy            int32   [N, 2]               (column, row) in the score map
    tissue, inside  float32 [N]                  shares of the tile's area
    blur, pen       float32 [N]                  quality measures of the pixels
    cellularity     float32 [N]                  NaN is "not scored"
    cellularity_std float32 [N]                  NaN unless several views were scored
    class_fraction  float32 [N, classes]
    state           uint8   [N]                  see `TileState`

A shard of tiles is the unit of work. Its writer writes the data first and the shard's `state` last,
each as one file renamed into place: a shard counts as done only by its state, so a process may be
killed at any moment and the next one goes on with the shards that were not committed.

The attributes hold the whole configuration. A store answers only to the digest of its slide and
configuration (`tiling_digest`), its scores only to that of the bundle and how it ran
(`scoring_digest`). What has another digest is set aside under a name of its own, never mixed in and
never deleted.

**Pixel codec.** Blosc LZ4 with a CRC-32C of each tile, measured on 80 real H&E tiles at 0.5 µm/px,
one core, share of raw size and ms per tile to write and to read:

================ ===== ====== =====
codec            size  write  read
================ ===== ====== =====
none             1.00  1.8    0.9
LZ4              0.75  1.8    1.3
zstd, level 1    0.68  3.2    1.7
zstd, level 3    0.67  5.1    1.7
zstd, level 9    0.66  16.6   2.1
================ ===== ====== =====

LZ4 costs no more than writing raw bytes, since fewer have to move; beyond it, every percent costs
milliseconds that the decoder of the slide needs. Lossy codecs are out: a score must not depend on
whether its pixels came by way of the store. `tests/benchmarks/codec.py` repeats the table.
"""

import enum
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from wsi_pipeline.errors import StoreError
from wsi_pipeline.geometry import Size
from wsi_pipeline.grid import TileGrid
from wsi_pipeline.tiles import TileTable

SCHEMA_VERSION = 1

MAX_SHARD_TILES = 64
MIN_SHARD_TILES = 8
WANTED_SHARDS = 16
"""Small slides get small shards, so that reading and scoring can still overlap."""

_SCORES = ("cellularity", "cellularity_std", "class_fraction")


class TileState(enum.IntEnum):
    """How far a tile has come."""

    PENDING = 0
    STORED = 1
    """Its pixels are in the store (or were, until they were dropped)."""
    SCORED = 2
    UNREADABLE = 3
    """The slide is damaged there: no reader could decode it, and it will not be scored."""


@dataclass(frozen=True, eq=False)
class ShardPixels:
    """What tiling finds of the tiles of one shard.

    Attributes:
        rgb: uint8 [n, tile, tile, 3].
        blur: float32 [n].
        pen: float32 [n].
        readable: bool [n].

    """

    rgb: NDArray[np.uint8]
    blur: NDArray[np.float32]
    pen: NDArray[np.float32]
    readable: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of n tiles.

    Attributes:
        cellularity: float32 [n], 0 to 1.
        cellularity_std: float32 [n], over views; NaN if there was one.
        class_fraction: float32 [n, classes], shares of the tile's area; NaN without segmentation.

    """

    cellularity: NDArray[np.float32]
    cellularity_std: NDArray[np.float32]
    class_fraction: NDArray[np.float32]


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON-able mapping, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def shard_tiles(n_tiles: int) -> int:
    """Tiles to a shard: a power of two that gives small slides several shards."""
    wanted = max(1, n_tiles // WANTED_SHARDS)
    return min(MAX_SHARD_TILES, max(MIN_SHARD_TILES, 1 << (wanted.bit_length() - 1)))


class TileStore:
    """The tiles and scores of one slide on disk.

    Threads and processes may share a store as long as each shard has one writer at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing store.

        Raises:
            StoreError: if there is none at `path`, it is damaged, or of another version.

        """
        self.path = path
        try:
            self._group = zarr.open_group(path, mode="r+")
            version = self._group.attrs["schema_version"]
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise StoreError(
                f"{path}: this is not a tile store of this program, or it is damaged ({error}). "
                f"Score the slide again; move the folder away if it is not needed."
            ) from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: the store has layout version {version}, this program reads version "
                f"{SCHEMA_VERSION}. Move it away and score the slide again."
            )
        self._arrays: dict[str, Any] = {}
        self._state: NDArray[np.uint8] = np.asarray(self._array("state")[:], np.uint8)

    @classmethod
    def create(cls, path: Path, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]) -> Self:
        """Create a store that appears under its name only when it is complete.

        Args:
            path: of the store; must not exist.
            grid: the tiles.
            tile_px: side of a tile in pixels.
            tiling: identity of the slide and the whole tiling configuration; its digest is the
                store's.

        """
        partial = path.with_name(f".partial-{path.name}")
        if partial.exists():
            shutil.rmtree(partial)
        n_tiles = len(grid)
        per_shard = shard_tiles(n_tiles)
        group = zarr.create_group(
            partial,
            attributes={
                "schema_version": SCHEMA_VERSION,
                "tiling": dict(tiling),
                "tiling_digest": digest_of(tiling),
                "scoring": None,
                "scoring_digest": None,
                "pixels_dropped": False,
                "grid": {
                    "m_size": [grid.m_size.width, grid.m_size.height],
                    "l0_origin": list(grid.l0_origin),
                    "l0_tile": grid.l0_tile,
                    "l0_stride": grid.l0_stride,
                    "n_candidates": grid.n_candidates,
                },
            },
        )
        group.create_array(
            "rgb",
            shape=(n_tiles, tile_px, tile_px, 3),
            chunks=(1, tile_px, tile_px, 3),
            shards=(per_shard, tile_px, tile_px, 3),
            dtype="uint8",
            fill_value=0,
            compressors=(
                BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.noshuffle),
                Crc32cCodec(),
            ),
            dimension_names=("tile", "row", "column", "channel"),
            config={"write_empty_chunks": True},
        )
        for name, values in (
            ("l0_xy", grid.l0_xy),
            ("m_xy", grid.m_xy),
            ("tissue", grid.tissue),
            ("inside", grid.inside),
        ):
            array = group.create_array(
                name, shape=values.shape, chunks=values.shape, dtype=values.dtype
            )
            array[:] = values
        for name in ("blur", "pen"):
            _per_tile(group, name, (n_tiles,), per_shard)
        group.create_array(
            "state",
            shape=(n_tiles,),
            chunks=(per_shard,),
            dtype="uint8",
            fill_value=int(TileState.PENDING),
            attributes={state.name.lower(): int(state) for state in TileState},
            config={"write_empty_chunks": True},
        )
        partial.rename(path)
        return cls(path)

    @classmethod
    def create_or_resume(
        cls, path: Path, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]
    ) -> Self:
        """Open the store if it is of this slide and configuration; else set it aside, make anew.

        The caller is the store's only user.
        """
        if path.exists():
            # What zarr was writing when a process was killed: it renames files from these names.
            for leftover in path.rglob("*.partial"):
                leftover.unlink()
            store = cls(path)
            if store.tiling_digest == digest_of(tiling):
                return store
            store.set_aside()
        return cls.create(path, grid, tile_px=tile_px, tiling=tiling)

    def set_aside(self) -> Path:
        """Rename the store after its digest, out of the way of another; return its new path."""
        aside = self.path.with_name(f"{self.path.stem}-{self.tiling_digest[:12]}.zarr")
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{self.path.stem}-{self.tiling_digest[:12]}-{number}.zarr")
        return self.path.rename(aside)

    @property
    def tiling(self) -> dict[str, Any]:
        """Identity of the slide and the whole tiling configuration."""
        return dict(self._attribute("tiling"))

    @property
    def tiling_digest(self) -> str:
        """Digest of `tiling`."""
        return str(self._attribute("tiling_digest"))

    @property
    def scoring(self) -> dict[str, Any] | None:
        """Bundle and configuration of the scores; None before any."""
        scoring = self._attribute("scoring")
        return None if scoring is None else dict(scoring)

    @property
    def grid(self) -> TileGrid:
        """The grid that the store was made for."""
        attributes = self._attribute("grid")
        return TileGrid(
            l0_xy=np.asarray(self._array("l0_xy")[:], np.int64),
            m_xy=np.asarray(self._array("m_xy")[:], np.int32),
            tissue=np.asarray(self._array("tissue")[:], np.float32),
            inside=np.asarray(self._array("inside")[:], np.float32),
            m_size=Size(*attributes["m_size"]),
            l0_origin=(attributes["l0_origin"][0], attributes["l0_origin"][1]),
            l0_tile=attributes["l0_tile"],
            l0_stride=attributes["l0_stride"],
            n_candidates=attributes["n_candidates"],
        )

    def __len__(self) -> int:
        return len(self._state)

    @property
    def shards(self) -> list[slice]:
        """The tiles of each shard."""
        per_shard = self._array("state").chunks[0]
        return [
            slice(start, min(start + per_shard, len(self)))
            for start in range(0, len(self), per_shard)
        ]

    def state(self, shard: slice) -> NDArray[np.uint8]:
        """`TileState` of each tile of a shard."""
        return self._state[shard].copy()

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

    def commit_pixels(self, shard: slice, pixels: ShardPixels) -> None:
        """Store the pixels of a whole shard."""
        self._array("rgb")[shard] = pixels.rgb
        self._array("blur")[shard] = pixels.blur
        self._array("pen")[shard] = pixels.pen
        self._commit(shard, np.where(pixels.readable, TileState.STORED, TileState.UNREADABLE))

    def read_pixels(self, shard: slice) -> NDArray[np.uint8]:
        """Read the pixels of a whole shard, uint8 [n, tile, tile, 3].

        Raises:
            StoreError: if they are damaged on disk, or gone.

        """
        number = shard.start // self._array("state").chunks[0]
        if not (self.path / "rgb" / "c" / str(number) / "0" / "0" / "0").is_file():
            # To zarr a missing chunk is one of fill values: black tiles, and scores for them.
            raise StoreError(
                f"{self.path}: the pixels of tiles {shard.start} to {shard.stop - 1} are gone."
            )
        try:
            return np.asarray(self._array("rgb")[shard], np.uint8)
        # A shard's checksums and index fail as ValueError, the codec as RuntimeError.
        except (ValueError, RuntimeError, OSError) as error:
            raise StoreError(
                f"{self.path}: the pixels of tiles {shard.start} to {shard.stop - 1} are damaged "
                f"on disk ({error})."
            ) from error

    def forget_pixels(self, shard: slice) -> None:
        """Mark the tiles of a shard as pending, so that they are read again."""
        self._commit(shard, np.full(shard.stop - shard.start, TileState.PENDING))

    def begin_scoring(self, scoring: Mapping[str, Any], n_classes: int) -> None:
        """Make room for scores, or go on with those that came from the very same model and config.

        Scores of another model are kept in the group ``previous/<digest>``.
        """
        digest = digest_of(scoring)
        if self._attribute("scoring_digest") == digest:
            return
        if self._attribute("scoring_digest") is not None:
            self._set_scores_aside()
        for name in _SCORES:
            self._arrays.pop(name, None)
        n_tiles = len(self)
        per_shard = self._array("state").chunks[0]
        for name in ("cellularity", "cellularity_std"):
            _per_tile(self._group, name, (n_tiles,), per_shard)
        _per_tile(self._group, "class_fraction", (n_tiles, n_classes), per_shard)
        self._group.update_attributes({"scoring": dict(scoring), "scoring_digest": digest})

    def commit_scores(self, shard: slice, scored: NDArray[np.bool_], scores: Scores) -> None:
        """Store the scores of those tiles of a shard that have any; `scored` is bool [n]."""
        for name in _SCORES:
            values = getattr(scores, name)
            whole = np.full((len(scored), *values.shape[1:]), np.nan, np.float32)
            whole[scored] = values
            self._array(name)[shard] = whole
        self._commit(shard, np.where(scored, TileState.SCORED, self._state[shard]))

    def drop_pixels(self) -> None:
        """Delete the pixels of a store that is scored; they can be had again from the slide."""
        self._group.update_attributes({"pixels_dropped": True})
        shutil.rmtree(self.path / "rgb" / "c", ignore_errors=True)

    def table(self) -> TileTable:
        """Return all that is known of each tile."""
        grid = self.grid
        return TileTable(
            l0_xy=grid.l0_xy,
            m_xy=grid.m_xy,
            tissue=grid.tissue,
            inside=grid.inside,
            blur=np.asarray(self._array("blur")[:], np.float32),
            pen=np.asarray(self._array("pen")[:], np.float32),
            cellularity=np.asarray(self._array("cellularity")[:], np.float32),
            cellularity_std=np.asarray(self._array("cellularity_std")[:], np.float32),
            class_fraction=np.asarray(self._array("class_fraction")[:], np.float32),
        )

    def _set_scores_aside(self) -> None:
        """Move scores to ``previous/`` and mark their tiles as not scored."""
        digest = str(self._attribute("scoring_digest"))
        dropped = bool(self._attribute("pixels_dropped"))
        previous = self._group.require_group("previous").require_group(digest[:12])
        previous.update_attributes({"scoring": self.scoring, "scoring_digest": digest})
        # States first: after a kill in between, scores without a state are merely computed again.
        for shard in self.shards:
            state = self._state[shard]
            again = TileState.PENDING if dropped else TileState.STORED
            self._commit(shard, np.where(state == TileState.SCORED, again, state))
        for name in _SCORES:
            source, target = self.path / name, self.path / "previous" / digest[:12] / name
            if source.exists():
                if target.exists():
                    shutil.rmtree(target)
                source.rename(target)
        self._group.update_attributes(
            {"scoring": None, "scoring_digest": None, "pixels_dropped": False}
        )

    def _commit(self, shard: slice, state: NDArray[Any]) -> None:
        self._array("state")[shard] = state.astype(np.uint8)
        self._state[shard] = state

    def _array(self, name: str) -> Any:  # noqa: ANN401 - zarr types items as array or group
        # Opening an array parses its metadata: as long as writing several tiles.
        if name not in self._arrays:
            self._arrays[name] = self._group[name]
        return self._arrays[name]

    def _attribute(self, name: str) -> Any:  # noqa: ANN401 - JSON
        return self._group.attrs[name]


def _per_tile(group: zarr.Group, name: str, shape: tuple[int, ...], per_shard: int) -> None:
    group.create_array(
        name,
        shape=shape,
        chunks=(per_shard, *shape[1:]),
        dtype="float32",
        fill_value=float("nan"),
        overwrite=True,
        config={"write_empty_chunks": True},
    )
