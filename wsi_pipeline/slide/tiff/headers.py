"""What a TIFF says of its pictures, checked before any library acts on it.

A reading library believes a header: it sets aside the memory that an ImageWidth asks for, and shows
whatever samples it finds as colours. Here headers are refused where they cannot be true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ColourError, SlideError
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.tiff.colour import ColourTags
from wsi_pipeline.slide.tiff.directories import Directory, Source, directories, layout_of

MAX_SIDE_PX = 1 << 20
"""Longest side of a picture: 26 cm at 0.25 µm/px, where the largest glass slides have 13 cm."""

MAX_TILE_PX = 1 << 26
"""Largest tile, 8192 × 8192: it takes 192 MiB when decoded. Scanners write 240 to 4096."""

MAX_SPARE_BYTES = 1 << 30
"""What may lie unused behind the pixels, beside three times their own size."""

MAX_TEXT_BYTES = 1 << 24
"""What is read of the first picture's description, which may be the XML of a whole experiment."""

MAX_CAPTION_BYTES = 1 << 12
"""What is read of the others': enough to tell a label."""

MAX_SAMPLES = 1024

SUBFILE_TYPE = 254
IMAGE_WIDTH, IMAGE_LENGTH, ROWS_PER_STRIP = 256, 257, 278
COMPRESSION, DESCRIPTION, ORIENTATION, SAMPLES, PLANES = 259, 270, 274, 277, 284
STRIP_OFFSETS, STRIP_COUNTS = 273, 279
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
EXTRA_SAMPLES, SAMPLE_FORMAT, YCBCR_COEFFICIENTS, REFERENCE_BLACK_WHITE = 338, 339, 529, 532

_SEPARATE = 2
_INCH = 2
"""What TIFF says the unit is where the tag is missing."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The resolution tags, as they are: pixels per unit; 0 where the file has no number."""

    x: float
    y: float
    unit: int
    """1 is none, 2 inch, 3 centimetre."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the tags of one directory say of its picture.

    Attributes:
        size: in pixels.
        tile: size of its tiles; None if it is stored in strips.
        compression: the tag's number.
        colour: what its samples are.
        planes: number of its planes that are stored apart; 1 where pixels are whole.
        orientation: the tag's number; 1 is upright.
        reduced: whether it is marked as a smaller copy of another one.
        mask: whether it is marked as a mask.
        below: whether its directory is below another one, as levels of OME-TIFF are.
        description: the text, or the beginning of a long one.
        resolution: None without such tags.

    """

    size: Size
    tile: Size | None
    compression: int
    colour: ColourTags
    planes: int
    orientation: int
    reduced: bool
    mask: bool
    below: bool
    description: str
    resolution: Resolution | None


def check_tiff(file: BinaryIO, size: int, name: str) -> tuple[Picture, ...]:
    """Check all directories of a TIFF against each other and against its size.

    Args:
        file: open for reading; left anywhere.
        size: of the file, in bytes.
        name: of the file, for messages.

    Returns:
        its pictures in the file's order; none if the file is no TIFF.

    Raises:
        SlideError: if the file ends before its pixels do, what it says of itself cannot be true, or
            its largest picture is not in the colours of a brightfield slide.

    """
    source = Source(file, size, name)
    layout = layout_of(source)
    if layout is None:
        return ()
    pictures: list[Picture] = []
    end = 0
    for directory in directories(source, layout):
        end = max(end, _check_picture(directory))
        if IMAGE_WIDTH in directory or IMAGE_LENGTH in directory:
            pictures.append(_picture(directory, MAX_CAPTION_BYTES if pictures else MAX_TEXT_BYTES))
    if pictures:
        _check_colour(pictures, name)
    if size > 4 * end + MAX_SPARE_BYTES:
        raise source.damaged(
            f"its pixels end at byte {end:,}, but the file goes on to byte {size:,}"
        )
    return tuple(pictures)


def _picture(directory: Directory, text_bytes: int) -> Picture:
    kind = directory.number(SUBFILE_TYPE, 0)
    tile = Size(directory.number(TILE_WIDTH, 0), directory.number(TILE_LENGTH, 0))
    planes = directory.number(SAMPLES, 1) if directory.number(PLANES, 1) == _SEPARATE else 1
    return Picture(
        size=Size(directory.number(IMAGE_WIDTH, 0), directory.number(IMAGE_LENGTH, 0)),
        tile=tile if TILE_WIDTH in directory else None,
        compression=directory.number(COMPRESSION, 1),
        colour=_colour(directory),
        planes=planes,
        orientation=directory.number(ORIENTATION, 1),
        reduced=bool(kind & 1),
        mask=bool(kind & 4),
        below=directory.is_below,
        description=directory.text(DESCRIPTION, text_bytes),
        resolution=_resolution(directory),
    )


def _resolution(directory: Directory) -> Resolution | None:
    if X_RESOLUTION not in directory and Y_RESOLUTION not in directory:
        return None
    return Resolution(
        x=directory.ratio(X_RESOLUTION),
        y=directory.ratio(Y_RESOLUTION),
        unit=directory.number(RESOLUTION_UNIT, _INCH),
    )


def _colour(directory: Directory) -> ColourTags:
    def integers(code: int) -> tuple[int, ...]:
        return tuple(map(int, directory.numbers(code, MAX_SAMPLES)))

    samples = min(directory.number(SAMPLES, 1), MAX_SAMPLES)
    bits = integers(BITS_PER_SAMPLE) or (1,)
    return ColourTags(
        photometric=directory.number(PHOTOMETRIC, 0),
        bits=bits if len(bits) == samples else bits[:1] * samples,
        formats=integers(SAMPLE_FORMAT),
        extra=integers(EXTRA_SAMPLES),
        compression=directory.number(COMPRESSION, 1),
        luma=directory.ratios(YCBCR_COEFFICIENTS, MAX_SAMPLES),
        range=directory.ratios(REFERENCE_BLACK_WHITE, MAX_SAMPLES),
    )


def _check_colour(pictures: Sequence[Picture], name: str) -> None:
    """Raise if the largest picture, which is the slide, cannot be shown in its colours."""
    largest = max(pictures, key=lambda picture: picture.size.width * picture.size.height)
    alike = sum(picture.size == largest.size for picture in pictures)
    refusal = largest.colour.refusal(alike)
    if refusal:
        raise ColourError(f"{name}: {refusal}.")


def _check_picture(directory: Directory) -> int:
    """Check one directory's picture, if it holds one; return the byte at which its pixels end."""
    damaged = directory.source.damaged
    width, height = directory.number(IMAGE_WIDTH, 0), directory.number(IMAGE_LENGTH, 0)
    if IMAGE_WIDTH not in directory and IMAGE_LENGTH not in directory:
        return 0
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise damaged(
            f"its header claims {width:,} × {height:,} px, and no slide has more than "
            f"{MAX_SIDE_PX:,} on a side or none"
        )
    if TILE_OFFSETS in directory or TILE_WIDTH in directory:
        tile_width = directory.number(TILE_WIDTH, 0)
        tile_height = directory.number(TILE_LENGTH, 0)
        if not 0 < tile_width * tile_height <= MAX_TILE_PX:
            raise damaged(
                f"its header claims tiles of {tile_width:,} × {tile_height:,} px, and at most "
                f"{MAX_TILE_PX:,} px can be decoded at once"
            )
        needed = -(-width // tile_width) * -(-height // tile_height)
        codes = (TILE_OFFSETS, TILE_COUNTS)
    else:
        rows = directory.number(ROWS_PER_STRIP, height)
        if not rows:
            raise damaged("its header claims strips of no rows")
        needed = -(-height // rows)
        codes = (STRIP_OFFSETS, STRIP_COUNTS)
    # Planes may be stored apart, and some writers round up.
    offsets, counts = (directory.numbers(code, 8 * needed + 64) for code in codes)
    if len(offsets) < needed or len(counts) < needed:
        raise damaged(
            f"its picture of {width:,} × {height:,} px needs {needed:,} tiles or strips, but the "
            f"directory has {min(len(offsets), len(counts)):,}"
        )
    return _end_of_pixels(directory.source, offsets, counts)


def _end_of_pixels(source: Source, offsets: NDArray[np.uint64], counts: NDArray[np.uint64]) -> int:
    common = min(len(offsets), len(counts))
    offsets, counts = offsets[:common], counts[:common]
    present = (offsets > 0) & (counts > 0)  # what was never scanned is left out
    if not present.any():
        return 0
    # In Python's integers: the sum of two damaged ones may exceed 64 bits.
    end = max(int(offsets[present].max()), int((offsets[present] + counts[present]).max()))
    if end > source.size:
        raise SlideError(
            f"{source.name}: the file is truncated: it ends at byte {source.size:,} but its pixels "
            f"reach to byte {end:,}. Copy it again."
        )
    return end
