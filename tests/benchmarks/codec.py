"""Pixel codecs and chunks for the store on real tiles: size, and ms a tile to write and to read.

python -m tests.benchmarks.codec

The last column is what it takes to read one tile of many, which costs its whole chunk.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec

from tests.helpers.real_slides import slides_or_sample
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.slide import Slide

TILE, PER_SLIDE, SHARD, CHUNK = 512, 24, 64, 16

LZ4 = (BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.noshuffle), Crc32cCodec())

RUNS: dict[str, tuple[int, tuple[BytesBytesCodec, ...]]] = {
    **{f"LZ4, {tiles} to a chunk": (tiles, LZ4) for tiles in (1, 8, 16, 32, 64)},
    "none": (CHUNK, (Crc32cCodec(),)),
    "zstd, level 1": (CHUNK, (ZstdCodec(level=1), Crc32cCodec())),
    "zstd, level 3": (CHUNK, (ZstdCodec(level=3), Crc32cCodec())),
    "zstd, level 9": (CHUNK, (ZstdCodec(level=9), Crc32cCodec())),
}
"""Tiles to a chunk, and how they are packed."""


def real_tiles() -> NDArray[np.uint8]:
    """Tissue tiles of all real slides, at 0.5 µm/px."""
    tiles = []
    for path in slides_or_sample():
        with Slide.open(path, mpp=Mpp(0.5) if "tcga" in path.name else None) as slide:
            side = round(TILE * 0.5 / slide.mpp)
            boxes = [
                Box(x, y, side, side)
                for y in range(side, slide.l0_size.height - side, side)
                for x in range(side, slide.l0_size.width - side, side)
            ]
            read = (slide.read(box, Size(TILE, TILE)) for box in boxes)
            tiles += [tile for tile in read if tile.std() > 18][:PER_SLIDE]
    if len(tiles) < SHARD:  # of the sample alone
        tiles = (tiles * SHARD)[:SHARD]
    return np.stack(tiles[: len(tiles) // SHARD * SHARD])


def main() -> None:
    tiles = real_tiles()
    print(f"{len(tiles)} real tiles; size as share of raw, ms of CPU a tile")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{'codec':18} {'size':>6} {'write':>6} {'read':>6} {'one':>6}")
    for name, (chunk, codecs) in RUNS.items():
        folder = Path(tempfile.mkdtemp())
        array = zarr.create_array(
            folder / "tiles.zarr",
            shape=tiles.shape,
            chunks=(chunk, TILE, TILE, 3),
            dtype="uint8",
            compressors=codecs,
        )
        shards = [slice(start, start + SHARD) for start in range(0, len(tiles), SHARD)]
        start = time.process_time()
        for shard in shards:
            array[shard] = tiles[shard]
        written = time.process_time()
        for shard in shards:
            array[shard]
        read = time.process_time()
        ones = range(0, len(tiles), SHARD // 2)
        for index in ones:
            array[index]
        one = (time.process_time() - read) * 1e3 / len(ones)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        per_tile = 1e3 / len(tiles)
        print(
            f"{name:18} {size / tiles.nbytes:6.2f} {(written - start) * per_tile:6.2f} "
            f"{(read - written) * per_tile:6.2f} {one:6.1f}"
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
