"""What reading and storing tiles takes, beside a plain OpenSlide loop, its peers, and the decoder.

python -m tests.benchmarks.tiling [repeats]

One core, one run, CPU time: nothing waits for the disk. The slides are JPEG pyramids at 40x. On one
of 0.25 µm/px the tiles of 512 px at 0.5 µm/px are whole pixels at half the size; on those of 0.2495
µm/px, as scanners are, they are resampled, and touch 25 compressed tiles each instead of 16. RGB
tiles are shrunk by the decoder; of 4:2:0 they are decoded whole (see `slide.tiff.jpeg`).
"""

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import simplejpeg
import tifffile
import tiffslide
import zarr

from tests.benchmarks.big_slide import build
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.slide.tiff.jpeg import ShrinkingDecoder
from wsi_pipeline.tiles.fill import Pixels, fill, read_tile
from wsi_pipeline.tiles.grid import GridConfig, TileGrid, tile_grid
from wsi_pipeline.tiles.store import TileStore

TILE = 512
ROUNDS = 3
LOOP, HALF = "OpenSlide loop: read, resize, store", "libjpeg-turbo alone, at half size"


@dataclass(frozen=True)
class Case:
    """A slide and its tiles; `streams` are its level-0 tiles as complete JPEGs."""

    path: Path
    mpp: Mpp
    grid: TileGrid
    streams: list[bytes]


def openslide_loop(case: Case, folder: Path) -> None:
    """What a lab writes on its first day: one tile after the other, into an unsharded zarr."""
    array = zarr.create_array(
        folder / "loop.zarr",
        shape=(len(case.grid), TILE, TILE, 3),
        chunks=(1, TILE, TILE, 3),
        dtype="uint8",
        compressors=None,
    )
    with openslide.OpenSlide(case.path) as slide:
        for index in range(len(case.grid)):
            box = case.grid.l0_box(index)
            rgba = slide.read_region((box.x, box.y), 0, (box.width, box.height))
            rgb = np.asarray(rgba.convert("RGB"))
            array[index] = cv2.resize(rgb, (TILE, TILE), interpolation=cv2.INTER_AREA)


def read_regions(open_it: Callable[[Path], Any], case: Case, _folder: Path) -> None:
    """Read the tiles from level 0, without resizing or keeping them."""
    slide = open_it(case.path)
    for index in range(len(case.grid)):
        box = case.grid.l0_box(index)
        np.asarray(slide.read_region((box.x, box.y), 0, (box.width, box.height)))
    slide.close()


def cucim_alone(case: Case, _folder: Path) -> None:
    """Read the tiles from level 0 with cuCIM."""
    slide = importlib.import_module("cucim").CuImage(str(case.path))
    for index in range(len(case.grid)):
        box = case.grid.l0_box(index)
        np.asarray(slide.read_region((box.x, box.y), (box.width, box.height), 0))


def fastslide_alone(case: Case, _folder: Path) -> None:
    """Read the tiles from level 0 with fastslide."""
    library = importlib.import_module("fastslide")
    slide = library.FastSlide.from_file_path(str(case.path))
    for index in range(len(case.grid)):
        box = case.grid.l0_box(index)
        slide.read_region(location=(box.x, box.y), level=0, size=(box.width, box.height)).numpy()


def ours_alone(case: Case, _folder: Path) -> None:
    """Read the tiles, resampled, without measuring or keeping them."""
    with Slide.open(case.path, mpp=case.mpp) as slide:
        for index in range(len(case.grid)):
            read_tile(slide, case.grid, index, TILE)


def ours(pixels: Pixels, case: Case, folder: Path) -> None:
    """Read tiles with one thread, quality measures included, and store them or not."""
    store = TileStore.create(folder / "tiles.zarr", case.grid, tile_px=TILE, tiling={})
    with (
        Slide.open(case.path, mpp=case.mpp) as slide,
        fill(slide, store, workers=1, pixels=pixels) as shards,
    ):
        deque(shards, maxlen=0)


def decoder_alone(shrink: int, case: Case, _folder: Path) -> None:
    """Decode every compressed tile once, into the same memory: nobody can be faster."""
    side = 256 // shrink
    buffer = np.empty((side, side, 3), np.uint8)
    for stream in case.streams:
        simplejpeg.decode_jpeg(stream, min_height=side, min_width=side, buffer=buffer)


def runs() -> Iterator[tuple[str, Callable[[Case, Path], None]]]:
    """Give what is measured."""
    yield LOOP, openslide_loop
    yield "OpenSlide alone, from level 0", partial(read_regions, openslide.OpenSlide)
    yield "tiffslide alone, from level 0", partial(read_regions, tiffslide.TiffSlide)
    for library, run in (("cucim", cucim_alone), ("fastslide", fastslide_alone)):
        if importlib.util.find_spec(library):
            yield f"{library} alone, from level 0", run
    yield "ours alone, resampled", ours_alone
    yield "ours: read, resample, measure", partial(ours, "in memory")
    yield "ours: read, resample, measure, store", partial(ours, "until scored")
    yield "libjpeg-turbo alone, at full size", partial(decoder_alone, 1)
    yield HALF, partial(decoder_alone, 2)


def made(path: Path, repeats: int, colour: str, mpp: Mpp | None) -> Case:
    """Build a slide; at another pixel size than its own if told."""
    build(path, repeats, colour=colour)
    with Slide.open(path, mpp=mpp) as slide:
        mask = np.ones((64, 64), bool)
        grid = tile_grid(slide.l0_bounds, slide.mpp, mask, GridConfig(), slide.name)
        used = slide.mpp
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        decoder = ShrinkingDecoder.of(page)
        streams = []
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            tiff.filehandle.seek(offset)
            streams.append(decoder.opening + tiff.filehandle.read(count)[2:])
    return Case(path, used, grid, streams)


def measured(case: Case, folder: Path) -> dict[str, float]:
    """Return the milliseconds that each run takes a tile, the median of some rounds."""
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, run in runs():
            scratch = folder / "scratch"
            scratch.mkdir()
            start = time.process_time()
            run(case, scratch)
            taken.setdefault(name, []).append((time.process_time() - start) * 1e3 / len(case.grid))
            shutil.rmtree(scratch)
    return {name: float(np.median(values)) for name, values in taken.items()}


def main(repeats: int) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    print(f"One core of {platform.processor() or platform.machine()}, CPU time, median of {ROUNDS}")
    for colour, mpp in (("rgb", Mpp(0.25)), ("rgb", None), ("420", None)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            case = made(folder / "big.tif", repeats, colour, mpp)
            print(f"\n{len(case.grid)} tiles of {TILE} px, {case.mpp:.4f} µm/px, JPEG {colour}\n")
            print("| | ms a tile | times the loop | share of libjpeg-turbo's rate at half size |")
            print("|---|---|---|---|")
            taken = measured(case, folder)
            for name, ms in taken.items():
                print(f"| {name} | {ms:.2f} | {taken[LOOP] / ms:.2f} | {taken[HALF] / ms:.0%} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
