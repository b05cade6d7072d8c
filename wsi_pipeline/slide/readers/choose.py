"""The two libraries that decode slides, behind one face; nothing else imports them.

Both decode the same JPEG and JPEG 2000 tiles with the same libraries: on level 0 their pixels are
equal. On lower levels whose downsample is not a whole number OpenSlide places pixels with sub-pixel
interpolation where tiffslide takes the nearest; `tests/integration/test_slide.py` holds the
difference to the tolerance stated there.

Of plain tiled TIFFs tiffslide reads the headers alone, and `slide.tiff.compressed_tiles` the tiles.
"""

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import openslide
import tiffslide

from wsi_pipeline.errors import ColourError, SlideError
from wsi_pipeline.files import is_url, open_binary
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.slide.access import is_away, one_line, unavailable
from wsi_pipeline.slide.dicom import fault_of_dicom, require_placed_frames
from wsi_pipeline.slide.files import dicom_header, files_of
from wsi_pipeline.slide.readers.quiet_libraries import hushed
from wsi_pipeline.slide.resample import Rgb, area_mean
from wsi_pipeline.slide.stated_mpp import Statement, length_statement, power_statement
from wsi_pipeline.slide.tiff.colour import UNASSOCIATED, ColourTags, over_white
from wsi_pipeline.slide.tiff.compressed_tiles import (
    DECODED,
    Rescue,
    SharedFile,
    TiledLevels,
    guard,
    plain_pages,
    require_believed,
)
from wsi_pipeline.slide.tiff.headers import Picture
from wsi_pipeline.slide.tiff.unsupported import (
    CONVERT,
    KIND_BYTES,
    fault_of,
    kind_of,
    openslide_lacks,
    unsupported,
)

# It tells the terminal, and not the caller, which formats it knows little of.
warnings.filterwarnings("ignore", module="tiffslide")

Backend = Literal["auto", "openslide", "tiffslide"]
APERIO, DICOM, GENERIC_TIFF = "aperio", "dicom", "generic-tiff"
PLAIN_VENDORS = frozenset({APERIO, GENERIC_TIFF})
"""Where both readers agree pixel by pixel, tiffslide is chosen: it decodes three times as fast."""
_DICOM_SPACING = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[{}]"
VENDORS_MPP = (
    (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y, "µm"),
    ("aperio.MPP", "aperio.MPP", "µm"),
    (
        "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X",
        "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_Y",
        "µm",
    ),
    ("ventana.ScanRes", "ventana.ScanRes", "µm"),
    (_DICOM_SPACING.format(1), _DICOM_SPACING.format(0), "mm"),
)
"""OpenSlide's properties of the pixel size along x and y: what it understands, then a vendor's."""
VENDORS_POWER = (
    "aperio.AppMag",
    "dicom.ObjectiveLensPower",
    "hamamatsu.SourceLens",
    "leica.objective",
    "mirax.GENERAL.OBJECTIVE_MAGNIFICATION",
    "sakura.NominalLensMagnification",
    "trestle.Objective Power",
    "ventana.Magnification",
)
HAMAMATSU_SUFFIX = ".ndpi"
"""By it alone, tifffile takes a file for one of Hamamatsu's."""
OPENSLIDE_LACKS = "Unsupported TIFF compression"
TIFFSLIDE_MPP = ("tiffslide.mpp-x", "tiffslide.mpp-y")
SHRUNK_AT_ONCE_PX = 1 << 24
"""What is read at most to be shrunk by a reader that has no better way."""


class Reader(Protocol):
    """What `Slide` needs of a reading library. Reads stay within the level."""

    vendor: str
    sizes: tuple[Size, ...]
    """Of all levels."""
    downsamples: tuple[float | None, ...]
    """Of the levels, where the format itself says it; None where it is for the sizes to tell."""
    l0_bounds: Box | None
    mpp: Statement | None
    """What the format itself says; what every TIFF may say is not the reader's to tell."""
    objective_power: Statement | None
    shrinks: tuple[tuple[int, ...], ...]
    """For each level, by which whole numbers it is read smaller for less than at its full size."""
    rescue: Rescue | None
    """Asked for the tiles that cannot be decoded, where the library says which they are."""

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level; raises whatever the library raises.

        Args:
            level: its index.
            box: in pixels of the level at one part in `shrink` of its sides.
            shrink: 1, or what the reader in use offers for the level: the other one does it, too.

        """
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

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level; raises whatever the library raises.

        The error may be another thread's, which has spent the reader: see `read_alone`.
        """
        lease = self._taken()
        try:
            return lease.reader.read_level(level, box, shrink)
        except Exception as error:
            if lease.reader.is_spent(error):
                self._retire(lease)
            raise
        finally:
            self._give_back(lease)

    def read_alone(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read with a reader of this read's own: an error is its own, too."""
        with closing(self._open()) as reader:
            return reader.read_level(level, box, shrink)

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
        self._location = location
        with hushed():
            self._slide = openslide.OpenSlide(location)
        try:
            self._read_header()
        except BaseException:
            self._slide.close()
            raise

    def _read_header(self) -> None:
        properties = self._slide.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.sizes = _sizes(self._slide.level_dimensions)
        self.downsamples = tuple(
            None if math.isclose(own, divided, rel_tol=1e-9) else own
            for own, divided in zip(
                self._slide.level_downsamples, _quotients(self.sizes), strict=True
            )
        )
        self.shrinks: tuple[tuple[int, ...], ...] = ((),) * len(self.sizes)
        # The library leaves out what it does not understand, and keeps it under a vendor's name.
        stated = (
            length_statement(properties.get(x), properties.get(y), unit)
            for x, y, unit in VENDORS_MPP
        )
        self.mpp = None if self.vendor == GENERIC_TIFF else next(filter(None, stated), None)
        powers = map(properties.get, (openslide.PROPERTY_NAME_OBJECTIVE_POWER, *VENDORS_POWER))
        self.objective_power = power_statement(next(filter(None, powers), None))
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
        if self.vendor in PLAIN_VENDORS:
            require_believed(self._location)

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level, shrunk by their area mean."""
        if shrink > 1:
            return _shrunk(partial(self.read_level, level), box, shrink)
        # The library wants level-0 coordinates and divides by its own downsample.
        downsample = self._slide.level_downsamples[level]
        l0_corner = (round(box.x * downsample), round(box.y * downsample))
        rgba = np.asarray(self._slide.read_region(l0_corner, level, (box.width, box.height)))
        return np.ascontiguousarray(over_white(rgba, (UNASSOCIATED,)))

    def is_spent(self, error: Exception) -> bool:
        """Tell whether the error is the library's own: it then refuses all further reads."""
        return isinstance(error, openslide.OpenSlideError)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


class TiffSlideReader:
    """Reads TIFFs, by paths and URLs."""

    def __init__(self, location: str) -> None:
        self._file = ExitStack()
        try:
            # Opened here, since tiffslide hands names to fsspec.
            file: Any = self._file.enter_context(open_binary(location))
            self._slide = tiffslide.TiffSlide(file)
            self._read_header(file, location)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, file: BinaryIO, location: str) -> None:
        properties = self._slide.properties
        self.vendor = str(properties["tiffslide.vendor"] or GENERIC_TIFF)
        self.sizes = _sizes(self._slide.level_dimensions)
        self.downsamples: tuple[float | None, ...] = (None,) * len(self.sizes)
        self.l0_bounds: Box | None = None
        x, y = ("aperio.MPP",) * 2 if self.vendor == APERIO else TIFFSLIDE_MPP
        self.mpp = (
            None
            if self.vendor == GENERIC_TIFF
            else length_statement(_text(properties.get(x)), _text(properties.get(y)))
        )
        self.objective_power = power_statement(_text(properties["tiffslide.objective-power"]))
        series = self._slide.ts_tifffile.series[properties["tiffslide.series-index"]]
        for level in series.levels:
            guard(level.keyframe, location)
        pages = plain_pages(series, properties)
        self._tiles = None if pages is None else TiledLevels(pages, SharedFile(file))
        self.shrinks = self._tiles.shrinks if self._tiles else ((),) * len(self.sizes)
        self._extra: tuple[int, ...] = ()
        for level in series.levels:
            tags = ColourTags.of(level.keyframe)
            refusal = tags.refusal() or (None if self._tiles else tags.refusal_unless_tiled())
            if refusal:
                raise ColourError(f"{location}: {refusal}.")
            self._extra = tags.extra

    @property
    def rescue(self) -> Rescue | None:
        """Asked for the tiles that cannot be decoded, where the library says which they are."""
        return self._tiles.rescue if self._tiles else None

    @rescue.setter
    def rescue(self, rescue: Rescue | None) -> None:
        if self._tiles:
            self._tiles.rescue = rescue

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level, shrunk in the decoder or by their area mean."""
        if self._tiles is not None:
            return self._tiles.read(level, box, shrink)
        if shrink > 1:
            return _shrunk(partial(self.read_level, level), box, shrink)
        # The library divides by its own downsample and truncates: stay off the rounding edge.
        downsample = self._slide.level_downsamples[level]
        nudge = 1e-6 if downsample > 1 else 0.0
        l0_x, l0_y = (int(np.ceil(start * downsample + nudge)) for start in (box.x, box.y))
        pixels = self._slide.read_region(
            (l0_x, l0_y), level, (box.width, box.height), as_array=True
        )
        return np.ascontiguousarray(over_white(pixels, self._extra))

    def is_spent(self, error: Exception) -> bool:
        """Tell whether the file handle may have gone stale; a damaged tile does no harm."""
        return isinstance(error, OSError)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
        self._file.close()


READERS: dict[str, Callable[[str], Reader]] = {
    "openslide": OpenSlideReader,
    "tiffslide": TiffSlideReader,
}


def open_reader(location: str, backend: Backend, pictures: Sequence[Picture]) -> tuple[str, Reader]:
    """Open a slide with the reader named, or with the one that suits it best.

    Args:
        location: a path or an fsspec URL.
        backend: the reader.
        pictures: what the file's directories say; none if it is no TIFF.

    Raises:
        SlideUnavailableError: if the file cannot be reached now.
        SlideError: if no reader can read it, or not all that is in it.

    """
    vendor = None if is_url(location) else _detected(location)
    if not is_url(location) and vendor in {None, *PLAIN_VENDORS} and (fault := fault_of(pictures)):
        raise SlideError(f"{location}: {fault}.")
    if vendor == DICOM:
        require_placed_frames(files_of(location))
    errors = []
    for candidate in _candidates(location, backend, vendor):
        try:
            reader = READERS[candidate](location)
        except SlideError:
            raise
        # The readers raise errors of their own, of tifffile's, zarr's and the codecs'.
        except Exception as error:
            if is_away(error):
                raise unavailable(location, error) from error
            errors.append(f"{candidate}: {one_line(error)}")
        else:
            # By URL nothing tells the vendor before.
            if (
                is_url(location)
                and reader.vendor in PLAIN_VENDORS
                and (fault := fault_of(pictures))
            ):
                reader.close()
                raise SlideError(f"{location}: {fault}.")
            return candidate, reader
    said = "; ".join(errors)
    raise SlideError(f"{location}: {_why_unread(location, vendor, pictures, said)} ({said})")


def _why_unread(location: str, vendor: str | None, pictures: Sequence[Picture], said: str) -> str:
    """Say why no reader reads a file; damage is no more than a guess where its kind is unknown."""
    if pictures and location.lower().endswith(HAMAMATSU_SUFFIX) and vendor in PLAIN_VENDORS:
        return f"it is named {HAMAMATSU_SUFFIX}, but is a plain TIFF. Rename it to .tif."
    lacks = OPENSLIDE_LACKS in said and pictures[0].compression in DECODED
    reason = (
        fault_of(pictures)
        or (openslide_lacks(pictures[0].compression) if lacks else None)
        or unsupported(pictures, DECODED)
    )
    if reason is not None and vendor in {None, *PLAIN_VENDORS}:
        return f"{reason}."
    if vendor is not None and pictures:
        return (
            f"it is a slide of {vendor}'s of a kind that is not supported, or one of its parts is "
            f"damaged. {CONVERT}, or export it anew."
        )
    if not is_url(location) and (header := dicom_header(location)) is not None:
        return f"{fault_of_dicom(header.modality, said)}."
    with open_binary(location) as file:
        kind = kind_of(file.read(KIND_BYTES))
    if kind is not None:
        return (
            f"this is not a slide, but {kind}, which OpenSlide and tiffslide do not read. Check "
            f"that it is one, or convert it with `vips tiffsave` or the program that wrote it."
        )
    return (
        "this is not a slide that OpenSlide or tiffslide can read, or it is damaged. "
        "Check that it is one, or copy it again."
    )


def _detected(location: str) -> str | None:
    """Return the vendor by OpenSlide's word; None if it does not know the file."""
    with hushed():
        vendor: str | None = openslide.OpenSlide.detect_format(location)
    return vendor


def _candidates(location: str, backend: Backend, vendor: str | None) -> tuple[str, ...]:
    if backend != "auto":
        return (backend,)
    if is_url(location):
        return ("tiffslide",)
    return ("tiffslide", "openslide") if vendor in PLAIN_VENDORS else ("openslide", "tiffslide")


def _shrunk(read: Callable[[Box], Rgb], box: Box, shrink: int) -> Rgb:
    """Read a box at a part of its size by area means, in bands whose memory has a bound."""
    rows = max(1, SHRUNK_AT_ONCE_PX // (box.width * shrink**2))
    bands = [
        area_mean(read(Box(*(side * shrink for side in astuple(band)))), shrink, shrink)
        for top in range(box.y, box.bottom, rows)
        for band in [Box(box.x, top, box.width, rows).intersection(box)]
    ]
    return np.concatenate(bands)


def _sizes(dimensions: Sequence[tuple[int, int]]) -> tuple[Size, ...]:
    if any(min(sides) < 1 for sides in dimensions):
        raise ValueError("a level of the pyramid has no pixels")
    return tuple(Size(width, height) for width, height in dimensions)


def _quotients(sizes: Sequence[Size]) -> Iterator[float]:
    """Give what OpenSlide takes for the scales of levels of which a format says none."""
    for size in sizes:
        yield (sizes[0].width / size.width + sizes[0].height / size.height) / 2


def _text(value: object) -> str | None:
    return None if value is None else str(value)
