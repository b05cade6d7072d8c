"""Each colour model becomes sRGB on both readers, or is refused by its name on both.

References are other decoders: Pillow's and OpenSlide's, besides the picture that was written.
"""

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.helpers.jpeg_tiles import bare
from wsi_pipeline.errors import ColourError, SlideError
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.night.outcome import of_error
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.slide import Slide

TILE, SIDE = 64, 128
MPP = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
READERS = ("tiffslide", "openslide")


def picture(side: int = SIDE) -> NDArray[np.uint8]:
    """Smooth colours, so that halved chroma loses next to nothing."""
    y, x = np.mgrid[:side, :side]
    waves = 150 + 60 * np.sin(x / 9), 90 + 50 * np.cos(y / 7), 160 + 50 * np.sin((x + y) / 11)
    return np.stack(waves, axis=2).round().astype(np.uint8)


RGB = picture()
YCBCR = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
ALPHA = np.full_like(GREY, 255)


def retag(path: Path, **tags: int) -> None:
    codes = {"photometric": 262, "compression": 259}
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in tags.items():
            tiff.pages.first.tags[codes[name]].overwrite(value)


def read(path: Path, backend: str) -> NDArray[np.int64]:
    with Slide.open(path, backend=backend) as slide:
        pixels = slide.read(slide.l0_bounds, slide.l0_size)
        assert slide.repaired_reads == 0
    return pixels.astype(np.int64)


def tiles(samples: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for top in range(0, samples.shape[0], TILE):
        for left in range(0, samples.shape[1], TILE):
            yield np.ascontiguousarray(samples[top : top + TILE, left : left + TILE])


def write_streams(path: Path, streams: list[bytes], **tags: int) -> None:
    """Store compressed tiles as they are, and say of them what is wanted."""
    tifffile.imwrite(
        path, iter(streams), shape=RGB.shape, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression="jpeg", compressionargs={"outcolorspace": "rgb"}, **MPP,
    )  # fmt: skip
    retag(path, **tags)


def subsampled(samples: NDArray[np.uint8], across: int, down: int) -> bytes:
    """A tile as TIFF 6 has it: of each block its lumas, and one pair of chromas."""
    blocks = samples.reshape(TILE // down, down, TILE // across, across, 3).swapaxes(1, 2)
    luma = blocks[..., 0].reshape(*blocks.shape[:2], -1)
    chroma = blocks[..., 1:].mean((2, 3)).round().astype(np.uint8)
    return np.concatenate([luma, chroma], axis=2).tobytes()


def write_raw_ycbcr(
    path: Path, sampling: tuple[int, int] | None, compression: int, stored: tuple[int, int]
) -> None:
    """Write a TIFF by hand: no library writes subsampled YCbCr without JPEG."""
    encode: Callable[[bytes], bytes] = {
        1: bytes, 5: imagecodecs.lzw_encode, 8: imagecodecs.zlib_encode,
    }[compression]  # fmt: skip
    data = [encode(subsampled(tile, *stored)) for tile in tiles(YCBCR)]
    body = b"".join(data)
    offsets = [8 + sum(map(len, data[:index])) for index in range(len(data))]
    entries = [
        (256, 4, [SIDE]), (257, 4, [SIDE]), (258, 3, [8, 8, 8]), (259, 3, [compression]),
        (262, 3, [6]), (277, 3, [3]), (282, 5, [20_000, 1]), (283, 5, [20_000, 1]),
        (296, 3, [3]), (322, 4, [TILE]), (323, 4, [TILE]), (324, 4, offsets),
        (325, 4, [len(tile) for tile in data]),
        *([(530, 3, list(sampling))] if sampling else []),
    ]  # fmt: skip
    directory, spare = struct.pack("<H", len(entries)), b""
    start = 8 + len(body) + 2 + 12 * len(entries) + 4
    for code, kind, values in entries:
        raw = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        count = len(values) // 2 if kind == 5 else len(values)
        directory += struct.pack("<HHI", code, kind, count)
        directory += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", start + len(spare))
        spare += raw if len(raw) > 4 else b""
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + bytes(4) + spare
    )


@pytest.mark.parametrize("backend", READERS)
@pytest.mark.parametrize(
    ("sampling", "compression"), [((1, 1), 1), ((1, 1), 8), ((2, 1), 5), ((2, 2), 8), ((2, 2), 1)]
)
def test_ycbcr_without_jpeg_is_converted(tmp_path, sampling, compression, backend):
    path = tmp_path / "slide.tif"
    write_raw_ycbcr(path, sampling, compression, sampling)
    difference = np.abs(read(path, backend) - RGB)
    assert difference.mean() < 2.5
    assert difference.max() < 16


def test_ycbcr_that_does_not_state_its_sampling_shows_it_by_its_size(tmp_path):
    """The default is 4:2:0, and writers that know nothing of it store all of the chroma."""
    path = tmp_path / "slide.tif"
    write_raw_ycbcr(path, None, 8, (1, 1))
    assert np.abs(read(path, "tiffslide") - RGB).max() < 5
    with pytest.raises(SlideError, match=r"other colours than its tags say.*slide.backend"):
        Slide.open(path, backend="openslide")


APERIO = (
    "Aperio Image Library v11.2.1 \r\n{0}x{0} [0,0 {0}x{0}] (64x64) J2K/YUV16 Q=70"
    "|AppMag = 20|MPP = 0.4990"
)


@pytest.mark.parametrize("backend", READERS)
@pytest.mark.parametrize("sampling", ["444", "422", "420"])
def test_aperios_ycbcr_of_jpeg_2000_is_converted(tmp_path, sampling, backend):
    """OpenSlide has a decoder of its own for it. Subsampled streams are by OpenJPEG's encoder."""
    reference = picture(TILE)
    if sampling == "444":
        ycbcr = np.asarray(Image.fromarray(reference).convert("YCbCr"))
        stream = imagecodecs.jpeg2k_encode(ycbcr, level=40, codecformat="j2k", mct=False)
    else:
        stream = (Path(__file__).parent / "j2k" / f"ycbcr-{sampling}.j2k").read_bytes()
    path = tmp_path / "slide.svs"
    tifffile.imwrite(
        path, iter([stream]), shape=reference.shape, dtype=np.uint8, tile=(TILE, TILE),
        photometric="rgb", compression="aperio_jp2000_rgb", description=APERIO.format(TILE),
        metadata=None,
    )  # fmt: skip
    retag(path, compression=33003)
    assert np.abs(read(path, backend) - reference).mean() < 4


@pytest.mark.parametrize("backend", READERS)
def test_a_palette_is_looked_up(tmp_path, backend):
    indexed = Image.fromarray(RGB).quantize(200)
    colours = np.asarray(indexed.getpalette(), np.uint16).reshape(-1, 3).T * 257
    colours = np.pad(colours, ((0, 0), (0, 256 - colours.shape[1])))
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, np.asarray(indexed), photometric="palette", colormap=colours, tile=(TILE, TILE),
        compression="zlib", **MPP,
    )  # fmt: skip
    np.testing.assert_array_equal(read(path, backend), np.asarray(indexed.convert("RGB")))


def over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    white = Image.new("RGBA", (rgba.shape[1], rgba.shape[0]), "white")
    return np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))


@pytest.mark.parametrize(
    ("backend", "tiled"), [("tiffslide", True), ("tiffslide", False), ("openslide", True)]
)
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_what_is_transparent_is_white(tmp_path, backend, kind, tiled):
    rgba = np.dstack([RGB, ALPHA])
    rgba[20:50, 20:50] = 0
    rgba[60:90, 20:50, 3] = 0  # transparent, but not black
    rgba[20:50, 70:110, 3] = np.linspace(0, 255, 40)
    stored = rgba.copy()
    if kind == "assocalpha":
        stored[..., :3] = (rgba[..., :3].astype(float) * rgba[..., 3:] / 255).round()
    path = tmp_path / "slide.tif"
    options = {"tile": (TILE, TILE)} if tiled else {"rowsperstrip": 16}
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=[kind], **options, **MPP)
    found = read(path, backend)
    assert (found[20:50, 20:50] == 255).all()
    assert (found[60:90, 20:50] == 255).all()
    assert np.abs(found - over_white(rgba)).max() <= 3  # OpenSlide divides by alpha and we multiply


CMYK = np.asarray(Image.fromarray(RGB).convert("CMYK"))
REFUSED = {
    "cmyk": (CMYK, {"photometric": "separated"}, "CMYK.*vips colourspace"),
    "inverted cmyk": (255 - CMYK, {"photometric": "separated", "compression": "jpeg"}, "CMYK"),
    "lab": (RGB, {"photometric": "cielab"}, "CIELab.*vips colourspace"),
    "three planes": (
        RGB, {"photometric": "minisblack", "planarconfig": "contig"},
        "three grey channels, not RGB: not a brightfield slide.*--interpretation srgb",
    ),
    "three pages": (
        np.moveaxis(RGB, 2, 0).copy(), {"photometric": "minisblack", "ome": True},
        "three grey channels",
    ),
    "grey": (GREY, {"photometric": "minisblack"}, "one grey channel, not RGB"),
    "negative": (GREY, {"photometric": "miniswhite"}, "one grey channel, not RGB"),
    "grey and alpha": (
        np.dstack([GREY, ALPHA]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        "one grey channel, not RGB",
    ),
    "16 bits": (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}, "16 bits, but .*vips"),
    "float": ((RGB / 255).astype(np.float32), {"photometric": "rgb"}, "32 floating-point bits"),
    "1 bit": (GREY > 128, {"photometric": "minisblack"}, "1 bit: it is a mask"),
    "a fourth sample": (
        np.dstack([RGB, ALPHA]), {"photometric": "rgb", "extrasamples": ["unspecified"]},
        "fourth sample.*vips extract_band",
    ),
    "five samples": (np.dstack([RGB, ALPHA, ALPHA]), {"photometric": "rgb"}, "5 samples"),
}  # fmt: skip


@pytest.mark.parametrize("backend", READERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_other_colours_are_refused_by_name(tmp_path, kind, backend):
    samples, options, message = REFUSED[kind]
    path = tmp_path / "slide.tif"
    options = {"tile": (TILE, TILE), **MPP, **options}
    if options.pop("ome", False):
        options["metadata"] = {"axes": "CYX"}
    tifffile.imwrite(path, samples, **options)
    with pytest.raises(SlideError, match=message) as refusal:
        Slide.open(path, backend=backend)
    assert str(refusal.value).startswith(str(path))


def jpeg(rgb: NDArray[np.uint8], kind: str) -> bytes:
    """YCbCr by JFIF, or RGB by Adobe's marker or by the names of its components alone."""
    if kind == "jfif":
        return imagecodecs.jpeg8_encode(rgb, level=95, subsampling="444")
    stream = imagecodecs.jpeg8_encode(
        rgb, level=95, colorspace="rgb", outcolorspace="rgb", subsampling="444"
    )
    return stream if kind == "adobe" else bare(stream)


@pytest.mark.parametrize(("kind", "true"), [("jfif", 6), ("adobe", 2), ("names", 2)])
def test_a_jpeg_is_what_it_says_whatever_the_tag(tmp_path, kind, true):
    """OpenSlide believes the tag, and where it is wrong must not be asked."""
    streams = [jpeg(tile, kind) for tile in tiles(RGB)]
    decoded = np.asarray(Image.open(BytesIO(streams[0])).convert("RGB")).astype(int)
    for photometric in (2, 6):
        path = tmp_path / f"{photometric}.tif"
        write_streams(path, streams, photometric=photometric)
        assert np.abs(read(path, "tiffslide")[:TILE, :TILE] - decoded).max() <= 2
        with Slide.open(path) as slide:
            half = slide.read(Box(0, 0, SIDE, SIDE), Size(SIDE // 2, SIDE // 2))
        shrunk = cv2.resize(RGB, half.shape[:2], interpolation=cv2.INTER_AREA)
        assert np.abs(half.astype(int) - shrunk).mean() < 3
        if photometric == true:
            assert np.abs(read(path, "openslide")[:TILE, :TILE] - decoded).max() <= 2
        else:
            with pytest.raises(SlideError, match="OpenSlide would show them wrongly"):
                Slide.open(path, backend="openslide")


def test_what_cannot_be_converted_is_refused_and_not_failed(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, CMYK, photometric="separated", tile=(TILE, TILE), **MPP)
    with pytest.raises(ColourError) as refusal:
        Slide.open(path)
    file = SlideFile(str(path), (str(path),), folder="slide", name="slide.tif")
    assert of_error(file, refusal.value).status == "refused"
