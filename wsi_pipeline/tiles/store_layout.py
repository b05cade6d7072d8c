"""What a tile store looks like on disk: its arrays, its attributes and how they are sealed.

A store is a zarr v3 group. N tissue tiles; S of them make a shard, the unit of work::

    rgb             uint8   [N, tile, tile, 3]   only while pixels are kept
    l0_xy           int64   [N, 2]               corner, level-0 pixels
    m_xy            int32   [N, 2]               (column, row) in the score map
    tissue, inside  float32 [N]                  shares of the tile's area
    blur, pen       float32 [N]                  quality measures of the pixels
    cellularity     float32 [N]                  NaN is "not scored"
    cellularity_std float32 [N]                  NaN unless several views were scored
    class_fraction  float32 [N, classes]
    cell_area       uint8   [N, 2, rows, columns]  only of models that can tell; see `Scores`
    state           uint8   [N]                  see `TileState`

Every chunk carries a CRC-32C. The root's attributes carry a digest of themselves and of each
array's metadata.

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
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from wsi_pipeline.digests import digest_of
from wsi_pipeline.geometry import Size
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store_place import ROOT_METADATA, StorePath, zarr_store

SCHEMA_VERSION = 3

MAX_SHARD_TILES = 64
MIN_SHARD_TILES = 8
WANTED_SHARDS = 16
"""Small slides get small shards, so that reading and scoring can still overlap."""

CHUNK_TILES = 16
"""Tiles to a chunk of pixels, at most: enough for zarr to write quickly, few for who wants one."""

PIXELS = "rgb"
STATE = "state"
GRID = ("l0_xy", "m_xy", "tissue", "inside")
MEASURES = ("blur", "pen")
SCORES = ("cellularity", "cellularity_std", "class_fraction")
CELL_AREA = "cell_area"


def shard_tiles(n_tiles: int) -> int:
    """Tiles to a shard: a power of two that gives small slides several shards.

    >>> [shard_tiles(n_tiles) for n_tiles in (5, 400, 100_000)]
    [8, 16, 64]
    """
    wanted = max(1, n_tiles // WANTED_SHARDS)
    return min(MAX_SHARD_TILES, max(MIN_SHARD_TILES, 1 << (wanted.bit_length() - 1)))


def make_store(path: StorePath, grid: TileGrid, *, tile_px: int, tiling: Mapping[str, Any]) -> None:
    """Write the arrays and attributes of a store without pixels and scores.

    Args:
        path: of the store; must not exist.
        grid: the tiles.
        tile_px: side of a tile in pixels.
        tiling: identity of the slide and the whole tiling configuration.

    """
    per_shard = shard_tiles(len(grid))
    group = zarr.create_group(zarr_store(path))
    write_grid(group, grid)
    for name in MEASURES:
        make_per_tile(group, name, (len(grid),), per_shard)
    _make(
        group,
        STATE,
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
        "grid_digest": grid_digest(grid),
        "arrays": metadata_digests(path, (*GRID, *MEASURES, STATE)),
    }
    group.update_attributes(sealed(attributes))


def make_per_tile(group: zarr.Group, name: str, shape: tuple[int, ...], per_shard: int) -> None:
    """Make an array of float32 with a row for each tile and a chunk for each shard, all NaN."""
    chunks = (per_shard, *shape[1:])
    _make(group, name, shape=shape, chunks=chunks, dtype="float32", fill_value=float("nan"))


def make_cell_area(group: zarr.Group, n_tiles: int, side: int, per_shard: int) -> None:
    """Make the array of areas of cells and tissue, in squares of which `side` make a tile's."""
    _make(
        group,
        CELL_AREA,
        shape=(n_tiles, 2, side, side),
        chunks=(per_shard, 2, side, side),
        dtype="uint8",
        fill_value=0,
        compressors=(
            BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.noshuffle),
            Crc32cCodec(),
        ),
        dimension_names=("tile", "of", "row", "column"),
        # As folders, four dimensions would be three for each shard.
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"of": ["malignant cells", "tissue"], "unit": "share of the square, in 255ths"},
    )


def make_pixels(group: zarr.Group, n_tiles: int, tile_px: int, per_shard: int) -> None:
    """Make the array of pixels."""
    _make(
        group,
        PIXELS,
        shape=(n_tiles, tile_px, tile_px, 3),
        chunks=(min(per_shard, CHUNK_TILES), tile_px, tile_px, 3),
        dtype="uint8",
        fill_value=0,
        compressors=(
            BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.noshuffle),
            Crc32cCodec(),
        ),
        dimension_names=("tile", "row", "column", "channel"),
    )


def write_grid(group: zarr.Group, grid: TileGrid) -> None:
    """Write the arrays that say where tiles lie, over whatever is there."""
    for name in GRID:
        values = getattr(grid, name)
        array = _make(group, name, shape=values.shape, chunks=values.shape, dtype=values.dtype)
        array[:] = values


def grid_of(columns: Mapping[str, Any], frame: Mapping[str, Any]) -> TileGrid:
    """Return the grid that a store was made for, from its arrays and its attribute "grid"."""
    return TileGrid(
        l0_xy=np.asarray(columns["l0_xy"], np.int64),
        m_xy=np.asarray(columns["m_xy"], np.int32),
        tissue=np.asarray(columns["tissue"], np.float32),
        inside=np.asarray(columns["inside"], np.float32),
        m_size=Size(*frame["m_size"]),
        l0_origin=(frame["l0_origin"][0], frame["l0_origin"][1]),
        l0_tile=frame["l0_tile"],
        l0_stride=frame["l0_stride"],
        n_candidates=frame["n_candidates"],
    )


def grid_digest(grid: TileGrid) -> str:
    """Return the SHA-256 of a grid."""
    digest = hashlib.sha256(digest_of(_frame_of(grid)).encode())
    for name in GRID:
        digest.update(np.ascontiguousarray(getattr(grid, name)).tobytes())
    return digest.hexdigest()


def metadata_digests(path: StorePath, names: tuple[str, ...]) -> dict[str, str]:
    """Return the SHA-256 of the metadata of arrays, by their names."""
    return {
        name: hashlib.sha256((path / name / ROOT_METADATA).read_bytes()).hexdigest()
        for name in names
    }


def sealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest of attributes to them, in an order that their history does not change."""
    arrays = dict(sorted(attributes["arrays"].items()))
    return {**attributes, "arrays": arrays, "digest": _digest_without_itself(attributes)}


def require_sound_root(metadata: bytes) -> None:
    """Raise ValueError unless the metadata of a store's root are as they were written."""
    root = json.loads(metadata)
    if not isinstance(root, dict) or not isinstance(root.get("attributes"), dict):
        raise ValueError("its metadata are of something else")  # noqa: TRY004 - bad data
    attributes = root.pop("attributes")
    root.pop("consolidated_metadata", None)
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"it has layout version {version}, and {SCHEMA_VERSION} is read here")
    is_sealed = attributes.get("digest") == _digest_without_itself(attributes)
    if not is_sealed or root != {"zarr_format": 3, "node_type": "group"}:
        raise ValueError("its metadata were changed")


def _make(group: zarr.Group, name: str, **layout: Any) -> Any:  # noqa: ANN401 - zarr's
    layout = {"compressors": (Crc32cCodec(),)} | layout
    return group.create_array(name, overwrite=True, config={"write_empty_chunks": True}, **layout)


def _frame_of(grid: TileGrid) -> dict[str, Any]:
    return {
        "m_size": [grid.m_size.width, grid.m_size.height],
        "l0_origin": list(grid.l0_origin),
        "l0_tile": grid.l0_tile,
        "l0_stride": grid.l0_stride,
        "n_candidates": grid.n_candidates,
    }


def _digest_without_itself(attributes: Mapping[str, Any]) -> str:
    return digest_of({key: value for key, value in attributes.items() if key != "digest"})
