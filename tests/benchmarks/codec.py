"""Pixel codecs for the store on real tiles: size, and milliseconds a tile to write and to read.

python -m tests.benchmarks.codec
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec

from tests.real_slides import SLIDES
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide import Slide

TILE, PER_SLIDE, SHARD = 512, 24, 16

CODECS = {
    "none": (),
    "LZ4 and CRC-32C": (
        BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.noshuffle),
        Crc32cCodec(),
    ),
    "LZ4": (BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.noshuffle),),
    "zstd, level 1": (ZstdCodec(level=1),),
    "zstd, level 3": (ZstdCodec(level=3),),
    "zstd, level 9": (ZstdCodec(level=9),),
}


def real_tiles() -> NDArray[np.uint8]:
    """Tissue tiles of all real slides, at 0.5 µm/px."""
    tiles = []
    for path in sorted(SLIDES.iterdir()):
        if path.suffix not in (".svs", ".tif"):
            continue
        with Slide.open(path, mpp=Mpp(0.5) if "tcga" in path.name else None) as slide:
            side = round(TILE * 0.5 / slide.mpp)
            boxes = [
                Box(x, y, side, side)
                for y in range(side, slide.l0_size.height - side, side)
                for x in range(side, slide.l0_size.width - side, side)
            ]
            read = (slide.read(box, Size(TILE, TILE)) for box in boxes)
            tiles += [tile for tile in read if tile.std() > 18][:PER_SLIDE]
    return np.stack(tiles[: len(tiles) // SHARD * SHARD])


def main() -> None:
    tiles = real_tiles()
    print(f"{len(tiles)} real tiles; size as share of raw, ms of CPU a tile")
    print(f"{'codec':18} {'size':>6} {'write':>6} {'read':>6}")
    for name, codecs in CODECS.items():
        folder = Path(tempfile.mkdtemp())
        array = zarr.create_array(
            folder / "tiles.zarr",
            shape=tiles.shape,
            chunks=(1, TILE, TILE, 3),
            shards=(SHARD, TILE, TILE, 3),
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
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        per_tile = 1e3 / len(tiles)
        print(
            f"{name:18} {size / tiles.nbytes:6.2f} {(written - start) * per_tile:6.2f} "
            f"{(read - written) * per_tile:6.2f}"
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
