"""Shrunk decoding against Pillow, which has libjpeg-turbo of its own, and against area means."""

import struct
from io import BytesIO

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.helpers.jpeg_tiles import abbreviated, bare, encode, write_jpeg_slide
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.resample import area_mean
from wsi_pipeline.slide.tiff.jpeg import AS_RGB, Frame, ShrinkingDecoder, frame_of

KINDS = ("rgb", "444", "422", "420")
SHRINKS = (2, 4, 8)
TILE = 64


def drafted(stream, shrink):
    """What Pillow's draft mode makes of a whole JPEG."""
    with Image.open(BytesIO(stream)) as picture:
        picture.draft("RGB", (picture.width // shrink, picture.height // shrink))
        return np.asarray(picture.convert("RGB"))


def page_of(path):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        _ = page.jpegtables, page.is_jfif
        stored = []
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            tiff.filehandle.seek(offset)
            stored.append(tiff.filehandle.read(count))
        return page, stored


@pytest.mark.parametrize("tables_apart", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_shrunk_tiles_are_those_of_another_decoder(tmp_path, tissue_like, kind, tables_apart):
    rgb = cv2.GaussianBlur(tissue_like(200, 300), (0, 0), 1.5)  # as sharp as optics are at 40x
    whole = write_jpeg_slide(tmp_path / "s.tif", rgb, kind, tables_apart=tables_apart)
    page, stored = page_of(tmp_path / "s.tif")
    assert (page.jpegtables is not None) == tables_apart
    decoder = ShrinkingDecoder.of(page)
    assert decoder.is_rgb == (kind == "rgb")
    for index, (stream, segment) in enumerate(zip(whole, stored, strict=True)):
        general = page.decode(segment, index, jpegtables=page.jpegtables)[0][0]
        assert np.abs(general.astype(int) - imagecodecs.jpeg8_decode(stream)).max() == 0
        for shrink in SHRINKS:
            shrunk = decoder.decode(segment, shrink).astype(int)
            assert shrunk.shape == (TILE // shrink, TILE // shrink, 3)
            error = shrunk - area_mean(general, shrink, shrink)
            if kind == "422" or (kind == "420" and shrink == 2):
                assert not error.any()
            else:
                assert np.abs(shrunk - drafted(stream, shrink)).max() <= 1
                assert 10 * np.log10(255**2 / np.mean(error**2.0)) > 40
                assert np.abs(error).mean() < 2


def test_tiles_that_do_not_halve_are_not_halved(tmp_path, tissue_like):
    for tile, shrinks in ((64, (2, 4, 8)), (240, (2, 4, 8)), (48, (2, 4, 8)), (16, (2, 4, 8))):
        write_jpeg_slide(tmp_path / "s.tif", tissue_like(100, 100), "444", tile=tile)
        page, _ = page_of(tmp_path / "s.tif")
        assert ShrinkingDecoder.of(page).shrinks == shrinks
    odd = ShrinkingDecoder(Size(36, 50), b"", is_rgb=False)
    assert odd.shrinks == (2,)


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ({"compression": "deflate", "photometric": "rgb"}, np.zeros((64, 64, 3), np.uint8)),
        ({"compression": "jpeg", "photometric": "minisblack"}, np.zeros((64, 64), np.uint8)),
        ({"compression": "jpeg", "photometric": "separated"}, np.zeros((64, 64, 4), np.uint8)),
        ({"compression": "jpeg2000", "photometric": "rgb"}, np.zeros((64, 64, 3), np.uint8)),
    ],
    ids=["deflate", "grey", "CMYK", "JPEG 2000"],
)
def test_all_else_is_left_to_the_general_way(tmp_path, options, pixels):
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), metadata=None, **options)
    page, _ = page_of(tmp_path / "s.tif")
    assert ShrinkingDecoder.of(page) is None


@pytest.fixture
def good(tissue_like):
    return encode(tissue_like(TILE, TILE), "444")


def cut(stream):
    return stream[: len(stream) * 2 // 3]


def ended(stream):
    return stream[: len(stream) * 2 // 3] + b"\xff\xd9"


def of_65000(stream):
    at = stream.index(b"\xff\xc0") + 5
    return stream[:at] + struct.pack(">HH", 65000, 65000) + stream[at + 4 :]


def twice(stream):
    at = stream.index(b"\xff\xc0")
    return stream[:at] + stream[at : at + 19] + stream[at:]


@pytest.mark.parametrize(
    "damage",
    [cut, ended, of_65000, twice, lambda _: b"", lambda stream: bytes(len(stream))],
    ids=["cut", "ended", "65000 px", "two frames", "nothing", "zeros"],
)
@pytest.mark.parametrize("shrink", SHRINKS)
def test_the_least_irregularity_is_refused(good, damage, shrink):
    """libjpeg makes something of most of them, with a warning."""
    decoder = ShrinkingDecoder(Size(TILE, TILE), good[:2], is_rgb=False)
    assert decoder.decode(good, shrink).shape == (TILE // shrink, TILE // shrink, 3)
    with pytest.raises(ValueError, match=r".+"):
        decoder.decode(damage(good), shrink)


def test_a_tile_that_contradicts_its_directory_is_refused(good):
    decoder = ShrinkingDecoder(Size(TILE, TILE), good[:2] + AS_RGB, is_rgb=True)
    assert decoder.decode(bare(good), 2).size
    with pytest.raises(ValueError, match="something else"):
        decoder.decode(good, 2)  # JFIF is YCbCr
    without = bare(good)
    stated = without[:2] + AS_RGB + without[2:]
    np.testing.assert_array_equal(decoder.decode(stated, 2), decoder.decode(without, 2))
    with pytest.raises(ValueError, match="something else"):
        decoder.decode(without[:2] + AS_RGB[:-1] + b"\x01" + without[2:], 2)
    with pytest.raises(ValueError, match="size of a tile"):
        ShrinkingDecoder(Size(128, 64), good[:2], is_rgb=False).decode(good, 2)


def test_frames(good):
    frame = Frame(Size(TILE, TILE), 3, ((1, 1),) * 3)
    assert frame_of(good) == frame
    assert frame_of(abbreviated(good)[1]) == frame
    assert frame_of(b"\x12\xff\xff" + good) == frame
    assert frame_of(abbreviated(good)[0]) is None
    assert frame_of(b"") is None


def test_colour_decides_whether_the_decoder_shrinks():
    expected = {(1, 1): (True, True), (2, 2): (False, True), (2, 1): (False, False)}
    for luma, by_shrink in {**expected, (1, 2): (False, False), (4, 1): (False, False)}.items():
        frame = Frame(Size(8, 8), 3, (luma, (1, 1), (1, 1)))
        assert (frame.shrinks_well(2), frame.shrinks_well(4)) == by_shrink
