"""What the directories of a TIFF say, checked before any library acts on them.

A reading library believes a header: it sets aside the memory that an ImageWidth asks for, and walks
a chain of directories for as long as it goes on. Here the directories are read without the pixels,
and refused where they cannot be true.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ColourError, SlideError
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.tiff.colour import ColourTags

MAX_SIDE_PX = 1 << 20
"""Longest side of a picture: 26 cm at 0.25 µm/px, where the largest glass slides have 13 cm."""

MAX_TILE_PX = 1 << 26
"""Largest tile, 8192 × 8192: it takes 192 MiB when decoded. Scanners write 240 to 4096."""

MAX_DIRECTORIES = 4096
"""Pictures in one file; slides have some ten, focal planes included some hundreds."""

MAX_ENTRIES = 4096
"""Tags of one picture; writers use some thirty."""

MAX_DIRECTORY_BYTES = 1 << 30
"""What is read of all directories and their numbers together: those of 16 million tiles, the most
that the largest picture has, take a third of it."""

MAX_SPARE_BYTES = 1 << 30
"""What may lie unused behind the pixels, beside three times their own size."""

MAX_TEXT_BYTES = 1 << 24
"""What is read of the first picture's description, which may be the XML of a whole experiment."""

MAX_CAPTION_BYTES = 1 << 12
"""What is read of the others': enough to tell a label."""

SUBFILE_TYPE = 254
IMAGE_WIDTH, IMAGE_LENGTH, ROWS_PER_STRIP = 256, 257, 278
COMPRESSION, DESCRIPTION, ORIENTATION, SAMPLES, PLANES = 259, 270, 274, 277, 284
STRIP_OFFSETS, STRIP_COUNTS = 273, 279
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
SUB_DIRECTORIES = 330
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
EXTRA_SAMPLES, SAMPLE_FORMAT, YCBCR_COEFFICIENTS, REFERENCE_BLACK_WHITE = 338, 339, 529, 532
MAX_SAMPLES = 1024
NDPI = 65420

_DTYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    5: "u4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    18: "u8",
}
"""numpy's names of the types that the tags above may have; a rational is two numbers."""

_RATIONAL = 5
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """How offsets and entries are written: classic or BigTIFF, either byte order."""

    order: str
    big: bool

    @property
    def offset_bytes(self) -> int:
        return 8 if self.big else 4

    @property
    def entry_bytes(self) -> int:
        return 20 if self.big else 12

    def offset(self, raw: bytes) -> int:
        return int(struct.unpack(self.order + ("Q" if self.big else "I"), raw)[0])


@dataclass(frozen=True, slots=True)
class _Tag:
    dtype: str
    numbers: int
    inline: bytes | None
    offset: int


class _Source:
    """A file of known size, of which nothing beyond the end is asked for."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._may_read = MAX_DIRECTORY_BYTES
        self.size = size
        self.name = name

    def read(self, offset: int, count: int) -> bytes:
        self._may_read -= min(count, self.size)
        if self._may_read < 0:
            raise self.damaged(f"its directories have more than {MAX_DIRECTORY_BYTES:,} bytes")
        if offset + count <= self.size:
            self._file.seek(offset)
            raw = self._file.read(count)
            if len(raw) == count:
                return bytes(raw)
        raise SlideError(
            f"{self.name}: the TIFF's directory cannot be read, since it lies beyond the end of "
            f"the file: the file is truncated or damaged. Copy it again."
        )

    def damaged(self, what: str) -> SlideError:
        return SlideError(f"{self.name}: {what}. The file is damaged: copy or scan it again.")


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
    source = _Source(file, size, name)
    layout = _layout(source)
    if layout is None:
        return ()
    pictures: list[Picture] = []
    end = 0
    for tags, below in _directories(source, layout):
        end = max(end, _check_picture(source, tags))
        if IMAGE_WIDTH in tags or IMAGE_LENGTH in tags:
            text_bytes = MAX_CAPTION_BYTES if pictures else MAX_TEXT_BYTES
            pictures.append(_picture(source, tags, text_bytes, below=below))
    if pictures:
        _check_colour(pictures, name)
    if size > 4 * end + MAX_SPARE_BYTES:
        raise source.damaged(
            f"its pixels end at byte {end:,}, but the file goes on to byte {size:,}"
        )
    return tuple(pictures)


def _layout(source: _Source) -> _Layout | None:
    """Return how the TIFF is written; None for other files, and for what is no TIFF by the book."""
    if source.size < 16:
        return None
    order = {b"II": "<", b"MM": ">"}.get(source.read(0, 2))
    if order is None:
        return None
    version = struct.unpack(order + "H", source.read(2, 2))[0]
    if version not in (42, 43):
        return None
    layout = _Layout(order, big=version == 43)
    return None if version == 42 and _is_large_ndpi(source, layout) else layout


def _is_large_ndpi(source: _Source, classic: _Layout) -> bool:
    """Tell Hamamatsu's files over 4 GiB: classic TIFF, with offsets of its own making."""
    if source.size < 1 << 32:
        return False
    low, high = (classic.offset(source.read(at, 4)) for at in (4, 8))
    if high and (high << 32) + low < source.size:
        return True
    tags, _ = _directory(source, classic, low)
    return NDPI in tags


def _directories(source: _Source, layout: _Layout) -> Iterator[tuple[Mapping[int, _Tag], bool]]:
    """Give the tags of each directory in the file's order, and whether it is below another one."""
    start = 8 if layout.big else 4
    waiting = [(layout.offset(source.read(start, layout.offset_bytes)), False)]
    seen: set[int] = set()
    while waiting:
        offset, is_below = waiting.pop(0)
        if not offset:
            continue
        if offset in seen and is_below:
            continue  # some writers both list the directories below and chain them
        if offset in seen:
            raise source.damaged("its directories lead in a circle")
        if len(seen) == MAX_DIRECTORIES:
            raise source.damaged(f"it has more than {MAX_DIRECTORIES} directories")
        seen.add(offset)
        tags, following = _directory(source, layout, offset)
        below = _numbers(source, tags, SUB_DIRECTORIES, MAX_DIRECTORIES - len(waiting))
        waiting = [*((int(each), True) for each in below), (following, is_below), *waiting]
        yield tags, is_below


def _directory(source: _Source, layout: _Layout, offset: int) -> tuple[dict[int, _Tag], int]:
    """Read one directory; the numbers of its tags stay where they are until they are wanted."""
    count_format = "Q" if layout.big else "H"
    head = struct.calcsize(count_format)
    count = struct.unpack(layout.order + count_format, source.read(offset, head))[0]
    if count > MAX_ENTRIES:
        raise source.damaged(f"one of its directories has {count:,} entries")
    raw = source.read(offset + head, count * layout.entry_bytes + layout.offset_bytes)
    entry_format = layout.order + ("HHQ" if layout.big else "HHI")
    tags: dict[int, _Tag] = {}
    for at in range(0, count * layout.entry_bytes, layout.entry_bytes):
        code, kind, values = struct.unpack_from(entry_format, raw, at)
        if kind not in _DTYPES:
            continue
        field = raw[at + layout.entry_bytes - layout.offset_bytes : at + layout.entry_bytes]
        dtype = layout.order + _DTYPES[kind]
        numbers = values * 2 if kind == _RATIONAL else values
        here = numbers * np.dtype(dtype).itemsize <= layout.offset_bytes
        tags[code] = _Tag(dtype, numbers, field if here else None, layout.offset(field))
    return tags, layout.offset(raw[-layout.offset_bytes :])


def _numbers(
    source: _Source, tags: Mapping[int, _Tag], code: int, at_most: int
) -> NDArray[np.uint64]:
    """Return the numbers of a tag; none if the directory does not have it."""
    tag = tags.get(code)
    if tag is None or "f" in tag.dtype:
        return np.zeros(0, np.uint64)
    if tag.numbers > at_most:
        raise source.damaged(f"its tag {code} has {tag.numbers:,} entries")
    return _values(source, tag).astype(np.uint64)


def _values(source: _Source, tag: _Tag) -> NDArray[Any]:
    needed = tag.numbers * np.dtype(tag.dtype).itemsize
    raw = tag.inline[:needed] if tag.inline is not None else source.read(tag.offset, needed)
    return np.frombuffer(raw, tag.dtype)


def _number(source: _Source, tags: Mapping[int, _Tag], code: int, default: int) -> int:
    numbers = _numbers(source, tags, code, MAX_DIRECTORIES)
    return int(numbers[0]) if len(numbers) else default


def _text(source: _Source, tags: Mapping[int, _Tag], code: int, at_most: int) -> str:
    """Return the beginning of a text, in UTF-8 or, as older writers have it, Latin-1."""
    tag = tags.get(code)
    if tag is None or np.dtype(tag.dtype).itemsize > 1:
        return ""
    count = min(tag.numbers, at_most)
    raw = tag.inline[:count] if tag.inline is not None else source.read(tag.offset, count)
    raw = raw.split(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _picture(source: _Source, tags: Mapping[int, _Tag], text_bytes: int, *, below: bool) -> Picture:
    def number(code: int, default: int) -> int:
        return _number(source, tags, code, default)

    kind = number(SUBFILE_TYPE, 0)
    tile = Size(number(TILE_WIDTH, 0), number(TILE_LENGTH, 0))
    return Picture(
        size=Size(number(IMAGE_WIDTH, 0), number(IMAGE_LENGTH, 0)),
        tile=tile if TILE_WIDTH in tags else None,
        compression=number(COMPRESSION, 1),
        colour=_colour(source, tags),
        planes=number(SAMPLES, 1) if number(PLANES, 1) == _SEPARATE else 1,
        orientation=number(ORIENTATION, 1),
        reduced=bool(kind & 1),
        mask=bool(kind & 4),
        below=below,
        description=_text(source, tags, DESCRIPTION, text_bytes),
        resolution=_resolution(source, tags),
    )


def _resolution(source: _Source, tags: Mapping[int, _Tag]) -> Resolution | None:
    if X_RESOLUTION not in tags and Y_RESOLUTION not in tags:
        return None
    x, y = (_pixels_per_unit(source, tags.get(code)) for code in (X_RESOLUTION, Y_RESOLUTION))
    return Resolution(x, y, _number(source, tags, RESOLUTION_UNIT, _INCH))


def _pixels_per_unit(source: _Source, tag: _Tag | None) -> float:
    """Return a resolution: a fraction by the book, one number by some writers; 0 for nonsense."""
    if tag is None or tag.numbers not in (1, 2):
        return 0.0
    numbers = _values(source, tag)
    value = float(numbers[0])
    if len(numbers) == 2:
        value = value / float(numbers[1]) if numbers[1] else 0.0
    return value if np.isfinite(value) and value > 0 else 0.0


def _check_colour(pictures: Sequence[Picture], name: str) -> None:
    """Raise if the largest picture, which is the slide, cannot be shown in its colours."""
    largest = max(pictures, key=lambda picture: picture.size.width * picture.size.height)
    alike = sum(picture.size == largest.size for picture in pictures)
    refusal = largest.colour.refusal(alike)
    if refusal:
        raise ColourError(f"{name}: {refusal}.")


def _colour(source: _Source, tags: Mapping[int, _Tag]) -> ColourTags:
    def integers(code: int) -> tuple[int, ...]:
        return tuple(map(int, _numbers(source, tags, code, MAX_SAMPLES)))

    def ratios(code: int) -> tuple[float, ...]:
        numbers = _numbers(source, tags, code, MAX_SAMPLES).astype(np.float64).reshape(-1, 2)
        return tuple(map(float, numbers[:, 0] / np.maximum(numbers[:, 1], 1)))

    samples = min(_number(source, tags, SAMPLES, 1), MAX_SAMPLES)
    bits = integers(BITS_PER_SAMPLE) or (1,)
    return ColourTags(
        photometric=_number(source, tags, PHOTOMETRIC, 0),
        bits=bits if len(bits) == samples else bits[:1] * samples,
        formats=integers(SAMPLE_FORMAT),
        extra=integers(EXTRA_SAMPLES),
        compression=_number(source, tags, COMPRESSION, 1),
        luma=ratios(YCBCR_COEFFICIENTS),
        range=ratios(REFERENCE_BLACK_WHITE),
    )


def _check_picture(source: _Source, tags: Mapping[int, _Tag]) -> int:
    """Check one directory's picture, if it holds one; return the byte at which its pixels end."""
    width, height = (_number(source, tags, code, 0) for code in (IMAGE_WIDTH, IMAGE_LENGTH))
    if IMAGE_WIDTH not in tags and IMAGE_LENGTH not in tags:
        return 0
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise source.damaged(
            f"its header claims {width:,} × {height:,} px, and no slide has more than "
            f"{MAX_SIDE_PX:,} on a side or none"
        )
    if TILE_OFFSETS in tags or TILE_WIDTH in tags:
        tile_width, tile_height = (
            _number(source, tags, code, 0) for code in (TILE_WIDTH, TILE_LENGTH)
        )
        if not 0 < tile_width * tile_height <= MAX_TILE_PX:
            raise source.damaged(
                f"its header claims tiles of {tile_width:,} × {tile_height:,} px, and at most "
                f"{MAX_TILE_PX:,} px can be decoded at once"
            )
        needed = -(-width // tile_width) * -(-height // tile_height)
        codes = (TILE_OFFSETS, TILE_COUNTS)
    else:
        rows = _number(source, tags, ROWS_PER_STRIP, height)
        if not rows:
            raise source.damaged("its header claims strips of no rows")
        needed = -(-height // rows)
        codes = (STRIP_OFFSETS, STRIP_COUNTS)
    # Planes may be stored apart, and some writers round up.
    offsets, counts = (_numbers(source, tags, code, 8 * needed + 64) for code in codes)
    if len(offsets) < needed or len(counts) < needed:
        raise source.damaged(
            f"its picture of {width:,} × {height:,} px needs {needed:,} tiles or strips, but the "
            f"directory has {min(len(offsets), len(counts)):,}"
        )
    return _end_of_pixels(source, offsets, counts)


def _end_of_pixels(source: _Source, offsets: NDArray[np.uint64], counts: NDArray[np.uint64]) -> int:
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
