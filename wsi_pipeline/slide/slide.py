"""`Slide`: a slide file, read in level-0 boxes (see `wsi_pipeline.geometry`) at any size.

The level to read from, the resampling, the padding outside the slide and what is done about damage
are decided here; `wsi_pipeline.slide.readers.choose` decodes.
"""

import logging
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideError, SlideUnavailableError
from wsi_pipeline.files import require_no_secret
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.access import footprint
from wsi_pipeline.slide.files import content_digest, files_of
from wsi_pipeline.slide.level_gaps import blank_cells, cell_box, middle_of, runs_around, shows
from wsi_pipeline.slide.mpp import referee_mpp
from wsi_pipeline.slide.opening import OpenedFile, open_file
from wsi_pipeline.slide.pyramid import View, best_level, finer_views, scanned_part, views_of
from wsi_pipeline.slide.readers.protocol import Backend
from wsi_pipeline.slide.resample import Rgb, resample
from wsi_pipeline.slide.rescue import RescuingReader

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
        unreadable: level-0 boxes that no thumbnail could show, since they cannot be decoded.

    """

    def __init__(self, opened: OpenedFile, mpp_override: Mpp | None) -> None:
        levels, reader = opened.levels, opened.reader
        self._location = opened.location
        self._reader = RescuingReader(opened)
        self.unreadable: list[Box] = []
        self.backend = opened.backend
        self.name = opened.name
        self.vendor = reader.vendor
        self.levels = tuple(level for level in levels if level is not None)
        self._views = views_of(levels, reader.shrinks)
        self._finer = finer_views(levels, reader.shrinks)
        self.l0_size = reader.sizes[0]
        self.l0_bounds = scanned_part(self.l0_size, reader.l0_bounds)
        self.mpp_sources = opened.mpp_sources
        self.mpp, self.mpp_source = referee_mpp(opened.mpp_sources, mpp_override, opened.name)

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
        opened = open_file(where, backend, name or Path(where).name)
        try:
            return cls(opened, mpp)
        except BaseException:
            opened.reader.close()
            raise

    @property
    def repaired_reads(self) -> int:
        """Reads that only succeeded at a second try or with the other reader."""
        return self._reader.repaired_reads

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
        with self._reader.files_at_hand():
            return content_digest(files_of(self._location))

    @property
    def size_bytes(self) -> int:
        """Size of all of the slide's files."""
        with self._reader.files_at_hand():
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
            pixels = self._reader.read(view.level, box, view.shrink)
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
                pixels = self._reader.read(other.level, place, other.shrink)
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
