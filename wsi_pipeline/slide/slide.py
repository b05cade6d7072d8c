"""`Slide`: a slide file, read in level-0 boxes (see `wsi_pipeline.geometry`) at any size.

The level to read from, the resampling, the padding outside the slide and what is done about damage
are decided here; `wsi_pipeline.slide.readers.choose` decodes.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideError, SlideUnavailableError
from wsi_pipeline.files import open_binary, require_no_secret
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.access import Footprint, footprint, is_away, one_line, unavailable
from wsi_pipeline.slide.dicom import described_levels
from wsi_pipeline.slide.files import content_digest, files_of
from wsi_pipeline.slide.level_gaps import blank_cells, cell_box, middle_of, runs_around, shows
from wsi_pipeline.slide.levels_agree import unlike_levels
from wsi_pipeline.slide.mpp import MppSources, referee_mpp
from wsi_pipeline.slide.pyramid import (
    Described,
    Level,
    View,
    best_level,
    finer_views,
    place_levels,
    scanned_part,
    views_of,
)
from wsi_pipeline.slide.readers.choose import (
    DICOM,
    GENERIC_TIFF,
    READERS,
    Backend,
    Reader,
    SharedReader,
    open_reader,
)
from wsi_pipeline.slide.redaction import without_place
from wsi_pipeline.slide.resample import Rgb, resample
from wsi_pipeline.slide.stated_mpp import described_power, pixel_size, tags_statement
from wsi_pipeline.slide.tiff.compressed_tiles import LostTileError
from wsi_pipeline.slide.tiff.headers import MAX_SIDE_PX, Picture, check_tiff

log = logging.getLogger(__name__)

BLOCK_PX = 2048
"""Side, in pixels of what is read, of the pieces in which large regions are read."""

LEAST_BLOCK_PX = 64
"""Side of the smallest piece in which the readable parts of a damaged one are sought, in pixels of
the level that is decoded, shrunk or not."""

MAX_DAMAGED_BLOCKS = 200
"""More are not cut up: a slide so damaged is not worth the hours that its outlines would take."""


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
        levels: the pyramid, but for levels whose place is unclear; see `view_for` for what is read.
        repaired_reads: reads that only succeeded at a second try or with the other reader.
        unreadable: level-0 boxes that no thumbnail could show, since they cannot be decoded.

    """

    def __init__(
        self,
        location: str,
        backend: str,
        reader: Reader,
        levels: Sequence[Level | None],
        mpp_sources: MppSources,
        mpp_override: Mpp | None,
        found: Footprint,
        name: str,
    ) -> None:
        self._location = location
        self._found = found
        reader.rescue = self._rescued
        self._reader = SharedReader(self._reopened, reader)
        self._no_other = ""
        self._lock = threading.Lock()
        self.repaired_reads = 0
        self.unreadable: list[Box] = []
        self.backend = backend
        self.name = name
        self.vendor = reader.vendor
        self._sizes = reader.sizes
        self.levels = tuple(level for level in levels if level is not None)
        self._views = views_of(levels, reader.shrinks)
        self._finer = finer_views(levels, reader.shrinks)
        self.l0_size = reader.sizes[0]
        self.l0_bounds = scanned_part(self.l0_size, reader.l0_bounds)
        self.mpp_sources = mpp_sources
        self.mpp, self.mpp_source = referee_mpp(mpp_sources, mpp_override, name)

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
            SlideError: if the file is missing, empty, truncated, damaged or not a slide.
            SlideUnavailableError: if the file cannot be reached now.
            MppError: if the pixel size is missing, implausible or contradictory.

        """
        where = str(location)
        require_no_secret(where)
        called = name or Path(where).name
        found = footprint(where)
        pictures = _checked_tiff(where, found)
        chosen, reader = open_reader(where, backend, pictures)
        try:
            _require_possible(reader.sizes[0], where)
            described = _described(where, reader.vendor, pictures)
            levels = place_levels(reader.sizes, reader.downsamples, described, where)
            if reader.vendor in {GENERIC_TIFF, DICOM}:
                levels = _without_unlike(levels, chosen, pictures, where, called)
            sources = _mpp_sources(reader, pictures)
            return cls(where, chosen, reader, levels, sources, mpp, found, called)
        except BaseException:
            reader.close()
            raise

    def view_for(self, downsample: float) -> View:
        """Return what is read for pixels of so many level-0 pixels: the coarsest fine enough."""
        return self._views[best_level(self._views, downsample)]

    def read(self, l0_box: Box, size: Size) -> Rgb:
        """Read a region, resampled to `size` with anti-aliasing; white outside the slide.

        What is read is the coarsest view that is still fine enough; what is missing or damaged in
        its level is looked for in finer ones. Placement is exact to less than half a pixel of it.

        Args:
            l0_box: the region in level-0 pixels; it may reach beyond the slide.
            size: of the returned picture.

        Returns:
            uint8 RGB [size.height, size.width, 3].

        Raises:
            SlideError: if the region can be read neither at a second try nor by the other reader.
            SlideUnavailableError: if the file cannot be reached now, or is no longer the same.

        """
        view = self.view_for(min(l0_box.width / size.width, l0_box.height / size.height))
        return self._read_from(view, (l0_box.x, l0_box.y, l0_box.width, l0_box.height), size)

    def _read_from(
        self, view: View, l0_place: tuple[float, float, float, float], size: Size
    ) -> Rgb:
        """Read a place, (x, y, width, height) in level-0 pixels, from a view."""
        x, y, width, height = (side / view.downsample for side in l0_place)
        left, top = int(np.floor(x + 1e-6)), int(np.floor(y + 1e-6))
        right, bottom = int(np.ceil(x + width - 1e-6)), int(np.ceil(y + height - 1e-6))
        box = Box(left, top, right - left, bottom - top)
        inside = box.intersection(Box(0, 0, view.size.width, view.size.height))
        if inside.size == box.size:
            pixels = self._read_whole(view, box)
        else:
            pixels = np.full((box.height, box.width, 3), 255, np.uint8)
            if inside.width and inside.height:
                row, column = inside.y - top, inside.x - left
                pixels[row : row + inside.height, column : column + inside.width] = (
                    self._read_whole(view, inside)
                )
        return resample(pixels, (x - left, y - top, width, height), size)

    def thumbnail(self, mpp: Mpp) -> Rgb:
        """Read all of `l0_bounds` at `mpp`, piece by piece, so that memory is the result's alone.

        What cannot be decoded is white, and noted in `unreadable`.

        Returns:
            uint8 RGB [rows, columns, 3].

        Raises:
            SlideError: if nothing at all can be decoded.
            SlideUnavailableError: if the file cannot be reached now, or is no longer the same.

        """
        l0_per_px = mpp / self.mpp
        size = self.size_at(mpp)
        picture = np.full((size.height, size.width, 3), 255, np.uint8)
        view = self.view_for(l0_per_px)
        l0_level_px = view.downsample / view.shrink
        step = max(1, int(BLOCK_PX * view.downsample / l0_per_px))
        lost: list[Box] = []
        shown = False
        blocks = list(Box(0, 0, size.width, size.height).pieces(step, step))
        while blocks:
            damaged: list[Box] = []
            for block in blocks:
                l0_box = self._l0_box(block, l0_per_px)
                try:
                    pixels = self.read(l0_box, block.size)
                except SlideUnavailableError:
                    raise
                except SlideError as error:
                    log.debug("Left white in the thumbnail. %s", error)
                    least = max(block.width, block.height) == 1 or (
                        max(l0_box.width, l0_box.height) <= LEAST_BLOCK_PX * l0_level_px
                    )
                    (lost if least else damaged).append(block)
                else:
                    picture[block.y : block.bottom, block.x : block.right] = pixels
                    shown = True
            if len(damaged) > MAX_DAMAGED_BLOCKS:
                lost += damaged
                break
            blocks = [
                part
                for block in damaged
                for part in block.pieces(-(-block.width // 2), -(-block.height // 2))
            ]
        if not shown:
            raise SlideError(
                f"{self.name}: nothing of it can be decoded. The file is damaged throughout: copy "
                f"or scan it again."
            )
        if lost:
            self.unreadable += [self._l0_box(block, l0_per_px) for block in lost]
            log.warning(
                "%s: %d places cannot be decoded and are left white in the thumbnail, the first "
                "at level 0's %s",
                self.name,
                len(lost),
                self.unreadable[-len(lost)],
            )
        return picture

    def _l0_box(self, block: Box, l0_per_px: float) -> Box:
        """Return where a piece of a thumbnail lies, in level-0 pixels."""
        bounds = self.l0_bounds
        x, y = bounds.x + round(block.x * l0_per_px), bounds.y + round(block.y * l0_per_px)
        right = bounds.x + round(block.right * l0_per_px)
        bottom = bounds.y + round(block.bottom * l0_per_px)
        # Not beyond the bounds: the last pixel would fade into the white outside.
        return Box(x, y, right - x, bottom - y).intersection(bounds)

    def size_at(self, mpp: Mpp) -> Size:
        """Size of `l0_bounds` in pixels of `mpp` µm, at least one."""
        return Size(
            max(1, round(self.l0_bounds.width * self.mpp / mpp)),
            max(1, round(self.l0_bounds.height * self.mpp / mpp)),
        )

    def digest(self) -> str:
        """Return the BLAKE2b digest (hex, 32 digits) of all of the slide's bytes, label included.

        The name does not count, so a renamed slide is the same slide. All files of the
        slide count (see `wsi_pipeline.slide.files`).

        Raises:
            SlideUnavailableError: if the file cannot be reached now.
            SlideError: if one of its files may not be read.

        """
        with self._files_at_hand():
            return content_digest(files_of(self._location))

    @property
    def size_bytes(self) -> int:
        """Size of all of the slide's files."""
        with self._files_at_hand():
            return sum(footprint(part).size for part in files_of(self._location))

    def close(self) -> None:
        """Close the file; reads fail from then on."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read_whole(self, view: View, box: Box) -> Rgb:
        """Read whole pixels of a view, and those that its level lacks from a finer one."""
        finer = self._finer[view.level]
        try:
            pixels = self._read_view(view, box)
        except SlideUnavailableError:
            raise
        except SlideError:
            if not finer:
                raise
            if max(box.width, box.height) <= LEAST_BLOCK_PX:
                return self._read_instead(finer[0], view, box)
            pixels = np.empty((box.height, box.width, 3), np.uint8)
            for part in box.pieces(-(-box.width // 2), -(-box.height // 2)):
                rows, columns = part.y - box.y, part.x - box.x
                pixels[rows : rows + part.height, columns : columns + part.width] = (
                    self._read_whole(view, part)
                )
            return pixels
        cells = blank_cells(pixels) if finer else np.zeros((1, 1), np.bool_)
        for row, column in np.argwhere(cells):
            cell = cell_box(row, column)
            blank = pixels[cell.y, cell.x].copy()
            place = Box(cell.x + box.x, cell.y + box.y, *astuple(cell.size)).intersection(box)
            cells[row, column] = self._shows_more(finer, view, place, blank)
        for run in runs_around(cells):
            place = Box(run.x + box.x, run.y + box.y, *astuple(run.size)).intersection(box)
            pixels[run.y : run.bottom, run.x : run.right] = self._read_instead(
                finer[0], view, place
            )
        return pixels

    def _shows_more(
        self, finer: Sequence[View], view: View, box: Box, blank: NDArray[np.uint8]
    ) -> bool:
        """Whether a finer level shows more than a blank in the middle of a box."""
        middle = middle_of(box)
        for other in finer:
            scale = view.downsample / other.downsample
            left, top = int(middle.x * scale), int(middle.y * scale)
            right, bottom = int(middle.right * scale) + 1, int(middle.bottom * scale) + 1
            place = Box(left, top, right - left, bottom - top).intersection(
                Box(0, 0, other.size.width, other.size.height)
            )
            if not (place.width and place.height):
                continue
            try:
                pixels = self._read_view(other, place)
            except SlideUnavailableError:
                raise
            except SlideError:
                continue  # whoever reads it will find out
            if shows(pixels, blank):
                return True
        return False

    def _read_instead(self, finer: View, view: View, box: Box) -> Rgb:
        """Read a box of a view's pixels from a finer one."""
        log.debug("%s: %s of %s is read from %s", self.name, box, view, finer)
        side = view.downsample
        place = box.x * side, box.y * side, box.width * side, box.height * side
        return self._read_from(finer, place, box.size)

    def _read_view(self, view: View, box: Box) -> Rgb:
        """Read whole pixels of a view: once more if it fails, then with the other reader."""
        errors: list[Exception] = []
        for read in (self._reader.read_level, self._reader.read_alone, self._read_by_other):
            try:
                pixels = read(view.level, box, view.shrink)
            except LostTileError as error:  # the other reader was asked for it
                errors.append(error)
                break
            # Damaged tiles surface as whatever the decoder at hand raises, without a common root.
            except Exception as error:  # noqa: BLE001
                log.debug("%s: %s %s: %s", self.name, view, box, error)
                errors.append(error)
            else:
                if errors:
                    with self._lock:
                        self.repaired_reads += 1
                return pixels
        self._require_reachable(errors)
        raise SlideError(
            f"{self.name}: {box.width}×{box.height} px at ({box.x}, {box.y}) of level {view.level} "
            f"at 1/{view.shrink} cannot be decoded ({self._said(errors[0])}). The file is damaged "
            f"there: copy or scan it again."
        ) from errors[0]

    def _rescued(self, index: int, box: Box) -> Rgb:
        """Read with the other reader what the one in use finds damaged."""
        pixels = self._read_by_other(index, box)
        with self._lock:
            self.repaired_reads += 1
        return pixels

    def _read_by_other(self, index: int, box: Box, shrink: int = 1) -> Rgb:
        """Read with a reader of the other kind, opened for this read: an error is its own."""
        if self._no_other:
            raise ValueError(self._no_other)
        try:
            reader = self._opened_by_other()
        except Exception as error:
            if not is_away(error):
                self._no_other = one_line(error)  # nor will the next read open it
            raise
        with closing(reader):
            return reader.read_level(index, box, shrink)

    def _reopened(self) -> Reader:
        reader: Reader = READERS[self.backend](self._location)
        reader.rescue = self._rescued
        return reader

    def _opened_by_other(self) -> Reader:
        other = "tiffslide" if self.backend == "openslide" else "openslide"
        reader: Reader = READERS[other](self._location)
        if reader.sizes != self._sizes:
            reader.close()
            raise SlideError(f"{self.name}: {other} sees another pyramid")
        return reader

    @contextmanager
    def _files_at_hand(self) -> Iterator[None]:
        try:
            yield
        # Object stores have errors of their own, which no class unites.
        except Exception as error:
            self._require_reachable([error])
            raise SlideError(
                f"{self.name}: its bytes cannot be read ({self._said(error)}). Check the "
                f"permissions of all its files, or copy it again."
            ) from error

    def _said(self, error: Exception) -> str:
        """Say an error of a library in one line, by the name that the slide goes by."""
        return without_place(one_line(error), self._location, self.name)

    def _require_reachable(self, errors: Sequence[Exception]) -> None:
        """Raise if reads failed because of the way to the file, and not of its bytes."""
        for error in errors:
            if is_away(error):
                raise unavailable(self.name, self._said(error)) from error
        try:
            now = footprint(self._location)
        except SlideError as error:
            raise unavailable(self.name, "it was there when the slide was opened") from error
        if now != self._found:
            raise unavailable(self.name, "it has changed since the slide was opened") from errors[0]


def _mpp_sources(reader: Reader, pictures: Sequence[Picture]) -> MppSources:
    """Collect what the format and the first picture of a TIFF say of the pixel size."""
    said = {} if reader.mpp is None else {"reader": reader.mpp}
    power = reader.objective_power
    for first in pictures[:1]:
        said |= pixel_size(first.resolution, first.description, first.size)
        if not said:  # exports at a lower resolution keep the objective of the scan
            power = power or described_power(first.description)
    return MppSources.of(said, power)


def _checked_tiff(location: str, found: Footprint) -> tuple[Picture, ...]:
    """Check a TIFF's directories; return its pictures, none if it is no TIFF."""
    try:
        with open_binary(location) as file:
            return check_tiff(file, found.size, location)
    except SlideError:
        raise
    # Object stores have errors of their own, which no class unites.
    except Exception as error:
        if is_away(error):
            raise unavailable(location, error) from error
        raise SlideError(
            f"{location}: cannot be read ({one_line(error)}). Copy it again."
        ) from error


def _require_possible(l0_size: Size, location: str) -> None:
    """Raise if level 0 is larger than a slide can be."""
    if max(l0_size.width, l0_size.height) > MAX_SIDE_PX:
        raise SlideError(
            f"{location}: its header claims {l0_size.width:,} × {l0_size.height:,} px, and no "
            f"slide has more than {MAX_SIDE_PX:,} on a side. The file is damaged: copy it again."
        )


def _described(location: str, vendor: str, pictures: Sequence[Picture]) -> list[Described]:
    """Collect what a file says of the pictures that may be levels."""
    if vendor == DICOM:
        return described_levels(files_of(location))
    statements = [tags_statement(picture.resolution) for picture in pictures]
    return [
        Described(picture.size, picture.tile, said.xy[0] if said and said.xy else None)
        for picture, said in zip(pictures, statements, strict=True)
    ]


def _without_unlike(
    levels: tuple[Level | None, ...],
    backend: str,
    pictures: Sequence[Picture],
    location: str,
    name: str,
) -> tuple[Level | None, ...]:
    """Leave out the levels that show something else than level 0, or in other colours.

    Raises:
        SlideError: if one is not even marked as a level: then it is another section.

    """
    coloured = {picture.size for picture in pictures if picture.colour.refusal() is None}
    if pictures:
        levels = tuple(level if level and level.size in coloured else None for level in levels)
    if sum(level is not None for level in levels) < 2:
        return levels
    with closing(READERS[backend](location)) as reader:  # of its own: an error may spend it
        unlike = unlike_levels(levels, reader.read_level)
    marked = {picture.size for picture in pictures if picture.reduced or picture.below}
    for index in unlike:
        size = reader.sizes[index]
        if pictures and size not in marked:
            raise SlideError(
                f"{location}: it holds a picture of {size.width:,} × {size.height:,} px that shows "
                f"something else than the first one: another section, which would be left out. "
                f"Export each as a file of its own."
            )
        log.warning(
            "%s: the level of %d × %d px shows something else than level 0, and is left out.",
            name, size.width, size.height,
        )  # fmt: skip
    return tuple(None if index in unlike else level for index, level in enumerate(levels))
