"""What is done about damage: a failed read is repeated, then made with the other reader.

Errors of the way to the file are told apart from errors of its bytes: while a network drive is
away, nothing is known of the slide.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box
from wsi_pipeline.slide.access import footprint, is_away, one_line, unavailable
from wsi_pipeline.slide.opening import OpenedFile
from wsi_pipeline.slide.readers.choose import READERS
from wsi_pipeline.slide.readers.protocol import Reader
from wsi_pipeline.slide.readers.shared import SharedReader
from wsi_pipeline.slide.redaction import without_place
from wsi_pipeline.slide.resample import Rgb
from wsi_pipeline.slide.tiff.compressed_tiles import LostTileError

log = logging.getLogger(__name__)


class RescuingReader:
    """Reads levels of one slide, whatever it takes; safe to share between threads.

    Attributes:
        repaired_reads: reads that only succeeded at a second try or with the other reader.

    """

    def __init__(self, opened: OpenedFile) -> None:
        self.repaired_reads = 0
        self._location = opened.location
        self._name = opened.name
        self._backend = opened.backend
        self._found = opened.found
        self._sizes = opened.reader.sizes
        opened.reader.rescue = self._rescued
        self._shared = SharedReader(self._reopened, opened.reader)
        self._no_other = ""
        self._lock = threading.Lock()

    def read(self, level: int, box: Box, shrink: int) -> Rgb:
        """Read whole pixels of a level: once more if it fails, then with the other reader.

        Args:
            level: its index.
            box: in pixels of the level at one part in `shrink` of its sides.
            shrink: 1, or what the reader offers for the level.

        Raises:
            SlideError: if all of them fail.
            SlideUnavailableError: if the file cannot be reached now, or is no longer the same.

        """
        errors: list[Exception] = []
        for read in (self._shared.read_level, self._shared.read_alone, self._read_by_other):
            try:
                pixels = read(level, box, shrink)
            except LostTileError as error:  # the other reader was asked for it
                errors.append(error)
                break
            # Damaged tiles surface as whatever the decoder at hand raises, without a common root.
            except Exception as error:  # noqa: BLE001
                log.debug("%s: level %d at 1/%d, %s: %s", self._name, level, shrink, box, error)
                errors.append(error)
            else:
                if errors:
                    self._note_repair()
                return pixels
        self._require_reachable(errors)
        raise SlideError(
            f"{self._name}: {box.width}×{box.height} px at ({box.x}, {box.y}) of level {level} "
            f"at 1/{shrink} cannot be decoded ({self._said(errors[0])}). The file is damaged "
            f"there: copy or scan it again."
        ) from errors[0]

    @contextmanager
    def files_at_hand(self) -> Iterator[None]:
        """Have errors about the slide's files be ours, within the block.

        Raises:
            SlideError: if a file cannot be read.
            SlideUnavailableError: if it cannot be reached now, or is no longer the same.

        """
        try:
            yield
        # Object stores have errors of their own, which no class unites.
        except Exception as error:
            self._require_reachable([error])
            raise SlideError(
                f"{self._name}: its bytes cannot be read ({self._said(error)}). Check the "
                f"permissions of all its files, or copy it again."
            ) from error

    def close(self) -> None:
        """Close the file; reads fail from then on."""
        self._shared.close()

    def _rescued(self, index: int, box: Box) -> Rgb:
        """Read with the other reader what the one in use finds damaged."""
        pixels = self._read_by_other(index, box)
        self._note_repair()
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
        reader: Reader = READERS[self._backend](self._location)
        reader.rescue = self._rescued
        return reader

    def _opened_by_other(self) -> Reader:
        other = "tiffslide" if self._backend == "openslide" else "openslide"
        reader: Reader = READERS[other](self._location)
        if reader.sizes != self._sizes:
            reader.close()
            raise SlideError(f"{self._name}: {other} sees another pyramid")
        return reader

    def _note_repair(self) -> None:
        with self._lock:
            self.repaired_reads += 1

    def _said(self, error: Exception) -> str:
        """Say an error of a library in one line, by the name that the slide goes by."""
        return without_place(one_line(error), self._location, self._name)

    def _require_reachable(self, errors: Sequence[Exception]) -> None:
        """Raise if reads failed because of the way to the file, and not of its bytes."""
        for error in errors:
            if is_away(error):
                raise unavailable(self._name, self._said(error)) from error
        try:
            now = footprint(self._location)
        except SlideError as error:
            raise unavailable(self._name, "it was there when the slide was opened") from error
        if now != self._found:
            raise unavailable(self._name, "it has changed since the slide was opened") from errors[
                0
            ]
