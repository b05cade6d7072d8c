"""TIFFs whose JPEG tiles are written in each of the ways that scanners have."""

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

TABLES = (0xDB, 0xC4)
"""Markers of quantisation and Huffman tables."""


def encode(tile: NDArray[np.uint8], kind: str, *, quality: int = 85) -> bytes:
    """Return a whole JPEG: "rgb" without a marker that says so, or YCbCr, "444", "422" or "420"."""
    if kind == "rgb":
        return imagecodecs.jpeg8_encode(
            tile, level=quality, colorspace="rgb", outcolorspace="rgb", subsampling="444"
        )
    return imagecodecs.jpeg8_encode(tile, level=quality, subsampling=kind)


def segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Give the marker, start and end of a JPEG's segments, up to its scan."""
    at = 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        yield stream[at + 1], at, end
        at = end


def bare(stream: bytes) -> bytes:
    """Leave out what says who wrote a JPEG, and what its components are."""
    named = [(start, end) for marker, start, end in segments(stream) if marker in (0xE0, 0xEE)]
    for start, end in reversed(named):
        stream = stream[:start] + stream[end:]
    return stream


def abbreviated(stream: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG into its tables and the rest, as Aperio stores them."""
    tables, rest, last = b"", stream[:2], 2
    for marker, start, end in segments(stream):
        if marker in TABLES:
            tables += stream[start:end]
        else:
            rest += stream[start:end]
        last = end
    return stream[:2] + tables + b"\xff\xd9", rest + stream[last:]


def write_jpeg_slide(
    path: Path,
    rgb: NDArray[np.uint8],
    kind: str,
    *,
    tile: int = 64,
    tables_apart: bool = False,
    mpp: float = 0.25,
) -> list[bytes]:
    """Write a picture as one level of JPEG tiles; return each tile as a whole JPEG."""
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    streams = [
        encode(np.ascontiguousarray(padded[y : y + tile, x : x + tile]), kind)
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]
    stored, tables = [bare(stream) for stream in streams], None
    if tables_apart:
        tables = abbreviated(stored[0])[0]
        assert {abbreviated(stream)[0] for stream in stored} == {tables}
        stored = [abbreviated(stream)[1] for stream in stored]
    subsampling = {"420": (2, 2), "422": (2, 1)}.get(kind, (1, 1))
    tifffile.imwrite(
        path,
        iter(stored),
        shape=rgb.shape,
        dtype=np.uint8,
        tile=(tile, tile),
        photometric="rgb" if kind == "rgb" else "ycbcr",
        subsampling=None if kind == "rgb" else subsampling,
        compression="jpeg",
        compressionargs={"outcolorspace": "rgb"} if kind == "rgb" else None,
        jpegtables=tables,
        metadata=None,
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )
    return streams
