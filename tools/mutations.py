"""Mutations of slides: bytes, blocks, tags, directories, headers and tables.

Every mutation follows from the slide's name, the seed and its number alone.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.geometry import Box

ODD_NUMBERS = (
    0, 1, 2, 3, 7, 8, 127, 255, 256, 257, 4096, 32767, 65535, 65536, 1 << 20, (1 << 24) - 1,
    1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 2,
)  # fmt: skip
JPEG_MARKERS = bytes([*range(0xC0, 0xD0), *range(0xD8, 0xE2), 0xFE, 0x4F, 0x51, 0x52, 0x5C, 0x90])


@dataclass(frozen=True)
class Anatomy:
    """Where a slide keeps what; offsets of bytes in the file (classic TIFF, little-endian)."""

    directories: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]  # (offset of the 12 bytes, tag)
    values: tuple[tuple[int, int], ...]  # (offset, bytes) of values outside the directories
    tiles: tuple[tuple[int, int, Box], ...]  # (offset, bytes, level-0 box)
    tables: tuple[tuple[int, int], ...]
    descriptions: tuple[tuple[int, int], ...]


def dissect(path: Path) -> Anatomy:
    """Find the parts of a slide that are worth hitting."""
    directories, entries, values, tiles, tables, descriptions = [], [], [], [], [], []
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        for page in tiff.pages:
            directories.append(page.offset)
            for tag in page.tags.values():
                entries.append((tag.offset, tag.code))
                if tag.valuebytecount > 4:
                    values.append((tag.valueoffset, tag.valuebytecount))
                if tag.code == 347:
                    tables.append((tag.valueoffset, tag.valuebytecount))
                if tag.code == 270 and tag.valuebytecount > 4:
                    descriptions.append((tag.valueoffset, tag.valuebytecount))
            if not page.is_tiled:
                continue
            scale = first.imagewidth / page.imagewidth
            across = -(-page.imagewidth // page.tilewidth)
            side = round(page.tilewidth * scale)
            for index, (offset, count) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=True)
            ):
                x, y = index % across * side, index // across * side
                tiles.append((offset, count, Box(x, y, side, side)))
    return Anatomy(*map(tuple, (directories, entries, values, tiles, tables, descriptions)))


class Mutator:
    """One mutated copy of a slide; `l0_boxes` are the tiles that it hit."""

    def __init__(self, content: bytes, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.content = bytearray(content)
        self.l0_boxes: list[Box] = []
        self.steps: list[str] = []
        self._anatomy = anatomy
        self._rng = rng

    def mutate(self) -> None:
        """Apply one to three mutations, mostly one."""
        kinds = [kind for kind in KINDS if kind is not Mutator.tables or self._anatomy.tables]
        kinds = [
            kind for kind in kinds if kind is not Mutator.description or self._anatomy.descriptions
        ]
        for _ in range(self._rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])):
            kind = kinds[self._rng.integers(len(kinds))]
            self.steps.append(kind.__name__)
            kind(self)

    def flips(self) -> None:
        """Other bytes anywhere."""
        for _ in range(self._below(64) + 1):
            self.content[self._below(len(self.content))] = self._below(256)

    def block(self) -> None:
        """Zero, fill, scramble or copy a block."""
        size = min(1 << self._below(18), len(self.content) // 2)
        at = self._below(len(self.content) - size)
        source = self._below(len(self.content) - size)
        self.content[at : at + size] = (
            bytes(size),
            b"\xff" * size,
            self._rng.bytes(size),
            bytes(self.content[source : source + size]),
        )[self._below(4)]

    def shift(self) -> None:
        """Take bytes out, or put some in: all that follows moves."""
        at, size = self._below(len(self.content)), 1 << self._below(12)
        if self._below(2):
            del self.content[at : at + size]
        else:
            self.content[at:at] = self._rng.bytes(size)

    def truncation(self) -> None:
        """Cut the end off; or cut it and make up the length with zeros."""
        length = self._below(len(self.content))
        missing = len(self.content) - length
        del self.content[length:]
        if self._below(2):
            self.content += bytes(missing)

    def header(self) -> None:
        """Byte order, version, first directory."""
        self.content[self._below(8)] = self._below(256)

    def chain(self) -> None:
        """Where the next directory is said to be."""
        at = self._one_of(self._anatomy.directories)
        (count,) = struct.unpack_from("<H", self.content, at)
        self._put(
            at + 2 + 12 * count, "<I", self._one_of((self._odd(), *self._anatomy.directories))
        )

    def entry(self) -> None:
        """A tag's code, type, count or value."""
        at, _ = self._one_of(self._anatomy.entries)
        offset, form = ((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"))[self._below(4)]
        if self._below(2):
            self._put(at + offset, form, self._odd())
        else:
            self.content[at + offset + self._below(2)] ^= 1 << self._below(8)

    def value(self) -> None:
        """Numbers outside the directory: offsets and sizes of tiles, resolutions, texts."""
        at, size = self._one_of(self._anatomy.values)
        for _ in range(self._below(4) + 1):
            where = at + self._below(max(1, size // 4)) * 4
            self._put(where, "<I", self._odd() if self._below(2) else self._below(1 << 32))

    def tile(self) -> None:
        """Bytes of one tile."""
        at, size = self._tile()
        for _ in range(self._below(16) + 1):
            self.content[at + self._below(size)] = self._below(256)

    def tile_header(self) -> None:
        """The first bytes of a tile, where JPEG and JPEG 2000 say what they are."""
        at, size = self._tile()
        for _ in range(self._below(4) + 1):
            where = at + self._below(min(size, 160))
            if self._below(2):
                self.content[where : where + 2] = struct.pack(">H", self._odd() & 0xFFFF)
            else:
                self.content[where] = self._below(256)

    def tile_markers(self) -> None:
        """Markers within a tile: others, at other places."""
        at, size = self._tile()
        found = self.content.find(b"\xff", at + self._below(size), at + size)
        where = found if found >= 0 and self._below(2) else at + self._below(size)
        self.content[where : where + 2] = bytes([0xFF, self._one_of(JPEG_MARKERS)])

    def tables(self) -> None:
        """JPEG's quantisation and Huffman tables, which all tiles share."""
        at, size = self._one_of(self._anatomy.tables)
        for _ in range(self._below(4) + 1):
            self.content[at + self._below(size)] = self._below(256)
        self.l0_boxes.append(self._one_of(self._anatomy.tiles)[2])

    def swap(self) -> None:
        """Two tiles change places, or one is lost."""
        (one, size), (other, other_size) = self._tile(), self._tile()
        common = min(size, other_size)
        if self._below(2):
            self.content[one : one + size] = bytes(size)
        else:
            piece = self.content[one : one + common]
            self.content[one : one + common] = self.content[other : other + common]
            self.content[other : other + common] = piece

    def description(self) -> None:
        """Text of the header: digits, separators, signs that are no text."""
        at, size = self._one_of(self._anatomy.descriptions)
        signs = b"0123456789-+eE.,|=; \x00\n\xff\xc3naninfMPP"
        for _ in range(self._below(8) + 1):
            self.content[at + self._below(size)] = self._one_of(signs)
        for word in (b"MPP = ", b"AppMag = "):
            found = self.content.find(word, at, at + size)
            if found >= 0 and self._below(2):
                numbers = (b"0.0000", b"-1.000", b"1e-300", b"999999", b"nan000", b"0,2500")
                where = found + len(word)
                self.content[where : where + 6] = self._one_of(numbers)

    def _tile(self) -> tuple[int, int]:
        offset, count, l0_box = self._one_of(
            [tile for tile in self._anatomy.tiles if tile[1] and tile[0] < len(self.content) // 2]
            or self._anatomy.tiles
        )
        self.l0_boxes.append(l0_box)
        offset = min(offset, len(self.content) - 1)
        return offset, max(1, min(count, len(self.content) - offset))

    def _put(self, at: int, form: str, number: int) -> None:
        size = struct.calcsize(form)
        if at + size <= len(self.content):
            struct.pack_into(form, self.content, at, number & ((1 << 8 * size) - 1))

    def _odd(self) -> int:
        return int(self._one_of(ODD_NUMBERS))

    def _below(self, bound: int) -> int:
        return int(self._rng.integers(max(1, bound)))

    def _one_of(self, values):
        return values[self._below(len(values))]


KINDS: tuple[Callable[[Mutator], None], ...] = (
    Mutator.flips,
    Mutator.block,
    Mutator.shift,
    Mutator.truncation,
    Mutator.header,
    Mutator.chain,
    Mutator.entry,
    Mutator.entry,
    Mutator.entry,
    Mutator.value,
    Mutator.value,
    Mutator.tile,
    Mutator.tile_header,
    Mutator.tile_header,
    Mutator.tile_markers,
    Mutator.tables,
    Mutator.swap,
    Mutator.description,
)


def mutated(path: Path, anatomy: Anatomy, seed: int, number: int) -> Mutator:
    """Make a mutation; the same arguments make the same one."""
    rng = np.random.default_rng([seed, number, zlib.crc32(path.name.encode())])
    mutator = Mutator(path.read_bytes(), anatomy, rng)
    try:
        mutator.mutate()
    except (IndexError, struct.error):  # an earlier step cut off what a later one wanted to hit
        mutator.steps.append("cut short")
    return mutator
