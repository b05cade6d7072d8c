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

A store lies in a folder or, by an fsspec URL such as ``s3://bucket/prefix``, in an object store.
There a PUT is atomic like a rename here, but nothing can be renamed: what has to move is copied,
its root metadata (``zarr.json``) last, and removed, its root metadata first. Objects without it are
no store. Credentials come from the environment or fsspec's configuration, never from the URL.

**Pixel codec.** Blosc LZ4 with a CRC-32C of each tile, measured on 80 real H&E tiles at 0.5 µm/px,
one core, share of raw size and ms per tile to write and to read through zarr (the store writes
shards itself, the same bytes in a third of the time, see `shard_bytes`):

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
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator
from upath import UPath
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec
from zarr.storage import FsspecStore

from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.geometry import Size
from wsi_pipeline.grid import TileGrid
from wsi_pipeline.slide_files import is_url
from wsi_pipeline.tiles import TileTable

SCHEMA_VERSION = 2

MAX_SHARD_TILES = 64
MIN_SHARD_TILES = 8
WANTED_SHARDS = 16
"""Small slides get small shards, so that reading and scoring can still overlap."""

NAME = "tiles.zarr"

CHECKSUM_BYTES = 4
NO_CHUNK = (1 << 64) - 1
"""Offset and length, in the index of a shard, of a tile that is not there."""

SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}

_SCORES = ("cellularity", "cellularity_std", "class_fraction")

_ROOT_METADATA = "zarr.json"
"""Of a group or an array; in an object store its presence says that all else is there."""

StorePath = Path | UPath
"""A folder, or a prefix in an object store."""


class StoreConfig(BaseModel):
    """Where tiles are kept while a slide is being scored, and scores for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    root: str | None = None
    """A folder or fsspec URL that gets one folder per slide; None is the output folder. Give each
    output folder a root of its own: its lock guards the stores too."""

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


def store_path(location: str | Path) -> StorePath:
    """Return a path for a folder's name or an fsspec URL.

    Raises:
        ConfigError: if the URL holds credentials, or its file system is not installed.

    """
    address = str(location)
    if not is_url(address):
        return Path(location)
    parts = urlsplit(address)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"The URL of a store in {parts.hostname} holds a user name or password, which would "
            f"end up in logs. Leave it out, and give credentials in the environment."
        )
    if parts.scheme in ("file", "local"):
        return Path(parts.path)
    try:
        # What other processes write must be seen.
        path = UPath(address, use_listings_cache=False)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{address}: no file system for {parts.scheme}:// ({error}). For s3:// install "
            f"`wsi-pipeline[s3]`, or name a folder."
        ) from error
    return path


def shard_bytes(tiles: NDArray[np.uint8], array: Any) -> list[bytes]:  # noqa: ANN401 - zarr's
    """Encode tiles as a shard of an array that was made by `TileStore.create`.

    Args:
        tiles: uint8 [n, tile, tile, 3], all of the shard or, at the array's end, its first.
        array: one tile a chunk, with Blosc and a CRC-32C.

    Returns:
        the pieces of the shard's file: the tiles, and their index.

    """
    (sharding,) = array.metadata.to_dict()["codecs"]
    (packing,) = (
        codec["configuration"]
        for codec in sharding["configuration"]["codecs"]
        if codec["name"] == "blosc"
    )
    shuffle = SHUFFLES[packing["shuffle"]]
    blosc = Blosc(packing["cname"], packing["clevel"], shuffle, packing["blocksize"])
    pieces: list[bytes] = []
    index = np.full((array.shards[0], 2), NO_CHUNK, "<u8")
    offset = 0
    for number, tile in enumerate(tiles):
        packed = blosc.encode(tile)
        pieces += [packed, _checksum(packed)]
        index[number] = offset, len(packed) + CHECKSUM_BYTES
        offset += len(packed) + CHECKSUM_BYTES
    return [*pieces, index.tobytes(), _checksum(index.tobytes())]


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")


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
            StoreError: if there is none at `path`, it is damaged, of another version, or its
                object store does not answer.

        """
        self.path = path
        with _answering(path):
            try:
                self._group = zarr.open_group(_zarr_store(path), mode="r+", zarr_format=3)
                version = self._group.attrs["schema_version"]
            except (FileNotFoundError, KeyError, ValueError) as error:
                raise StoreError(
                    f"{path}: this is not a tile store of this program, or it is damaged "
                    f"({error}). Score the slide again; move the folder away if it is not needed."
                ) from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: the store has layout version {version}, this program reads version "
                f"{SCHEMA_VERSION}. Move it away and score the slide again."
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
        _remove(partial)
        n_tiles = len(grid)
        per_shard = shard_tiles(n_tiles)
        group = zarr.create_group(
            _zarr_store(partial),
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
                name,
                shape=values.shape,
                chunks=values.shape,
                dtype=values.dtype,
                config={"write_empty_chunks": True},
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
        _move(partial, path)
        return cls(path)

    @classmethod
    def create_or_resume(
        cls, path: StorePath, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]
    ) -> Self:
        """Open the store if it is of this slide and configuration; else set it aside, make anew.

        The caller is the store's only user.

        Raises:
            StoreError: if what is there is no store of this version, or the object store does not
                answer.

        """
        with _answering(path):
            if _exists(path):
                if isinstance(path, Path):
                    # What zarr was writing when a process was killed, to be renamed when whole.
                    for leftover in path.rglob("*.partial"):
                        leftover.unlink()
                store = cls(path)
                if store.tiling_digest == digest_of(tiling):
                    return store
                store.set_aside()
            elif isinstance(path, Path) and path.exists():
                # Zarr makes missing folders anew: a store that is deleted under it leaves this.
                _move(path, _unused(path.with_name(f"{path.stem}-incomplete.zarr")))
            return cls.create(path, grid, tile_px=tile_px, tiling=tiling)

    def set_aside(self) -> StorePath:
        """Rename the store after its digest, out of the way of another; return its new path."""
        aside = _unused(self.path.with_name(f"{self.path.stem}-{self.tiling_digest[:12]}.zarr"))
        _move(self.path, aside)
        return aside

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
            l0_xy=np.asarray(self._whole("l0_xy"), np.int64),
            m_xy=np.asarray(self._whole("m_xy"), np.int32),
            tissue=np.asarray(self._whole("tissue"), np.float32),
            inside=np.asarray(self._whole("inside"), np.float32),
            m_size=Size(*attributes["m_size"]),
            l0_origin=(attributes["l0_origin"][0], attributes["l0_origin"][1]),
            l0_tile=attributes["l0_tile"],
            l0_stride=attributes["l0_stride"],
            n_candidates=attributes["n_candidates"],
        )

    @property
    def scoring_digest(self) -> str | None:
        """Digest of `scoring`; None before any."""
        digest = self._attribute("scoring_digest")
        return None if digest is None else str(digest)

    def __len__(self) -> int:
        return int(self._array("state").shape[0])

    @property
    def shards(self) -> list[slice]:
        """The tiles of each shard."""
        per_shard = self._array("state").chunks[0]
        return [
            slice(start, min(start + per_shard, len(self)))
            for start in range(0, len(self), per_shard)
        ]

    def state(self, shard: slice) -> NDArray[np.uint8]:
        """`TileState` of each tile of a shard, as this process knows it."""
        return self._state[shard].copy()

    def committed_state(self, shard: slice) -> NDArray[np.uint8]:
        """`TileState` of each tile of a shard, as it is stored at this moment."""
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

    def commit_pixels(self, shard: slice, pixels: ShardPixels) -> None:
        """Store the pixels of a whole shard."""
        self._write_rgb(shard, pixels.rgb)
        self._write_measures(shard, pixels)
        self._commit(shard, np.where(pixels.readable, TileState.STORED, TileState.UNREADABLE))

    def read_pixels(self, shard: slice) -> NDArray[np.uint8]:
        """Read the pixels of a whole shard, uint8 [n, tile, tile, 3].

        Raises:
            StoreError: if they are damaged on disk, or gone.

        """
        if not self._rgb_path(shard).is_file():
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

    def read_shard(self, shard: slice, readable: NDArray[np.bool_]) -> ShardPixels:
        """Read all that tiling has stored of a shard; see `read_pixels`."""
        return ShardPixels(
            rgb=self.read_pixels(shard),
            blur=np.asarray(self._array("blur")[shard], np.float32),
            pen=np.asarray(self._array("pen")[shard], np.float32),
            readable=readable,
        )

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
        self._write_scores(shard, scored, scores)
        self._commit(shard, np.where(scored, TileState.SCORED, self._state[shard]))

    def commit_whole(
        self, shard: slice, pixels: ShardPixels, scores: Scores | None, *, keep_pixels: bool
    ) -> NDArray[np.uint8]:
        """Store all of a shard at once: what was measured, the scores and, if wanted, the pixels.

        Args:
            shard: the tiles.
            pixels: of all of them.
            scores: of those that are readable; None if none is.
            keep_pixels: whether the pixels are stored too.

        Returns:
            its `TileState`, uint8 [n].

        """
        if keep_pixels:
            self._write_rgb(shard, pixels.rgb)
        self._write_measures(shard, pixels)
        if scores is not None:
            self._write_scores(shard, pixels.readable, scores)
        state = np.where(pixels.readable, TileState.SCORED, TileState.UNREADABLE).astype(np.uint8)
        self._commit(shard, state)
        return state

    def drop_pixels(self) -> None:
        """Delete the pixels of a store; they can be had again from the slide."""
        if not self._attribute("pixels_dropped"):
            self._group.update_attributes({"pixels_dropped": True})
        _remove(self.path / "rgb" / "c")

    def table(self) -> TileTable:
        """Return all that is known of each tile.

        Raises:
            StoreError: if the store was deleted or changed since it was opened.

        """
        grid = self.grid
        if not np.array_equal(self._array("state")[:], self._state):
            raise self._broken("what was stored of its tiles is gone")
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
            if _exists(source):
                _remove(target)
                _move(source, target)
        self._group.update_attributes(
            {"scoring": None, "scoring_digest": None, "pixels_dropped": False}
        )

    def _rgb_path(self, shard: slice) -> StorePath:
        number = shard.start // self._array("state").chunks[0]
        return self.path / "rgb" / "c" / str(number) / "0" / "0" / "0"

    def _write_rgb(self, shard: slice, rgb: NDArray[np.uint8]) -> None:
        """Write a shard of tiles as zarr would, byte by byte, in a third of its time.

        Nearly all bytes of a store pass here; zarr copies them several times on their way through
        its event loop.
        """
        with _answering(self.path):
            pieces = shard_bytes(rgb, self._array("rgb"))
            path = self._rgb_path(shard)
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
                # As zarr's own writes and not by `atomic_path`: no two workers that were given one
                # shard share a name, what a kill leaves is swept away with zarr's, and waiting for
                # the disk would take longer than writing. A shard that a power cut spoils fails its
                # checksums, and is read from the slide again.
                partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
                try:
                    with partial.open("wb") as file:
                        file.writelines(pieces)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
            else:
                path.write_bytes(b"".join(pieces))

    def _write_measures(self, shard: slice, pixels: ShardPixels) -> None:
        self._write("blur", shard, pixels.blur)
        self._write("pen", shard, pixels.pen)

    def _write_scores(self, shard: slice, scored: NDArray[np.bool_], scores: Scores) -> None:
        for name in _SCORES:
            values = getattr(scores, name)
            whole = np.full((len(scored), *values.shape[1:]), np.nan, np.float32)
            whole[scored] = values
            self._write(name, shard, whole)

    def _commit(self, shard: slice, state: NDArray[Any]) -> None:
        self._write("state", shard, state.astype(np.uint8))
        # A worker of many commits shards without ever asking for the states of all.
        if self._known_state is not None:
            self._known_state[shard] = state

    def _write(self, name: str, shard: slice, values: NDArray[Any]) -> None:
        with _answering(self.path):
            self._array(name)[shard] = values

    @property
    def _state(self) -> NDArray[np.uint8]:
        if self._known_state is None:
            self._known_state = np.asarray(self._array("state")[:], np.uint8)
        return self._known_state

    def _array(self, name: str) -> Any:  # noqa: ANN401 - zarr types items as array or group
        # Opening an array parses its metadata: as long as writing several tiles.
        if name not in self._arrays:
            try:
                self._arrays[name] = self._group[name]
            except (KeyError, ValueError) as error:
                raise self._broken(f"its array {name} cannot be read: {error}") from error
        return self._arrays[name]

    def _whole(self, name: str) -> Any:  # noqa: ANN401 - zarr's
        """Read all of an array; to zarr, a file that is missing is one of zeros."""
        array = self._array(name)
        if array.nchunks_initialized < array.nchunks:
            raise self._broken(f"its array {name} is not all there")
        return array[:]

    def _broken(self, how: str) -> StoreError:
        return StoreError(
            f"{self.path}: the store is damaged ({how}). Move it away and score the slide again."
        )

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


def _zarr_store(path: StorePath) -> Path | FsspecStore:
    if isinstance(path, Path):
        return path
    return FsspecStore.from_url(str(path), dict(path.storage_options))


@contextmanager
def _answering(path: StorePath) -> Iterator[None]:
    """Turn whatever an object store fails with into a StoreError; leave folders alone."""
    try:
        yield
    except StoreError:
        raise
    # Each file system has errors of its own, and some are of the library below it.
    except Exception as error:
        if isinstance(path, Path):
            raise
        raise StoreError(
            f"{path}: the object store does not answer as it should ({error}). Check the URL, the "
            f"network and the credentials in the environment; what is stored so far is kept."
        ) from error


def _exists(path: StorePath) -> bool:
    """Whether a store or an array is there, and complete."""
    return (path / _ROOT_METADATA).exists()


def _unused(path: StorePath) -> StorePath:
    """Return a path at which there is nothing yet, numbered if need be."""
    unused, number = path, 1
    # Objects without root metadata are the copy of a store that was killed: it is made again.
    while unused.exists() if isinstance(unused, Path) else _exists(unused):
        number += 1
        unused = path.with_name(f"{path.stem}-{number}.zarr")
    return unused


def _remove(path: StorePath) -> None:
    """Remove all below a path; a store in an object store is none from the first step on."""
    if isinstance(path, Path):
        if path.exists():
            shutil.rmtree(path)
        return
    root = (path / _ROOT_METADATA).path
    # One by one: a deletion of many takes names for patterns.
    for file in sorted(path.fs.find(path.path), key=lambda file: file != root):
        path.fs.rm_file(file)


def _move(source: StorePath, target: StorePath) -> None:
    """Rename a store or an array, which appears under its new name only when it is complete."""
    if not (isinstance(source, UPath) and isinstance(target, UPath)):
        Path(str(source)).rename(str(target))
        return
    _remove(target)  # what is left of a copy that was killed
    files = source.fs.find(source.path)
    root = (source / _ROOT_METADATA).path
    for part in ([file for file in files if file != root], [root]):
        source.fs.copy(part, [file.replace(source.path, target.path, 1) for file in part])
    _remove(source)
