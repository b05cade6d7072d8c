"""What the samples of a TIFF mean, and how they become sRGB; what cannot is refused by name.

Reading libraries do not ask: tiffslide takes any three samples for red, green and blue, OpenSlide
shows the first of several channels as grey. So it is decided here, from the tags and for both.

============================ ======================================================================
RGB of 8 bits                as it is, whatever the codec
the same with alpha          laid over white: what is transparent was never scanned
YCbCr in JPEG                by its codec
YCbCr in JPEG 2000           here, but for subsampled ones, which the codec does itself
YCbCr otherwise              here, in all samplings, as full-range BT.601: TIFF's default
palette                      looked up here
grey, CMYK, CIELab, 16 bits  refused: no picture of a stained section, or no single right conversion
============================ ======================================================================
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.slide.tiff.jpeg import COMPRESSIONS as JPEG
from wsi_pipeline.slide.tiff.jpeg import RGB, YCBCR, says_rgb

MIN_IS_WHITE, MIN_IS_BLACK, PALETTE, CMYK = 0, 1, 3, 5
"""TIFF's photometric interpretations, besides RGB and YCbCr."""

OTHERS = {4: "a mask", CMYK: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL",
          32845: "LogLuv"}  # fmt: skip

ASSOCIATED, UNASSOCIATED = 1, 2
"""ExtraSamples that are alpha: colour multiplied by it already, and not."""

APERIO_YCBCR = 33003
JPEG_2000 = frozenset({APERIO_YCBCR, 33004, 33005, 33007, 34712})
WEBP = frozenset({34927, 50001})

DECOMPRESS: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.deflate_decode,
    32773: imagecodecs.packbits_decode,
    32946: imagecodecs.deflate_decode,
    34925: imagecodecs.lzma_decode,
    50000: imagecodecs.zstd_decode,
}
"""Codecs of bytes, which know nothing of pictures."""

BT_601 = (0.299, 0.587, 0.114)
FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)

CONVERT = "Convert it with `vips colourspace IN 'OUT.tif[tile,pyramid,compression=jpeg,Q=90]' srgb`"

Samples = NDArray[np.uint8]
"""uint8 [rows, columns, samples]."""


@dataclass(frozen=True, slots=True)
class ColourTags:
    """What a directory says of its samples.

    Attributes:
        photometric: the interpretation.
        bits: of each sample.
        formats: of each sample, 1 being an unsigned integer; empty where nothing is said.
        extra: what those beyond the colours are.
        compression: the codec.
        luma: YCbCrCoefficients, empty for the default.
        range: ReferenceBlackWhite, empty for the default.

    """

    photometric: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    extra: tuple[int, ...]
    compression: int
    luma: tuple[float, ...] = ()
    range: tuple[float, ...] = ()

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> Self:
        """Read them from a page."""
        samples = page.samplesperpixel
        bits: Any = page.bitspersample
        return cls(
            photometric=int(page.photometric),
            bits=tuple(bits) if isinstance(bits, tuple) else (bits,) * samples,
            formats=(int(page.sampleformat),),
            extra=tuple(int(kind) for kind in page.extrasamples),
            compression=int(page.compression),
        )

    @property
    def has_own_codec(self) -> bool:
        """Whether the codec knows of colours."""
        return self.compression in JPEG | JPEG_2000 | WEBP

    def refusal(self, pictures: int = 1) -> str | None:
        """Return what keeps the samples from being the colours of a section, and the remedy.

        Args:
            pictures: how many pictures of this size the file has.

        """
        samples = len(self.bits)
        if self.photometric in (MIN_IS_WHITE, MIN_IS_BLACK):
            if set(self.bits) == {1}:
                return "its pixels have 1 bit: it is a mask and no slide"
            alpha = sum(kind in (ASSOCIATED, UNASSOCIATED) for kind in self.extra)
            channels = max(samples - alpha, pictures)
            number = {1: "one", 2: "two", 3: "three", 4: "four"}.get(channels, str(channels))
            whole = (
                ". If they are the red, green and blue of one, say so with `vips copy IN "
                "'OUT.tif[tile,pyramid]' --interpretation srgb`"
            )
            return (
                f"it has {number} grey channel{'s' * (channels > 1)}, not RGB: not a brightfield "
                f"slide{whole if channels == 3 else ', which has 8-bit RGB. Export it as RGB'}"
            )
        if self.photometric not in (RGB, YCBCR, PALETTE):
            kind = OTHERS.get(self.photometric, f"of kind {self.photometric}")
            return f"its colours are {kind}, not RGB. {CONVERT}"
        if set(self.bits) != {8} or set(self.formats) - {1}:
            remedy = "Export it as RGB of 8 bits" if 3 in self.formats else CONVERT
            how = " floating-point" if 3 in self.formats else ""
            return (
                f"its samples have {max(self.bits)}{how} bits, but a brightfield slide has 8-bit "
                f"RGB. {remedy}"
            )
        return self._refusal_of_samples(samples)

    def refusal_unless_tiled(self) -> str | None:
        """Return what keeps strips from being read; of tiles `tile_decoder` makes more."""
        own = self.compression in JPEG or self.photometric == RGB
        if own and not _is_ycbcr_2000(self):
            return None
        return f"its colours are not RGB, and it is not stored in tiles. {CONVERT}"

    def _refusal_of_samples(self, samples: int) -> str | None:
        colours = 1 if self.photometric == PALETTE else 3
        spare = samples - colours
        if spare < 0 or spare > 1 or (spare and self.photometric != RGB):
            return (
                f"its pixels have {samples} samples, and 3 were expected, or 4 with alpha. Export "
                f"it as RGB"
            )
        if spare and self.extra not in ((ASSOCIATED,), (UNASSOCIATED,)):
            return (
                "its pixels have a fourth sample that it does not say the meaning of. Leave it out "
                "with `vips extract_band IN 'OUT.tif[tile,pyramid]' 0 --n 3`, or call it alpha "
                "with `tiffset -s 338 1 2 FILE`"
            )
        special = _differs(self.luma, BT_601) or _differs(self.range, FULL_RANGE)
        if self.photometric == YCBCR and special and not self.has_own_codec:
            return f"its YCbCr has other coefficients than the usual, or another range. {CONVERT}"
        return None


def tile_decoder(page: tifffile.TiffPage) -> Callable[[bytes, int], Samples]:
    """Return how a directory's compressed tiles become uint8 [rows, columns, 3], sRGB.

    The directory is one that `ColourTags.refusal` finds no fault with. The decoder raises whatever
    the codec raises.
    """
    tags = ColourTags.of(page)
    if tags.photometric == YCBCR and not tags.has_own_codec:
        return partial(_raw_ycbcr, page)
    if tags.compression in JPEG_2000 and _is_ycbcr_2000(tags):
        return _ycbcr_2000
    if tags.photometric == PALETTE:
        return partial(_looked_up, page, palette(np.asarray(page.colormap)))
    return lambda segment, index: over_white(_samples(page, segment, index), tags.extra)


def contradicts_tags(page: tifffile.TiffPage, segment: bytes) -> bool:
    """Whether a compressed tile says, or shows by its size, that the tags are wrong of its colours.

    The tile's own word counts here, as it does with `tile_decoder`.
    """
    tags = ColourTags.of(page)
    if tags.compression in JPEG:
        stated = says_rgb(segment)
        return stated is not None and stated != (tags.photometric == RGB)
    decompress = DECOMPRESS.get(tags.compression)
    if tags.photometric == YCBCR and decompress is not None:
        full, halved = _raw_sizes(page)
        return len(decompress(segment, out=full)) != halved
    return False


def over_white(samples: NDArray[Any], extra: Sequence[int]) -> Samples:
    """Lay RGB with alpha over white; the alpha is the fourth sample, if there is one."""
    rgb = np.asarray(samples[..., :3], np.uint8)
    if samples.shape[-1] < 4 or (samples[..., 3] == 255).all():
        return rgb
    alpha = samples[..., 3:4].astype(np.uint16)
    colour = rgb.astype(np.uint16)
    if tuple(extra) == (UNASSOCIATED,):
        colour = (colour * alpha + 127) // 255
    return np.asarray(np.minimum(colour + (255 - alpha), 255), np.uint8)


def palette(colormap: NDArray[np.integer[Any]]) -> Samples:
    """Return a colour map, [3, n], as 8-bit RGB, [n, 3]; some writers leave it at 8 bits."""
    eight_bits = colormap if colormap.max() < 256 else (colormap.astype(np.uint32) + 128) // 257
    return eight_bits.T.astype(np.uint8)


def ycbcr_to_rgb(ycbcr: Samples) -> Samples:
    """Convert full-range BT.601."""
    return np.asarray(cv2.cvtColor(ycbcr[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB), np.uint8)


def _is_ycbcr_2000(tags: ColourTags) -> bool:
    """Aperio's compression says it; in standard JPEG 2000 the tag does."""
    if tags.compression == APERIO_YCBCR:
        return True
    return tags.compression == 34712 and tags.photometric == YCBCR


def _samples(page: tifffile.TiffPage, segment: bytes, index: int) -> Samples:
    pixels = page.decode(segment, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
    return np.asarray(np.asarray(pixels)[0], np.uint8)


def _looked_up(page: tifffile.TiffPage, colours: Samples, segment: bytes, index: int) -> Samples:
    return np.asarray(colours[_samples(page, segment, index)[..., 0]], np.uint8)


def _ycbcr_2000(segment: bytes, _index: int) -> Samples:
    """Decode JPEG 2000: subsampled chroma is taken for YCbCr by the codec, and converted there."""
    samples = np.asarray(imagecodecs.jpeg2k_decode(segment), np.uint8)
    start = segment.find(b"\xff\x4f\xff\x51")
    components = struct.unpack_from(">9B", segment, start + 42)
    is_subsampled = any(step != 1 for step in (*components[1::3], *components[2::3]))
    return samples if is_subsampled else ycbcr_to_rgb(samples)


def _raw_ycbcr(page: tifffile.TiffPage, segment: bytes, _index: int) -> Samples:
    """Decode YCbCr stored by a codec of bytes: blocks of h × v lumas and one pair of chromas."""
    rows, columns = page.tilelength, page.tilewidth
    across, down = _sampling(page)
    full, halved = _raw_sizes(page)
    decompress = DECOMPRESS.get(int(page.compression))
    raw = segment if decompress is None else decompress(segment, out=full)
    if len(raw) == full:  # whatever is said, or left to the default
        samples = np.frombuffer(raw, np.uint8).reshape(rows, columns, 3)
        return ycbcr_to_rgb(_unpredicted(page, samples))
    if len(raw) != halved or page.predictor != 1:
        raise ValueError(f"a tile of {len(raw):,} bytes, where {halved:,} were expected")
    blocks = np.frombuffer(raw, np.uint8).reshape(-(-rows // down), -(-columns // across), -1)
    height, width = blocks.shape[:2]
    luma = blocks[..., :-2].reshape(height, width, down, across).swapaxes(1, 2)
    chroma = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    samples = np.dstack([luma.reshape(height * down, width * across, 1), chroma])
    return ycbcr_to_rgb(np.asarray(samples[:rows, :columns], np.uint8))


def _sampling(page: tifffile.TiffPage) -> tuple[int, int]:
    return page.subsampling or (2, 2)


def _raw_sizes(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return the bytes of a tile of YCbCr in full, and in the sampling that the tags state."""
    across, down = _sampling(page)
    blocks = -(-page.tilelength // down) * -(-page.tilewidth // across)
    return 3 * page.tilelength * page.tilewidth, blocks * (across * down + 2)


def _unpredicted(page: tifffile.TiffPage, samples: Samples) -> Samples:
    return samples if page.predictor == 1 else np.asarray(samples.cumsum(1, np.uint8), np.uint8)


def _differs(stated: Sequence[float], usual: Sequence[float]) -> bool:
    return bool(stated) and not np.allclose(stated, usual, atol=0.01)
