"""Tiling against a plain OpenSlide loop (read level 0, resize, write), one core, in one run.

python -m tests.benchmarks.tiling [repeats]
"""

import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
import zarr

from tests.benchmarks.big_slide import build
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.grid import GridConfig, TileGrid, tile_grid
from wsi_pipeline.slide import Slide
from wsi_pipeline.store import TileStore
from wsi_pipeline.tiling import tile_slide

TILE = 512


def openslide_loop(path: Path, grid: TileGrid, folder: Path) -> None:
    """What a lab writes on its first day: one tile after the other, into an unsharded zarr."""
    array = zarr.create_array(
        folder / "loop.zarr",
        shape=(len(grid), TILE, TILE, 3),
        chunks=(1, TILE, TILE, 3),
        dtype="uint8",
        compressors=None,
    )
    with openslide.OpenSlide(path) as slide:
        for index in range(len(grid)):
            box = grid.l0_box(index)
            rgba = slide.read_region((box.x, box.y), 0, (box.width, box.height))
            rgb = np.asarray(rgba.convert("RGB"))
            array[index] = cv2.resize(rgb, (TILE, TILE), interpolation=cv2.INTER_AREA)


def ours(path: Path, grid: TileGrid, folder: Path) -> None:
    """Fill a store, quality measures and checksums included, with one reading thread."""
    store = TileStore.create(folder / "tiles.zarr", grid, tile_px=TILE, tiling={})
    with (
        Slide.open(path) as slide,
        tile_slide(slide, store, tile_px=TILE, workers=1) as shards,
    ):
        deque(shards, maxlen=0)


def main(repeats: int) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "big.tif"
        build(path, repeats)
        with Slide.open(path) as slide:
            mask = np.ones((64, 64), bool)
            grid = tile_grid(slide.l0_bounds, Mpp(slide.mpp), mask, GridConfig(), slide.name)
        print(f"{len(grid)} tiles of a JPEG pyramid at {slide.mpp:.4f} µm/px, one core")
        rates: dict[str, list[float]] = {}
        runs: dict[str, Callable[[Path, TileGrid, Path], None]] = {
            "plain OpenSlide loop": openslide_loop,
            "wsi tile": ours,
        }
        for _ in range(3):
            for name, run in runs.items():
                scratch = folder / "scratch"
                scratch.mkdir()
                start = time.process_time()
                run(path, grid, scratch)
                rates.setdefault(name, []).append(len(grid) / (time.process_time() - start))
                shutil.rmtree(scratch)
        for name, values in rates.items():
            print(f"{name:22} {np.median(values):6.1f} tiles/s of CPU time (of {values})")
        ratio = np.median(np.divide(rates["wsi tile"], rates["plain OpenSlide loop"]))
        print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
