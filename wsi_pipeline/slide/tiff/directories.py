"""The directories of a TIFF, read without its pixels and within bounds.

Classic TIFF and BigTIFF are read, in either byte order. Nothing beyond the end of the file is asked
for. A chain of directories that leads in a circle, or that goes on for too long, is damage.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideError

MAX_DIRECTORIES = 4096
"""Pictures in one file; slides have some ten, focal planes included some hundreds."""

MAX_ENTRIES = 4096
"""Tags of one picture; writers use some thirty."""

MAX_DIRECTORY_BYTES = 1 << 30
"""What is read of all directories and their numbers together: those of 16 million tiles, the most
that the largest picture has, take a third of it."""

SUB_DIRECTORIES = 330
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
"""numpy's names of the types that tags may have; a rational is two numbers."""

_RATIONAL = 5


class Source:
    """A file of known size, of which nothing beyond the end is asked for.

    Attributes:
        size: in bytes.
        name: for messages.

    """

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._may_read = MAX_DIRECTORY_BYTES
        self.size = size
        self.name = name

    def read(self, offset: int, count: int) -> bytes:
        """Read at an offset.

        Raises:
            SlideError: if the file ends before, or too much has been read of its directories.

        """
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
        """Return the error to raise for what cannot be true."""
        return SlideError(f"{self.name}: {what}. The file is damaged: copy or scan it again.")


@dataclass(frozen=True, slots=True)
class Layout:
    """How offsets and entries are written: classic or BigTIFF, either byte order."""

    order: str
    big: bool

    @property
    def offset_bytes(self) -> int:
        """Length of an offset."""
        return 8 if self.big else 4

    @property
    def entry_bytes(self) -> int:
        """Length of a directory's entry."""
        return 20 if self.big else 12

    def offset(self, raw: bytes) -> int:
        """Read an offset."""
        return int(struct.unpack(self.order + ("Q" if self.big else "I"), raw)[0])


@dataclass(frozen=True, slots=True)
class _Tag:
    dtype: str
    numbers: int
    inline: bytes | None
    offset: int


@dataclass(frozen=True, slots=True)
class Directory:
    """The tags of one picture; their values are read from the file when they are asked for.

    Attributes:
        source: the file.
        is_below: whether it is below another directory, as levels of OME-TIFF are.

    """

    source: Source
    is_below: bool
    _tags: Mapping[int, _Tag]

    def __contains__(self, code: int) -> bool:
        return code in self._tags

    def number(self, code: int, default: int) -> int:
        """Return the first whole number of a tag."""
        numbers = self.numbers(code, MAX_DIRECTORIES)
        return int(numbers[0]) if len(numbers) else default

    def numbers(self, code: int, at_most: int) -> NDArray[np.uint64]:
        """Return the whole numbers of a tag; none if the directory does not have it.

        Raises:
            SlideError: if it has more than `at_most`, or they lie beyond the file's end.

        """
        tag = self._tags.get(code)
        if tag is None or "f" in tag.dtype:
            return np.zeros(0, np.uint64)
        if tag.numbers > at_most:
            raise self.source.damaged(f"its tag {code} has {tag.numbers:,} entries")
        return self._values(tag).astype(np.uint64)

    def ratios(self, code: int, at_most: int) -> tuple[float, ...]:
        """Return the fractions of a tag, each two whole numbers; none if there is no such tag."""
        pairs = self.numbers(code, at_most).astype(np.float64).reshape(-1, 2)
        return tuple(map(float, pairs[:, 0] / np.maximum(pairs[:, 1], 1)))

    def ratio(self, code: int) -> float:
        """Return a positive value: a fraction by the book, one number by some writers.

        It is 0 for nonsense, and without such a tag.
        """
        tag = self._tags.get(code)
        if tag is None or tag.numbers not in (1, 2):
            return 0.0
        numbers = self._values(tag)
        value = float(numbers[0])
        if len(numbers) == 2:
            value = value / float(numbers[1]) if numbers[1] else 0.0
        return value if np.isfinite(value) and value > 0 else 0.0

    def text(self, code: int, at_most: int) -> str:
        """Return the beginning of a text, in UTF-8 or, as older writers have it, Latin-1."""
        tag = self._tags.get(code)
        if tag is None or np.dtype(tag.dtype).itemsize > 1:
            return ""
        count = min(tag.numbers, at_most)
        raw = tag.inline[:count] if tag.inline is not None else self.source.read(tag.offset, count)
        raw = raw.split(b"\0")[0]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def _values(self, tag: _Tag) -> NDArray[Any]:
        needed = tag.numbers * np.dtype(tag.dtype).itemsize
        inline = tag.inline
        raw = inline[:needed] if inline is not None else self.source.read(tag.offset, needed)
        return np.frombuffer(raw, tag.dtype)


def layout_of(source: Source) -> Layout | None:
    """Return how the TIFF is written; None for other files, and for what is no TIFF by the book."""
    if source.size < 16:
        return None
    order = {b"II": "<", b"MM": ">"}.get(source.read(0, 2))
    if order is None:
        return None
    version = struct.unpack(order + "H", source.read(2, 2))[0]
    if version not in (42, 43):
        return None
    layout = Layout(order, big=version == 43)
    return None if version == 42 and _is_large_ndpi(source, layout) else layout


def directories(source: Source, layout: Layout) -> Iterator[Directory]:
    """Give all directories in the file's order, those below another one behind it.

    Raises:
        SlideError: if they lead in a circle, are too many, or lie beyond the file's end.

    """
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
        tags, following = _tags_at(source, layout, offset)
        directory = Directory(source, is_below, tags)
        below = directory.numbers(SUB_DIRECTORIES, MAX_DIRECTORIES - len(waiting))
        waiting = [*((int(each), True) for each in below), (following, is_below), *waiting]
        yield directory


def _is_large_ndpi(source: Source, classic: Layout) -> bool:
    """Tell Hamamatsu's files over 4 GiB: classic TIFF, with offsets of its own making."""
    if source.size < 1 << 32:
        return False
    low, high = (classic.offset(source.read(at, 4)) for at in (4, 8))
    if high and (high << 32) + low < source.size:
        return True
    tags, _ = _tags_at(source, classic, low)
    return NDPI in tags


def _tags_at(source: Source, layout: Layout, offset: int) -> tuple[dict[int, _Tag], int]:
    """Read one directory, and where the next one is."""
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
