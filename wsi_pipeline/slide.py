"""`Slide`: the only place that imports OpenSlide and tiffslide.

A slide is read in level-0 boxes (see `wsi_pipeline.geometry`) at whatever size the caller wants;
the level to read from, the resampling, the padding outside the slide and the choice between the
two readers are decided here.

Both readers decode the same JPEG and JPEG 2000 tiles with the same libraries: on level 0 their
pixels are equal. On lower levels whose downsample is not a whole number OpenSlide places pixels
with sub-pixel interpolation where tiffslide takes the nearest; `tests/integration/test_slide.py`
holds the difference to the tolerance stated there.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import cv2
import fsspec
import numpy as np
import openslide
import tifffile
import tiffslide
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.mpp import MppSources, isotropic, referee_mpp, tiff_tag_mpp
from wsi_pipeline.slide_files import content_digest, files_of, is_url, open_binary

log = logging.getLogger(__name__)

Backend = Literal["auto", "openslide", "tiffslide"]
Rgb = NDArray[np.uint8]
"""uint8 [rows, columns, 3]."""

TIFFSLIDE_VENDORS = frozenset({"aperio", "generic-tiff"})
"""Where both readers agree pixel by pixel, tiffslide is chosen: it decodes three times as fast."""

MAX_UPSAMPLING_OF_LEVEL = 1.05
"""A level may be coarser than wanted by this much and still be read from."""

BLOCK_PX = 2048
"""Side, in pixels of the level read, of the pieces in which large regions are read."""

LEAST_BLOCK_PX = 64
"""Side, likewise, of the smallest piece in which the readable parts of a damaged one are sought."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid; `downsample` is its pixel's side in level-0 pixels."""

    size: Size
    downsample: float


class _Reader(Protocol):
    """What `Slide` needs of a reading library. Reads stay within the level."""

    vendor: str
    levels: tuple[Level, ...]
    l0_bounds: Box | None
    mpp_xy: tuple[float, float] | None
    objective_power: float | None

    def read_level(self, level: int, box: Box) -> Rgb: ...

    def close(self) -> None: ...


class _OpenSlideReader:
    def __init__(self, location: str) -> None:
        self._slide = openslide.OpenSlide(location)
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
        # The library wants level-0 coordinates and divides by its own downsample.
        downsample = self._slide.level_downsamples[level]
        l0_corner = (round(box.x * downsample), round(box.y * downsample))
        rgba = np.asarray(self._slide.read_region(l0_corner, level, (box.width, box.height)))
        rgb: Rgb = np.ascontiguousarray(rgba[..., :3])
        transparent = rgba[..., 3] == 0
        if transparent.any():  # never scanned: glass
            rgb[transparent] = 255
        return rgb

    def close(self) -> None:
        self._slide.close()


class _TiffSlideReader:
    def __init__(self, location: str) -> None:
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
        probe = self._slide.read_region((0, 0), 0, (1, 1), as_array=True)
        if probe.dtype != np.uint8 or probe.shape[-1] not in (3, 4):
            raise SlideError(
                f"{location}: its pixels are {probe.dtype} with {probe.shape[-1]} channel(s), but "
                f"a brightfield slide has 8-bit RGB. Export it as RGB."
            )

        self._tile_pages = self._find_tile_pages()
        self._file_lock = threading.Lock()
        self._recent = threading.local()

    def read_level(self, level: int, box: Box) -> Rgb:
        if self._tile_pages is not None:
            return self._read_tiles(self._tile_pages[level], box)
        # The library divides by its own downsample and truncates: stay off the rounding edge.
        downsample = self._slide.level_downsamples[level]
        nudge = 1e-6 if downsample > 1 else 0.0
        l0_x, l0_y = (int(np.ceil(start * downsample + nudge)) for start in (box.x, box.y))
        pixels = self._slide.read_region(
            (l0_x, l0_y), level, (box.width, box.height), as_array=True
        )
        return np.ascontiguousarray(pixels[..., :3], np.uint8)

    def close(self) -> None:
        self._slide.close()
        self._file.close()

    def _find_tile_pages(self) -> list[tifffile.TiffPage] | None:
        """Return each level's page if all are plain tiled RGB, or None."""
        properties = self._slide.properties
        if properties.get("tiffslide.series-composition") is not None:
            return None
        series = self._slide.ts_tifffile.series[properties["tiffslide.series-index"]]
        pages = [level.pages[0] for level in series.levels]
        plain = all(
            isinstance(page, tifffile.TiffPage)
            and page.is_tiled
            and page.axes == "YXS"
            and len(level.pages) == 1
            for page, level in zip(pages, series.levels, strict=True)
        )
        return pages if plain else None

    def _read_tiles(self, page: tifffile.TiffPage, box: Box) -> Rgb:
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
            tile = recent[key] if key in recent else _decoded(page, index, segments[index])
            decoded[key] = tile
            if tile is None:  # never scanned: glass
                continue
            x, y = index % across * tile_width, index // across * tile_height
            tile_box = Box(x, y, tile.shape[1], tile.shape[0])
            part = tile_box.intersection(box)
            pixels[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x] = (
                tile[part.y - y : part.bottom - y, part.x - x : part.right - x]
            )
        self._recent.tiles = decoded
        return pixels


_READERS: dict[str, Callable[[str], _Reader]] = {
    "openslide": _OpenSlideReader,
    "tiffslide": _TiffSlideReader,
}


def _bytes_at(page: tifffile.TiffPage, offset: int, count: int) -> bytes | None:
    """Read one compressed tile; None where the file leaves it out."""
    if not count:
        return None
    file = page.parent.filehandle
    file.seek(offset)
    return bytes(file.read(count))


def _decoded(page: tifffile.TiffPage, index: int, segment: bytes | None) -> Rgb | None:
    """Decode one compressed tile, uint8 [rows, columns, 3]; None where the file leaves it out."""
    if segment is None:
        return None
    pixels = page.decode(segment, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
    return np.asarray(np.asarray(pixels)[0][..., :3], np.uint8)


class Slide:
    """A slide opened for reading; safe to share between threads.

    Attributes:
        name: the file's name, without its folders, or what the caller calls it.
        l0_size: the whole level 0, in pixels.
        l0_bounds: the scanned part of level 0 (all of it for most formats).
        mpp: µm per level-0 pixel, and `mpp_source`, where it came from.
        mpp_sources: all that the file says of its pixel size.
        vendor: the format, in OpenSlide's terms.
        backend: the reader in use, "openslide" or "tiffslide".
        levels: the pyramid.
        repaired_reads: reads that only succeeded at a second try or with the other reader.
        unreadable: level-0 boxes that no thumbnail could show, since they cannot be decoded.

    """

    def __init__(
        self,
        location: str,
        backend: str,
        reader: _Reader,
        mpp_override: Mpp | None,
        name: str | None = None,
    ) -> None:
        self._location = location
        self._reader = reader
        self._spare: _Reader | None = None
        self._lock = threading.Lock()
        self.repaired_reads = 0
        self.unreadable: list[Box] = []
        self.backend = backend
        self.name = name or Path(location).name
        self.vendor = reader.vendor
        self.levels = reader.levels
        self.l0_size = reader.levels[0].size
        whole = Box(0, 0, self.l0_size.width, self.l0_size.height)
        self.l0_bounds = whole.intersection(reader.l0_bounds) if reader.l0_bounds else whole
        self.mpp_sources = MppSources(
            reader=None
            if reader.mpp_xy is None or mpp_override is not None
            else isotropic(*reader.mpp_xy, self.name),
            tiff_tags=_tiff_tags_mpp(location),
            objective_power=reader.objective_power,
        )
        self.mpp, self.mpp_source = referee_mpp(self.mpp_sources, mpp_override, self.name)

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        backend: Backend = "auto",
        mpp: Mpp | None = None,
        name: str | None = None,
    ) -> Self:
        """Open a slide.

        Args:
            location: a path, or an fsspec URL such as ``s3://bucket/slide.svs`` (TIFF family only).
            backend: the reader; "auto" takes tiffslide for URLs and for the formats that it reads
                exactly as OpenSlide does, and OpenSlide for all others.
            mpp: overrides what the file says of its level-0 pixel size, in µm.
            name: what to call it; None is its file's name.

        Raises:
            SlideError: if the file is missing, empty, truncated or not a slide.
            MppError: if the pixel size is missing, implausible or contradictory.

        """
        where = str(location)
        _check_file(where)
        chosen, reader = _open_reader(where, backend)
        try:
            return cls(where, chosen, reader, mpp, name)
        except BaseException:
            reader.close()
            raise

    def read(self, l0_box: Box, size: Size) -> Rgb:
        """Read a region, resampled to `size` with anti-aliasing; white outside the slide.

        The level is the coarsest that is still fine enough. Placement is exact to less than half a
        pixel of that level.

        Args:
            l0_box: the region in level-0 pixels; it may reach beyond the slide.
            size: of the returned picture.

        Returns:
            uint8 RGB [size.height, size.width, 3].

        Raises:
            SlideError: if the region can be read neither at a second try nor by the other reader.

        """
        wanted = min(l0_box.width / size.width, l0_box.height / size.height)
        index = best_level(self.levels, wanted)
        level = self.levels[index]
        x, y, width, height = (
            side / level.downsample for side in (l0_box.x, l0_box.y, l0_box.width, l0_box.height)
        )
        left, top = int(np.floor(x + 1e-6)), int(np.floor(y + 1e-6))
        right, bottom = int(np.ceil(x + width - 1e-6)), int(np.ceil(y + height - 1e-6))
        wanted_box = Box(left, top, right - left, bottom - top)
        inside = wanted_box.intersection(Box(0, 0, level.size.width, level.size.height))
        if inside.size == wanted_box.size:
            pixels = self._read_level(index, wanted_box)
        else:
            pixels = np.full((wanted_box.height, wanted_box.width, 3), 255, np.uint8)
            if inside.width and inside.height:
                row, column = inside.y - top, inside.x - left
                pixels[row : row + inside.height, column : column + inside.width] = (
                    self._read_level(index, inside)
                )
        return resample(pixels, (x - left, y - top, width, height), size)

    def thumbnail(self, mpp: Mpp) -> Rgb:
        """Read all of `l0_bounds` at `mpp`, piece by piece, so that memory is the result's alone.

        What cannot be decoded is white, and noted in `unreadable`.

        Returns:
            uint8 RGB [rows, columns, 3].

        """
        l0_per_px = mpp / self.mpp
        size = self.size_at(mpp)
        picture = np.full((size.height, size.width, 3), 255, np.uint8)
        bounds = self.l0_bounds
        level = self.levels[best_level(self.levels, l0_per_px)]

        def fill(block: Box) -> None:
            x, y = bounds.x + round(block.x * l0_per_px), bounds.y + round(block.y * l0_per_px)
            right = bounds.x + round(block.right * l0_per_px)
            bottom = bounds.y + round(block.bottom * l0_per_px)
            # Not beyond the bounds: the last pixel would fade into the white outside.
            l0_box = Box(x, y, right - x, bottom - y).intersection(bounds)
            try:
                picture[block.y : block.bottom, block.x : block.right] = self.read(
                    l0_box, block.size
                )
            except SlideError as error:
                halves = (-(-block.width // 2), -(-block.height // 2))
                if max(l0_box.width, l0_box.height) <= LEAST_BLOCK_PX * level.downsample:
                    log.warning("Left white in the thumbnail. %s", error)
                    self.unreadable.append(l0_box)
                else:
                    for part in _pieces(block, *halves):
                        fill(part)

        step = max(1, int(BLOCK_PX * level.downsample / l0_per_px))
        for block in _pieces(Box(0, 0, size.width, size.height), step, step):
            fill(block)
        return picture

    def size_at(self, mpp: Mpp) -> Size:
        """Size of `l0_bounds` in pixels of `mpp` µm, at least one."""
        return Size(
            max(1, round(self.l0_bounds.width * self.mpp / mpp)),
            max(1, round(self.l0_bounds.height * self.mpp / mpp)),
        )

    def digest(self) -> str:
        """Return the BLAKE2b digest (hex, 32 digits) of all of the slide's bytes, label included.

        The name does not count, so a renamed slide is the same slide. All files of the
        slide count (see `wsi_pipeline.slide_files`).
        """
        return content_digest(files_of(self._location))

    @property
    def size_bytes(self) -> int:
        """Size of all of the slide's files."""
        return sum(_size(part) for part in files_of(self._location))

    def close(self) -> None:
        """Close the file; reads fail from then on."""
        for reader in (self._reader, self._spare):
            if reader is not None:
                reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read_level(self, index: int, box: Box) -> Rgb:
        """Read whole pixels of one level: once more if it fails, then with the other reader."""
        reader = self._reader
        try:
            return reader.read_level(index, box)
        # Damaged tiles surface as whatever the decoder at hand raises: there is no common root.
        except Exception as first:  # noqa: BLE001
            log.debug("%s: level %d %s: %s", self.name, index, box, first)
            cause = first
        for attempt in (self._reopened, self._other_reader):
            try:
                pixels = attempt(reader).read_level(index, box)
            except Exception as error:  # noqa: BLE001
                log.debug("%s: level %d %s: %s", self.name, index, box, error)
            else:
                with self._lock:
                    self.repaired_reads += 1
                return pixels
        raise SlideError(
            f"{self.name}: {box.width}×{box.height} px at ({box.x}, {box.y}) of level {index} "
            f"cannot be decoded ({cause}). The file is damaged there: copy or scan it again."
        ) from cause

    def _reopened(self, failed: _Reader) -> _Reader:
        """Open the file again: after an error an OpenSlide handle refuses all further reads."""
        with self._lock:
            if self._reader is failed:
                self._reader = _READERS[self.backend](self._location)
                # Other threads may still be reading; the old handle closes when they let go of it.
            return self._reader

    def _other_reader(self, _failed: _Reader) -> _Reader:
        with self._lock:
            if self._spare is None:
                other = "tiffslide" if self.backend == "openslide" else "openslide"
                spare: _Reader = _READERS[other](self._location)
                if spare.levels != self.levels:
                    spare.close()
                    raise SlideError(f"{self.name}: {other} sees another pyramid")
                self._spare = spare
            return self._spare


def best_level(levels: tuple[Level, ...], downsample: float) -> int:
    """Index of the coarsest level that is still fine enough for `downsample`."""
    fine_enough = [
        index
        for index, level in enumerate(levels)
        if level.downsample <= downsample * MAX_UPSAMPLING_OF_LEVEL
    ]
    return max(fine_enough, key=lambda index: levels[index].downsample, default=0)


def resample(pixels: Rgb, box: tuple[float, float, float, float], size: Size) -> Rgb:
    """Resample a box of a picture to `size`.

    Shrinking averages whole blocks of pixels (the exact area mean, and OpenCV's fastest way), then
    takes what is left of the ratio, less than 2, with a Gaussian low-pass and cubic interpolation.

    Args:
        pixels: uint8 [rows, columns, 3].
        box: (x, y, width, height) in pixels of the picture, fractions allowed.
        size: of the result.

    """
    x, y, width, height = box
    blocks_x = max(1, int(width / size.width * MAX_UPSAMPLING_OF_LEVEL))
    blocks_y = max(1, int(height / size.height * MAX_UPSAMPLING_OF_LEVEL))
    if blocks_x > 1 or blocks_y > 1:
        columns, rows = -(-pixels.shape[1] // blocks_x), -(-pixels.shape[0] // blocks_y)
        extra_x, extra_y = columns * blocks_x - pixels.shape[1], rows * blocks_y - pixels.shape[0]
        if extra_x or extra_y:
            pixels = np.pad(pixels, ((0, extra_y), (0, extra_x), (0, 0)), mode="edge")
        pixels = np.asarray(
            cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8
        )
    x, y, width, height = x / blocks_x, y / blocks_y, width / blocks_x, height / blocks_y
    scale_x, scale_y = width / size.width, height / size.height
    whole = max(abs(side - round(side)) for side in (x, y, width, height)) < 0.02
    if whole and (round(width), round(height)) == (size.width, size.height):
        left, top = round(x), round(y)
        return np.ascontiguousarray(pixels[top : top + size.height, left : left + size.width])
    if max(scale_x, scale_y) > MAX_UPSAMPLING_OF_LEVEL:
        sigma_x, sigma_y = (0.5 * max(0.0, scale**2 - 1) ** 0.5 for scale in (scale_x, scale_y))
        blurred = cv2.GaussianBlur(pixels, (0, 0), max(sigma_x, 0.01), sigmaY=max(sigma_y, 0.01))
        pixels = np.asarray(blurred, np.uint8)
    if whole:
        left, top = round(x), round(y)
        crop = pixels[top : top + round(height), left : left + round(width)]
        return np.asarray(
            cv2.resize(crop, (size.width, size.height), interpolation=cv2.INTER_CUBIC), np.uint8
        )
    # Pixel centres lie at half-integers: output i is at x + (i + 0.5) * scale - 0.5 of the input.
    onto_source = np.array(
        [[scale_x, 0, x + scale_x / 2 - 0.5], [0, scale_y, y + scale_y / 2 - 0.5]], np.float64
    )
    placed = cv2.warpAffine(
        pixels,
        onto_source,
        (size.width, size.height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(placed, np.uint8)


def _open_reader(location: str, backend: Backend) -> tuple[str, _Reader]:
    candidates: tuple[str, ...]
    if backend != "auto":
        candidates = (backend,)
    elif is_url(location):
        candidates = ("tiffslide",)
    elif openslide.OpenSlide.detect_format(location) in TIFFSLIDE_VENDORS:
        candidates = ("tiffslide", "openslide")
    else:
        candidates = ("openslide", "tiffslide")
    reasons = []
    for candidate in candidates:
        try:
            return candidate, _READERS[candidate](location)
        except SlideError:
            raise
        # The readers raise errors of their own, of tifffile's, zarr's and the codecs'.
        except Exception as error:  # noqa: BLE001
            reasons.append(f"{candidate}: {error}")
    raise SlideError(_why_unreadable(location, "; ".join(reasons)))


def _pieces(box: Box, width: int, height: int) -> Iterator[Box]:
    """Cut a box into pieces of at most the given size, row by row."""
    for top in range(box.y, box.bottom, height):
        for left in range(box.x, box.right, width):
            yield Box(left, top, width, height).intersection(box)


def _check_file(location: str) -> None:
    """Say plainly what is wrong with a file before a reading library says it obscurely."""
    if is_url(location):
        filesystem, path = fsspec.core.url_to_fs(location)
        if not filesystem.exists(path):
            raise SlideError(f"{location}: there is no such file. Check the URL.")
        size = filesystem.size(path)
    else:
        path = Path(location)
        if not path.exists():
            raise SlideError(f"{location}: there is no such file. Check the path.")
        if path.is_dir():
            raise SlideError(
                f"{location}: this is a folder. Name the slide file in it (for DICOM, any one of "
                f"its .dcm files)."
            )
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
        except OSError as error:
            raise SlideError(f"{location}: cannot be read ({error.strerror}).") from error
    if not size:
        raise SlideError(f"{location}: the file is empty. Copy it again.")
    if not is_url(location):
        _check_not_truncated(Path(location), size)


def _check_not_truncated(path: Path, size: int) -> None:
    """Raise if a TIFF's tiles lie beyond the end of its file, as after a broken copy."""
    with _tiff(str(path)) as tiff:
        if tiff is None:
            return
        for page in tiff.pages:
            ends = [
                offset + count
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
                if offset
            ]
            if ends and max(ends) > size:
                raise SlideError(
                    f"{path}: the file is truncated: it ends at byte {size:,} but its pixels reach "
                    f"to byte {max(ends):,}. Copy it again."
                )


def _why_unreadable(location: str, reasons: str) -> str:
    magic = b""
    if not is_url(location):
        with Path(location).open("rb") as file:
            magic = file.read(4)
    if magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return (
            f"{location}: the TIFF's directory cannot be read: the file is truncated or damaged. "
            f"Copy it again. ({reasons})"
        )
    return (
        f"{location}: this is not a slide that OpenSlide or tiffslide can read, or it is damaged. "
        f"Check that it is one, or copy it again. ({reasons})"
    )


@contextmanager
def _tiff(location: str) -> Iterator[tifffile.TiffFile | None]:
    """Open a TIFF's directory; None if it is not a TIFF or its directory is damaged."""
    with open_binary(location) as file:
        try:
            tiff = tifffile.TiffFile(file)
            _ = tiff.pages.first
        # A damaged directory raises from struct, zlib or numpy as well as from tifffile.
        except Exception as error:  # noqa: BLE001
            log.debug("%s: no TIFF: %s", location, error)
            yield None
        else:
            yield tiff


def _tiff_tags_mpp(location: str) -> float | None:
    """Pixel size by the first page's resolution tags, in µm."""
    micrometres = {2: 25_400.0, 3: 10_000.0}
    with _tiff(location) as tiff:
        if tiff is None:
            return None
        tags = tiff.pages.first.tags
        unit = tags.get("ResolutionUnit")
        x, y = tags.get("XResolution"), tags.get("YResolution")
        if unit is None or x is None or y is None or int(unit.value) not in micrometres:
            return None
        per_unit = [value[0] / value[1] if value[1] else 0.0 for value in (x.value, y.value)]
        by_axis = [tiff_tag_mpp(value, micrometres[int(unit.value)]) for value in per_unit]
        if by_axis[0] is None or by_axis[1] is None:
            return None
        return float(np.sqrt(by_axis[0] * by_axis[1]))


def _size(location: str) -> int:
    if not is_url(location):
        return Path(location).stat().st_size
    filesystem, path = fsspec.core.url_to_fs(location)
    return int(filesystem.size(path))


def _levels(dimensions: tuple[tuple[int, int], ...]) -> tuple[Level, ...]:
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
