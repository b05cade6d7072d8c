"""JPEG tiles of TIFFs, decoded at a half, a quarter or an eighth of their size.

A JPEG holds blocks of 8 × 8 frequencies. Leaving out the upper half of them gives the picture at
half its size for less than it takes to decode and shrink it whole: shrinking on load, which
libjpeg-turbo does in whole pixels, each over just the pixels that an area mean would take: on real
slides the two agree to 50 dB. Where colour is subsampled they do not. Half of 4:2:0 has all of its
colour, which is not enlarged and thus stays sharper than it is in tiles decoded whole: scores move
by 0.01. Of 4:2:2 libjpeg would leave colour out. Such tiles are decoded whole and averaged.

Decoding here is stricter than in general: the least irregularity is refused, so that what is made
of damaged tiles is decided in one place (`wsi_pipeline.slide.tiff.compressed_tiles`).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.resample import area_mean

SHRINKS = (2, 4, 8)
"""By which whole numbers libjpeg shrinks exactly, besides 1."""

COMPRESSIONS = frozenset({6, 7})
"""TIFF's old and new JPEG."""

RGB, YCBCR = 2, 6
"""TIFF's photometric interpretations."""

SOI = b"\xff\xd8"
AS_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's marker, as libjpeg writes it where components were not transformed: three without a word
it takes for YCbCr."""

FULL_COLOUR, HALVED_COLOUR = ((1, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1))
"""Sampling of 4:4:4 and 4:2:0."""

SCAN = 0xFFDA
JFIF, ADOBE = 0xFFE0, 0xFFEE
STATING = frozenset({JFIF, ADOBE})
"""JFIF's and Adobe's markers, which say what the components are."""
FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
"""Markers of a frame; those left out are of tables and extensions."""
BARE = frozenset(range(0xFFD0, 0xFFDA)) | {0xFFFF}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a JPEG says it becomes.

    Attributes:
        size: in pixels.
        components: how many it has.
        sampling: of each, how often it is sampled across and down.

    """

    size: Size
    components: int
    sampling: tuple[tuple[int, int], ...]

    def shrinks_well(self, shrink: int) -> bool:
        """Whether shrinking in the decoder leaves the colour as it is in a whole tile."""
        if self.sampling == FULL_COLOUR:
            return True
        return self.sampling == HALVED_COLOUR and shrink > 2


def frame_of(stream: bytes) -> Frame | None:
    """Return a JPEG's frame; None if it has none before its scan."""
    return next((_frame(stream, at) for marker, at in _markers(stream) if marker in FRAMES), None)


def says_rgb(stream: bytes) -> bool | None:
    """Return whether a JPEG of three components says that they are RGB, or YCbCr; None if neither.

    Adobe's marker says it, JFIF is YCbCr, and components may be called R, G and B.
    """
    stated = None
    for marker, at in _markers(stream):
        if marker == JFIF and stream[at + 4 : at + 8] == b"JFIF":
            stated = False
        elif marker == ADOBE and stream[at + 4 : at + 9] == b"Adobe":
            return stream[at + 15] == 0
        elif marker in FRAMES and stated is None and stream[at + 10 : at + 19 : 3] == b"RGB":
            return True
    return stated


@dataclass(frozen=True, slots=True)
class ShrinkingDecoder:
    """Decodes the JPEG tiles of one directory at a part of their size.

    Attributes:
        tile: size of a whole tile.
        opening: what a stream starts with: the tables, and that it is RGB if it is.
        is_rgb: whether the components are red, green and blue, as in Aperio's files.

    """

    tile: Size
    opening: bytes
    is_rgb: bool

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> Self | None:
        """Return the decoder of a directory's tiles; None if they are not plain 8-bit JPEGs."""
        plain = (
            page.compression in COMPRESSIONS
            and page.photometric in (RGB, YCBCR)
            and page.planarconfig == 1
            and (page.samplesperpixel, page.bitspersample) == (3, 8)
            and not page.extrasamples
            and not page.jpegheader
        )
        if not plain:
            return None
        # As tifffile has it: JFIF is YCbCr by its own definition, whatever the TIFF says.
        is_rgb = page.photometric == RGB and not page.is_jfif
        tables = page.jpegtables[2:-2] if page.jpegtables else b""
        opening = SOI + (AS_RGB if is_rgb else b"") + tables
        return cls(Size(page.tilewidth, page.tilelength), opening, is_rgb)

    @property
    def shrinks(self) -> tuple[int, ...]:
        """By which whole numbers tiles can be shrunk and still be whole pixels."""
        sides = (self.tile.width, self.tile.height)
        return tuple(shrink for shrink in SHRINKS if not any(side % shrink for side in sides))

    def decode(self, segment: bytes, shrink: int) -> NDArray[np.uint8]:
        """Decode one compressed tile, uint8 [rows / shrink, columns / shrink, 3].

        Raises:
            ValueError: if it is not of a tile's size, libjpeg has any complaint, or it contradicts
                its directory on what its components are.

        """
        markers = dict(_markers(segment))
        frames = [_frame(segment, at) for marker, at in markers.items() if marker in FRAMES]
        if [(frame.size, frame.components) for frame in frames] != [(self.tile, 3)]:
            raise ValueError("not a JPEG of the size of a tile")
        stated = {
            segment[at : at + len(AS_RGB)] for marker, at in markers.items() if marker in STATING
        }
        if self.is_rgb and stated - {AS_RGB}:
            raise ValueError("a tile says that its components are something else")
        stream = self.opening + segment[2:]
        if frames[0].shrinks_well(shrink):
            return _decoded(stream, self.tile.width // shrink, self.tile.height // shrink)
        return area_mean(_decoded(stream, self.tile.width, self.tile.height), shrink, shrink)


def _decoded(stream: bytes, width: int, height: int) -> NDArray[np.uint8]:
    # A buffer, so that no more memory is taken whatever the stream turns out to be.
    pixels = np.empty((height, width, 3), np.uint8)
    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        stream, min_height=height, min_width=width, buffer=pixels
    )
    if decoded.shape != pixels.shape:
        raise ValueError("decoded to another size")
    return decoded


def _frame(stream: bytes, at: int) -> Frame:
    height, width, components = struct.unpack_from(">HHB", stream, at + 5)
    factors = stream[at + 11 : at + 10 + 3 * components : 3]
    return Frame(Size(width, height), components, tuple(divmod(both, 16) for both in factors))


def _markers(stream: bytes) -> Iterator[tuple[int, int]]:
    """Give the markers of a JPEG and where they are, up to its scan."""
    at = stream.find(b"\xff")
    while 0 <= at <= len(stream) - 10:
        marker, length = struct.unpack_from(">HH", stream, at)
        if marker == SCAN:
            break
        yield marker, at
        # Decoders skip what is no marker, so that is no place to hide.
        has_content = marker > 0xFFBF and marker not in BARE
        at = stream.find(b"\xff", at + 2 + length if has_content else at + 1)
