"""The two libraries that decode slides, behind one face; nothing else imports them.

Both decode the same JPEG and JPEG 2000 tiles with the same libraries: on level 0 their pixels are
equal. On lower levels whose downsample is not a whole number OpenSlide places pixels with sub-pixel
interpolation where tiffslide takes the nearest; `tests/integration/test_slide.py` holds the
difference to the tolerance stated there.

Both are given headers that say anything and tiles that hold anything: what they would have to set
aside memory for is checked first.
"""

import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, Protocol

import numpy as np
import openslide
import tifffile
import tiffslide
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.reachable import is_away, one_line, unavailable
from wsi_pipeline.slide_files import is_url, open_binary
from wsi_pipeline.tiff import MAX_TILE_PX

Backend = Literal["auto", "openslide", "tiffslide"]
Rgb = NDArray[np.uint8]
"""uint8 [rows, columns, 3]."""

TIFFSLIDE_VENDORS = frozenset({"aperio", "generic-tiff"})
"""Where both readers agree pixel by pixel, tiffslide is chosen: it decodes three times as fast."""

JPEG = frozenset({6, 7})
JPEG_2000 = frozenset({33003, 33004, 33005, 33007, 34712})
WEBP = frozenset({34927, 50001})
DECODED_TO_SIZE = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""Uncompressed, LZW, deflate, PackBits, LZMA, Zstandard: decoded into a buffer of the tile's size.

The others say in their own header how large they become."""

SCAN = 0xFFDA
FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
"""JPEG's markers of a frame; those left out are of tables and extensions."""
BARE = frozenset(range(0xFFD0, 0xFFDA)) | {0xFFFF}

EXCESS = 4
"""A compressed tile that says it becomes so many times larger than a tile is damaged, or a bomb."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid; `downsample` is its pixel's side in level-0 pixels."""

    size: Size
    downsample: float


Rescue = Callable[[int, Box], Rgb]
"""Reads a box of a level in another way; raises if that fails too."""


class LostTileError(ValueError):
    """A compressed tile cannot be decoded, in another way neither."""


class Reader(Protocol):
    """What `Slide` needs of a reading library. Reads stay within the level."""

    vendor: str
    levels: tuple[Level, ...]
    l0_bounds: Box | None
    mpp_xy: tuple[float, float] | None
    objective_power: float | None
    rescue: Rescue | None
    """Asked for the tiles that cannot be decoded, where the library says which they are."""

    def read_level(self, level: int, box: Box) -> Rgb:
        """Read whole pixels of one level; raises whatever the library raises."""
        ...

    def is_spent(self, error: Exception) -> bool:
        """Tell whether it can read nothing more after this error."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class SharedReader:
    """A reader that threads share, opened anew after an error that it does not survive.

    A spent reader closes as soon as the last thread that reads from it has left it.
    """

    def __init__(self, open_it: Callable[[], Reader], opened: Reader) -> None:
        self._open = open_it
        self._lock = threading.Lock()
        self._lease: _Lease | None = _Lease(opened)
        self._closed = False

    def read_level(self, level: int, box: Box) -> Rgb:
        """Read whole pixels of one level; raises whatever the library raises.

        The error may be another thread's, which has spent the reader: see `read_alone`.
        """
        lease = self._taken()
        try:
            return lease.reader.read_level(level, box)
        except Exception as error:
            if lease.reader.is_spent(error):
                self._retire(lease)
            raise
        finally:
            self._give_back(lease)

    def read_alone(self, level: int, box: Box) -> Rgb:
        """Read with a reader of this read's own: an error is its own, too."""
        with closing(self._open()) as reader:
            return reader.read_level(level, box)

    def close(self) -> None:
        """Close the file, once nobody reads from it any more; reads fail from then on."""
        with self._lock:
            lease, self._lease = self._lease, None
            self._closed = True
            idle = lease is not None and not lease.users
        if lease is not None and idle:
            lease.reader.close()

    def _taken(self) -> "_Lease":
        with self._lock:
            if self._closed:
                raise ValueError("the slide is closed")
            if self._lease is None:
                self._lease = _Lease(self._open())
            self._lease.users += 1
            return self._lease

    def _retire(self, lease: "_Lease") -> None:
        with self._lock:
            if self._lease is lease:
                self._lease = None

    def _give_back(self, lease: "_Lease") -> None:
        with self._lock:
            lease.users -= 1
            idle = lease is not self._lease and not lease.users
        if idle:
            lease.reader.close()


@dataclass(slots=True)
class _Lease:
    reader: Reader
    users: int = 0


class OpenSlideReader:
    """Reads what OpenSlide reads."""

    def __init__(self, location: str) -> None:
        self.rescue: Rescue | None = None
        self._slide = openslide.OpenSlide(location)
        try:
            self._read_header()
        except BaseException:
            self._slide.close()
            raise

    def _read_header(self) -> None:
        properties = self._slide.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.levels = _levels(self._slide.level_dimensions)
        self.mpp_xy = _positive_pair(
            properties.get(openslide.PROPERTY_NAME_MPP_X),
            properties.get(openslide.PROPERTY_NAME_MPP_Y),
        )
        self.objective_power = _positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
        bounds = [
            properties.get(name)
            for name in (
                openslide.PROPERTY_NAME_BOUNDS_X,
                openslide.PROPERTY_NAME_BOUNDS_Y,
                openslide.PROPERTY_NAME_BOUNDS_WIDTH,
                openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
            )
        ]
        known = [int(value) for value in bounds if value is not None]
        self.l0_bounds = Box(*known) if len(known) == len(bounds) else None

    def read_level(self, level: int, box: Box) -> Rgb:
        """Read whole pixels of one level."""
        # The library wants level-0 coordinates and divides by its own downsample.
        downsample = self._slide.level_downsamples[level]
        l0_corner = (round(box.x * downsample), round(box.y * downsample))
        rgba = np.asarray(self._slide.read_region(l0_corner, level, (box.width, box.height)))
        rgb: Rgb = np.ascontiguousarray(rgba[..., :3])
        transparent = rgba[..., 3] == 0
        if transparent.any():  # never scanned: glass
            rgb[transparent] = 255
        return rgb

    def is_spent(self, error: Exception) -> bool:
        """Tell whether the error is the library's own: it then refuses all further reads."""
        return isinstance(error, openslide.OpenSlideError)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


class TiffSlideReader:
    """Reads TIFFs, by paths and URLs."""

    def __init__(self, location: str) -> None:
        self.rescue: Rescue | None = None
        self._lost: dict[tuple[int, int], str] = {}
        self._file = ExitStack()
        try:
            # Opened here, since tiffslide hands names to fsspec.
            file: Any = self._file.enter_context(open_binary(location))
            self._slide = tiffslide.TiffSlide(file)
            self._read_header(location)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, location: str) -> None:
        properties = self._slide.properties
        self.vendor = str(properties["tiffslide.vendor"] or "generic-tiff")
        self.levels = _levels(self._slide.level_dimensions)
        self.l0_bounds: Box | None = None
        self.mpp_xy = _positive_pair(properties["tiffslide.mpp-x"], properties["tiffslide.mpp-y"])
        self.objective_power = _positive(properties["tiffslide.objective-power"])
        series = self._slide.ts_tifffile.series[properties["tiffslide.series-index"]]
        if self.vendor == "generic-tiff":
            _require_largest(series, self._slide.ts_tifffile.series, location)
        for level in series.levels:
            _guard(level.keyframe, location)
        self._tile_pages = _tile_pages(series, properties)
        self._file_lock = threading.Lock()
        self._recent = threading.local()
        dtype, channels = self._pixel_type(series)
        if dtype != np.uint8 or channels not in (3, 4):
            raise SlideError(
                f"{location}: its pixels are {dtype} with {channels} channel(s), but a brightfield "
                f"slide has 8-bit RGB. Export it as RGB."
            )

    def _pixel_type(self, series: tifffile.TiffPageSeries) -> tuple[Any, int]:
        if self._tile_pages is not None:  # not read: the first tile may be damaged
            return series.dtype, self._tile_pages[0].samplesperpixel
        probe = self._slide.read_region((0, 0), 0, (1, 1), as_array=True)
        return probe.dtype, probe.shape[-1]

    def read_level(self, level: int, box: Box) -> Rgb:
        """Read whole pixels of one level."""
        if self._tile_pages is not None:
            return self._read_tiles(level, self._tile_pages[level], box)
        # The library divides by its own downsample and truncates: stay off the rounding edge.
        downsample = self._slide.level_downsamples[level]
        nudge = 1e-6 if downsample > 1 else 0.0
        l0_x, l0_y = (int(np.ceil(start * downsample + nudge)) for start in (box.x, box.y))
        pixels = self._slide.read_region(
            (l0_x, l0_y), level, (box.width, box.height), as_array=True
        )
        return np.ascontiguousarray(pixels[..., :3], np.uint8)

    def is_spent(self, error: Exception) -> bool:
        """Tell whether the file handle may have gone stale; a damaged tile does no harm."""
        return isinstance(error, OSError)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
        self._file.close()

    def _read_tiles(self, level: int, page: tifffile.TiffPage, box: Box) -> Rgb:
        """Decode the compressed tiles that a region touches.

        tiffslide itself would go through zarr's event loop for every tile, which takes twice as
        long as decoding it. The tiles of a thread's last read are kept: its next one is usually
        beside it and shares a column of them.
        """
        tile_height, tile_width = page.tilelength, page.tilewidth
        across = -(-page.imagewidth // tile_width)
        indices = [
            row * across + column
            for row in range(box.y // tile_height, -(-box.bottom // tile_height))
            for column in range(box.x // tile_width, -(-box.right // tile_width))
        ]
        recent: dict[tuple[int, int], Rgb | None] = getattr(self._recent, "tiles", {})
        keys = {index: (page.index, index) for index in indices}
        self._raise_if_lost(keys.values())
        with self._file_lock:
            segments = {
                index: _bytes_at(page, page.dataoffsets[index], page.databytecounts[index])
                for index in indices
                if keys[index] not in recent
            }
        decoded: dict[tuple[int, int], Rgb | None] = {}
        pixels = np.full((box.height, box.width, 3), 255, np.uint8)
        for index in indices:
            key = keys[index]
            x, y = index % across * tile_width, index // across * tile_height
            tile_box = Box(x, y, tile_width, tile_height).intersection(
                Box(0, 0, page.imagewidth, page.imagelength)
            )
            if key in recent:
                tile = recent[key]
            else:
                try:
                    tile = _decoded(page, index, segments[index])
                except MemoryError:
                    raise
                # Damaged tiles surface as whatever the codec raises.
                except Exception as error:
                    if self.rescue is None:
                        raise
                    tile = self._rescued(self.rescue, level, key, tile_box, error)
            decoded[key] = tile
            if tile is None:  # never scanned: glass
                continue
            part = tile_box.intersection(box)
            pixels[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x] = (
                tile[part.y - y : part.bottom - y, part.x - x : part.right - x]
            )
        self._raise_if_lost(keys.values())
        self._recent.tiles = decoded
        return pixels

    def _rescued(
        self, rescue: Rescue, level: int, key: tuple[int, int], tile_box: Box, reason: Exception
    ) -> Rgb | None:
        """Ask for a damaged tile elsewhere; None, and it is noted, if it is lost."""
        try:
            return rescue(level, tile_box)
        except Exception as error:
            if is_away(error):
                raise
            self._lost[key] = one_line(reason)
            return None

    def _raise_if_lost(self, keys: Iterable[tuple[int, int]]) -> None:
        """Raise for tiles that are known to be lost: nobody is asked for them again."""
        for key in keys if self._lost else ():
            if key in self._lost:
                raise LostTileError(f"tile {key[1]} of its directory {key[0]}: {self._lost[key]}")


READERS: dict[str, Callable[[str], Reader]] = {
    "openslide": OpenSlideReader,
    "tiffslide": TiffSlideReader,
}


def open_reader(location: str, backend: Backend) -> tuple[str, Reader]:
    """Open a slide with the reader named, or with the one that suits it best.

    Raises:
        SlideUnavailableError: if the file cannot be reached now.
        SlideError: if no reader can read it.

    """
    errors = []
    for candidate in _candidates(location, backend):
        try:
            return candidate, READERS[candidate](location)
        except SlideError:
            raise
        # The readers raise errors of their own, of tifffile's, zarr's and the codecs'.
        except Exception as error:
            if is_away(error):
                raise unavailable(location, error) from error
            errors.append(f"{candidate}: {one_line(error)}")
    raise SlideError(
        f"{location}: this is not a slide that OpenSlide or tiffslide can read, or it is damaged. "
        f"Check that it is one, or copy it again. ({'; '.join(errors)})"
    )


def _candidates(location: str, backend: Backend) -> tuple[str, ...]:
    if backend != "auto":
        return (backend,)
    if is_url(location):
        return ("tiffslide",)
    if openslide.OpenSlide.detect_format(location) in TIFFSLIDE_VENDORS:
        return ("tiffslide", "openslide")
    return ("openslide", "tiffslide")


def _require_largest(
    series: tifffile.TiffPageSeries, pictures: Sequence[tifffile.TiffPageSeries], location: str
) -> None:
    """Raise if a TIFF that says nothing of its pictures has a larger one than the one to be read.

    The first is taken for the slide. Where it is the label, a patient's name would be copied.
    """
    height, width = series.keyframe.imagelength, series.keyframe.imagewidth
    for picture in pictures:
        other = picture.keyframe
        if other.imagelength * other.imagewidth > height * width:
            raise SlideError(
                f"{location}: its first picture has {width:,} × {height:,} px and another one "
                f"{other.imagewidth:,} × {other.imagelength:,}: the first may be the label. "
                f"Export the slide alone, or as the first."
            )


def _tile_pages(
    series: tifffile.TiffPageSeries, properties: dict[str, Any]
) -> list[tifffile.TiffPage] | None:
    """Return each level's page if all are plain tiled RGB, or None."""
    if properties.get("tiffslide.series-composition") is not None:
        return None
    pages: list[Any] = [level.pages[0] for level in series.levels]
    plain = all(
        isinstance(page, tifffile.TiffPage)
        and page.is_tiled
        and page.axes == "YXS"
        and len(level.pages) == 1
        for page, level in zip(pages, series.levels, strict=True)
    )
    return pages if plain else None


def _guard(page: tifffile.TiffPage, location: str) -> None:
    """Have a picture's tiles checked before they are decoded, whoever asks for them.

    Raises:
        SlideError: if its tiles or strips cannot be decoded within bounds.

    """
    codec = int(page.compression)
    if codec not in DECODED_TO_SIZE | JPEG | JPEG_2000 | WEBP:
        raise SlideError(
            f"{location}: its pixels are compressed in a way that is not supported "
            f"({one_line(str(page.compression))}). Convert it to a TIFF with JPEG tiles."
        )
    height, width = (
        (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    )
    if height * width > MAX_TILE_PX:
        raise SlideError(
            f"{location}: its picture is stored in pieces of {width:,} × {height:,} px, and each "
            f"would be decoded whole. Convert it to a tiled pyramid, for instance with "
            f"`vips tiffsave --tile --pyramid`."
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


def _declared_values(codec: int, segment: bytes) -> int:
    """Return how many values a compressed tile says it becomes; 0 where that is not its to say."""
    if codec in JPEG:
        return _jpeg_values(segment)
    if codec in JPEG_2000:
        start = segment.find(b"\xff\x4f\xff\x51")
        right, bottom, left, top = struct.unpack_from(">4I", segment, start + 8)
        (components,) = struct.unpack_from(">H", segment, start + 40)
        return int((right - left) * (bottom - top) * components)
    if codec in WEBP:
        with Image.open(BytesIO(segment), formats=["WEBP"]) as picture:
            return picture.width * picture.height * 4
    return 0


def _jpeg_values(segment: bytes) -> int:
    """Return width times height times components of a JPEG's frame; 0 if it has none."""
    at = segment.find(b"\xff")
    while 0 <= at <= len(segment) - 10:
        marker, length = struct.unpack_from(">HH", segment, at)
        if marker == SCAN:
            break
        if marker in FRAMES:
            height, width, components = struct.unpack_from(">HHB", segment, at + 5)
            return int(height * width * components)
        # Decoders skip what is no marker, so that is no place to hide.
        has_content = marker > 0xFFBF and marker not in BARE
        at = segment.find(b"\xff", at + 2 + length if has_content else at + 1)
    return 0


def _bytes_at(page: tifffile.TiffPage, offset: int, count: int) -> bytes | None:
    """Read one compressed tile; None where the file leaves it out."""
    if not count:
        return None
    most = EXCESS * (page.tilelength * page.tilewidth * page.samplesperpixel + (1 << 14))
    if count > most:
        raise ValueError(f"a tile of {page.tilewidth}x{page.tilelength} px claims {count:,} bytes")
    file = page.parent.filehandle
    file.seek(offset)
    return bytes(file.read(count))


def _decoded(page: tifffile.TiffPage, index: int, segment: bytes | None) -> Rgb | None:
    """Decode one compressed tile, uint8 [rows, columns, 3]; None where the file leaves it out."""
    if segment is None:
        return None
    pixels = page.decode(segment, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
    return np.asarray(np.asarray(pixels)[0][..., :3], np.uint8)


def _levels(dimensions: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    if any(min(sides) < 1 for sides in dimensions):
        raise ValueError("a level of the pyramid has no pixels")
    l0_width, l0_height = dimensions[0]
    return tuple(
        Level(Size(width, height), _downsample(l0_width, l0_height, width, height))
        for width, height in dimensions
    )


def _downsample(l0_width: int, l0_height: int, width: int, height: int) -> float:
    """Side of a level's pixel in level-0 pixels.

    Writers halve sides and drop or add the odd pixel: where a whole number explains both sides to
    within one pixel of the level, that number is meant, and 4443 → 2221 is 2, not 2.0005.
    """
    mean = (l0_width / width + l0_height / height) / 2
    whole = round(mean)
    if whole and max(abs(l0_width / whole - width), abs(l0_height / whole - height)) < 1:
        return float(whole)
    return mean


def _positive(value: object) -> float | None:
    """Return a number above zero, or None: headers hold blanks, zeros and words too."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if np.isfinite(number) and number > 0 else None


def _positive_pair(x: object, y: object) -> tuple[float, float] | None:
    both = _positive(x), _positive(y)
    return (both[0], both[1]) if both[0] is not None and both[1] is not None else None
