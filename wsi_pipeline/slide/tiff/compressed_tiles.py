"""Plain tiled TIFFs, read compressed tile by compressed tile.

tiffslide itself would go through zarr's event loop for every tile, which takes twice as long as
decoding it. Here each tile is decoded once for all the patches that it touches and all the threads
that read them, and JPEG tiles are decoded at a part of their size where that is wanted.

Tiles hold anything: what they would have to set aside memory for is checked first.
"""

import io
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box
from wsi_pipeline.slide.access import is_away, one_line
from wsi_pipeline.slide.resample import Rgb, area_mean
from wsi_pipeline.slide.tiff.colour import JPEG_2000, PALETTE, WEBP, contradicts_tags, tile_decoder
from wsi_pipeline.slide.tiff.decoded_tiles import TileCache
from wsi_pipeline.slide.tiff.headers import MAX_TILE_PX
from wsi_pipeline.slide.tiff.jpeg import COMPRESSIONS, ShrinkingDecoder, frame_of
from wsi_pipeline.slide.tiff.unsupported import CONVERT, planes_apart, unknown_compression

log = logging.getLogger(__name__)

Rescue = Callable[[int, Box], Rgb]
"""Reads a box of a level in another way; raises if that fails too."""

DECODED_TO_SIZE = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""Uncompressed, LZW, deflate, PackBits, LZMA, Zstandard: decoded into a buffer of the tile's size.

The others say in their own header how large they become."""

DECODED = DECODED_TO_SIZE | COMPRESSIONS | JPEG_2000 | WEBP
"""Compressions that are supported."""

EXCESS = 4
"""A compressed tile that says it becomes so many times larger than a tile is damaged, or a bomb."""


class LostTileError(ValueError):
    """A compressed tile cannot be decoded, in another way neither."""


class SharedFile:
    """A file that threads read from, at once where the operating system lets them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._is_local = isinstance(file, io.BufferedReader) and hasattr(os, "pread")

    def read_at(self, offset: int, count: int) -> bytes:
        """Read at an offset; fewer bytes where the file ends."""
        if self._is_local:
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return bytes(self._file.read(count))


class TiledLevels:
    """The levels of a TIFF that are plain tiled RGB; safe to share between threads."""

    def __init__(self, pages: Sequence[tifffile.TiffPage], file: SharedFile) -> None:
        self.rescue: Rescue | None = None
        """Asked for the tiles that cannot be decoded."""
        self._pages = pages
        self._file = file
        self._decoders = [ShrinkingDecoder.of(page) for page in pages]
        self._whole = [tile_decoder(page) for page in pages]
        self._cache = TileCache()
        self._lost: dict[tuple[int, int], str] = {}

    @property
    def shrinks(self) -> tuple[tuple[int, ...], ...]:
        """By which whole numbers the tiles of each level can be decoded smaller."""
        return tuple(() if decoder is None else decoder.shrinks for decoder in self._decoders)

    def read(self, level: int, box: Box, shrink: int) -> Rgb:
        """Read whole pixels of one level, white where the file leaves tiles out.

        Args:
            level: its index.
            box: in pixels of the level at one part in `shrink` of its sides, and within them.
            shrink: 1, or one of the level's `shrinks`.

        Raises:
            LostTileError: if a tile is damaged.

        """
        page = self._pages[level]
        touched = list(_places(page, box, shrink))
        places = [place for place in touched if page.databytecounts[place.tile]]
        for place in places if self._lost else ():
            self._raise_if_lost(level, place.tile)
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        if len(places) < len(touched):
            pixels[:] = 255
        lost: LostTileError | None = None
        for place in places:
            key = (level, place.tile, shrink)
            try:
                tile = self._cache.get(key, partial(self._decoded, *key), place.taken_px)
            except LostTileError as error:  # the others of the region are noted, too
                lost = lost or error
            else:
                pixels[place.in_box] = tile[place.in_tile]
        if lost is not None:
            raise lost
        return pixels

    def _decoded(self, level: int, index: int, shrink: int) -> Rgb:
        """Decode one compressed tile, at least what lies on the level of it."""
        self._raise_if_lost(level, index)
        page, decoder = self._pages[level], self._decoders[level]
        segment = self._segment(page, index)
        if shrink > 1 and decoder is not None:
            try:
                return decoder.decode(segment, shrink)
            except ValueError as error:
                log.debug("Tile %d of directory %d is shrunk whole: %s", index, page.index, error)
        try:
            whole = self._whole[level](segment, index)
        except MemoryError:
            raise
        # Damaged tiles surface as whatever the codec raises.
        except Exception as error:
            if self.rescue is None:
                raise
            whole = self._rescued(self.rescue, level, index, error)
        return area_mean(whole, shrink, shrink)

    def _raise_if_lost(self, level: int, index: int) -> None:
        """Raise for a tile that is known to be lost: nobody is asked for it again."""
        if reason := self._lost.get((level, index)):
            raise _lost(self._pages[level], index, reason)

    def _segment(self, page: tifffile.TiffPage, index: int) -> bytes:
        count = page.databytecounts[index]
        most = EXCESS * (page.tilelength * page.tilewidth * page.samplesperpixel + (1 << 14))
        if count > most:
            raise ValueError(
                f"a tile of {page.tilewidth}x{page.tilelength} px claims {count:,} bytes"
            )
        return self._file.read_at(page.dataoffsets[index], count)

    def _rescued(self, rescue: Rescue, level: int, index: int, reason: Exception) -> Rgb:
        """Ask for a damaged tile elsewhere; note it if it is lost."""
        page = self._pages[level]
        try:
            return rescue(level, _box_of(page, index))
        except Exception as error:
            if is_away(error):
                raise
            self._lost[level, index] = one_line(reason)
            raise _lost(page, index, one_line(reason)) from reason


def plain_pages(
    series: tifffile.TiffPageSeries, properties: dict[str, Any]
) -> list[tifffile.TiffPage] | None:
    """Return each level's page if all are plain tiled colour pictures, or None."""
    if properties.get("tiffslide.series-composition") is not None:
        return None
    pages: list[Any] = [level.pages[0] for level in series.levels]
    plain = all(
        isinstance(page, tifffile.TiffPage)
        and page.is_tiled
        and (page.axes == "YXS" or int(page.photometric) == PALETTE)
        and len(level.pages) == 1
        for page, level in zip(pages, series.levels, strict=True)
    )
    return pages if plain else None


def guard(page: tifffile.TiffPage, location: str) -> None:
    """Have a picture's tiles checked before they are decoded, whoever asks for them.

    Raises:
        SlideError: if its tiles or strips cannot be decoded within bounds.

    """
    codec = int(page.compression)
    if codec not in DECODED:
        raise SlideError(f"{location}: {unknown_compression(codec)}.")
    height, width = (
        (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    )
    if height * width > MAX_TILE_PX:
        raise SlideError(
            f"{location}: its picture is stored in pieces of {width:,} × {height:,} px, and each "
            f"would be decoded whole. {CONVERT}."
        )
    limit = EXCESS * height * width * max(3, page.samplesperpixel)
    decode = page.decode

    def checked(segment: bytes | None, index: int, **options: Any) -> Any:  # noqa: ANN401
        if segment is not None:
            header = options.get("jpegheader") or b""
            values = _declared_values(codec, header + segment)
            if values > limit:
                raise ValueError(f"a tile of {width}x{height} px claims {values:,} values")
        return decode(segment, index, **options)

    page.decode = checked


def require_believed(location: str) -> None:
    """Raise if OpenSlide, which believes a TIFF's tags, would show other colours than are stored.

    Raises:
        SlideError: if the first tile contradicts them.

    """
    with tifffile.TiffFile(location) as tiff:
        page = tiff.pages.first
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.compression in COMPRESSIONS:
            raise SlideError(f"{location}: {planes_apart(page.samplesperpixel, 'tiles')}.")
        stored = next((index for index, count in enumerate(page.databytecounts) if count), None)
        if stored is None:
            return
        with Path(location).open("rb") as file:
            file.seek(page.dataoffsets[stored])
            segment = file.read(min(page.databytecounts[stored], MAX_TILE_PX))
    if contradicts_tags(page, segment):
        raise SlideError(
            f"{location}: its tiles hold other colours than its tags say, and OpenSlide would show "
            f"them wrongly. Leave slide.backend at auto, or export the slide again."
        )


class _Place(NamedTuple):
    """Where the pixels that a box takes of a tile are."""

    tile: int
    taken_px: int
    in_box: tuple[slice, slice]
    in_tile: tuple[slice, slice]


def _places(page: tifffile.TiffPage, box: Box, shrink: int) -> Iterator[_Place]:
    """Give the tiles that a box touches, all of them shrunk, in the file's order."""
    width, height = page.tilewidth // shrink, page.tilelength // shrink
    across = -(-page.imagewidth // page.tilewidth)
    columns = list(_steps(box.x, box.right, width))
    for row, rows, in_box_rows, in_tile_rows in _steps(box.y, box.bottom, height):
        for column, count, in_box_columns, in_tile_columns in columns:
            yield _Place(
                row * across + column,
                rows * count,
                (in_box_rows, in_box_columns),
                (in_tile_rows, in_tile_columns),
            )


def _steps(start: int, stop: int, side: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Cut a range at the tiles' borders: the tile, how many pixels, where in the range and tile."""
    for number in range(start // side, -(-stop // side)):
        first, last = max(start, number * side), min(stop, (number + 1) * side)
        origin = number * side
        yield (
            number,
            last - first,
            slice(first - start, last - start),
            slice(first - origin, last - origin),
        )


def _box_of(page: tifffile.TiffPage, index: int) -> Box:
    """Return the part of a level that a tile covers."""
    row, column = divmod(index, -(-page.imagewidth // page.tilewidth))
    width, height = page.tilewidth, page.tilelength
    return Box(column * width, row * height, width, height).intersection(
        Box(0, 0, page.imagewidth, page.imagelength)
    )


def _lost(page: tifffile.TiffPage, index: int, reason: str) -> LostTileError:
    return LostTileError(f"tile {index} of its directory {page.index}: {reason}")


def _declared_values(codec: int, segment: bytes) -> int:
    """Return how many values a compressed tile says it becomes; 0 where that is not its to say."""
    if codec in COMPRESSIONS:
        frame = frame_of(segment)
        return 0 if frame is None else frame.size.width * frame.size.height * frame.components
    if codec in JPEG_2000:
        start = segment.find(b"\xff\x4f\xff\x51")
        right, bottom, left, top = struct.unpack_from(">4I", segment, start + 8)
        (components,) = struct.unpack_from(">H", segment, start + 40)
        return int((right - left) * (bottom - top) * components)
    if codec in WEBP:
        with Image.open(BytesIO(segment), formats=["WEBP"]) as picture:
            return picture.width * picture.height * 4
    return 0
