"""A slide file is checked and opened: nothing is believed of it that its bytes do not bear out."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from wsi_pipeline.errors import SlideError
from wsi_pipeline.files import open_binary
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.access import Footprint, footprint, is_away, one_line, unavailable
from wsi_pipeline.slide.dicom import described_levels
from wsi_pipeline.slide.files import files_of
from wsi_pipeline.slide.levels_agree import unlike_levels
from wsi_pipeline.slide.mpp import MppSources
from wsi_pipeline.slide.pyramid import Described, Level, place_levels
from wsi_pipeline.slide.readers.choose import READERS, open_reader
from wsi_pipeline.slide.readers.protocol import DICOM, GENERIC_TIFF, Backend, Reader
from wsi_pipeline.slide.stated_mpp import described_power, pixel_size, tags_statement
from wsi_pipeline.slide.tiff.headers import MAX_SIDE_PX, Picture, check_tiff

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A slide's file, opened.

    Attributes:
        location: the path or fsspec URL.
        name: what to call it.
        found: its footprint before it was read.
        backend: the reader that was chosen.
        reader: open; the owner of this value closes it.
        levels: None in place of one whose scale is unclear, or that shows something else.
        mpp_sources: all that it says of its pixel size.

    """

    location: str
    name: str
    found: Footprint
    backend: str
    reader: Reader
    levels: tuple[Level | None, ...]
    mpp_sources: MppSources


def open_file(location: str, backend: Backend, name: str) -> OpenedFile:
    """Open a slide's file with the reader that suits it, and check what it says of itself.

    Args:
        location: a path or an fsspec URL.
        backend: the reader; "auto" chooses.
        name: what to call it in messages of the log.

    Raises:
        SlideError: if the file is missing, empty, truncated, damaged or not a slide.
        SlideUnavailableError: if it cannot be reached now.

    """
    found = footprint(location)
    pictures = _checked_tiff(location, found)
    chosen, reader = open_reader(location, backend, pictures)
    try:
        _require_possible(reader.sizes[0], location)
        described = _described(location, reader.vendor, pictures)
        levels = place_levels(reader.sizes, reader.downsamples, described, location)
        if reader.vendor in {GENERIC_TIFF, DICOM}:
            levels = _without_unlike(levels, chosen, pictures, location, name)
        sources = _mpp_sources(reader, pictures)
    except BaseException:
        reader.close()
        raise
    return OpenedFile(location, name, found, chosen, reader, levels, sources)


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
