"""The directories of TIFFs, as our walk and as tifffile read them."""

import io

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.stated_mpp import tags_statement
from wsi_pipeline.slide.tiff.headers import check_tiff

RGB = np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8)


def written(**options):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options.pop("writer", {})) as tiff:
        tiff.write(RGB, photometric="rgb", metadata=None, **options)
    return file.getvalue()


def check(content, name="a.tif"):
    return check_tiff(io.BytesIO(content), len(content), name)


@pytest.mark.parametrize(
    "writer", [{"bigtiff": big, "byteorder": o} for big in (0, 1) for o in "<>"]
)
@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 7}, {}])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
def test_the_pixel_size_of_every_kind_of_tiff(writer, layout, unit):
    per_unit = (1 if unit == "CENTIMETER" else 2.54) * 1e4 / 0.5
    content = written(writer=writer, resolution=(per_unit, per_unit), resolutionunit=unit, **layout)
    (picture,) = check(content)
    assert tags_statement(picture.resolution).xy == pytest.approx((0.5, 0.5), rel=1e-6)
    tile = Size(128, 128) if "tile" in layout else None
    assert (picture.size, picture.tile, picture.planes) == (Size(400, 300), tile, 1)


def test_what_is_no_tiff_is_not_checked():
    for content in (b"", b"II", b"\x89PNG" + bytes(99), b"II\x2c\0" + bytes(99)):
        assert check(content) == ()


@pytest.mark.parametrize("bigtiff", [False, True])
def test_cut_anywhere_it_is_refused(bigtiff):
    content = written(writer={"bigtiff": bigtiff}, tile=(128, 128), compression="deflate")
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages.first
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
    check(content[:end])
    for length in np.linspace(16, end - 1, 40).astype(int):
        with pytest.raises(SlideError, match=r"a\.tif: .*truncated.*Copy it again"):
            check(content[:length])


def test_levels_below_a_directory_are_checked_too():
    """OME-TIFF keeps its pyramid in them."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        options = {"photometric": "rgb", "tile": (128, 128), "metadata": None}
        tiff.write(RGB, subifds=2, **options)  # tifffile chains them, too
        tiff.write(RGB[::2, ::2], subfiletype=1, **options)
        tiff.write(RGB[::4, ::4], subfiletype=1, **options)
        tiff.write(RGB[:100, :50], **options)
    content = file.getvalue()
    pictures = check(content)
    assert [picture.size.width for picture in pictures] == [400, 200, 100, 50]
    assert [picture.below for picture in pictures] == [False, True, True, False]
    assert [picture.reduced for picture in pictures] == [False, True, True, False]
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        below = tiff.series[0].levels[1].pages[0]
        ends = [a + b for a, b in zip(below.dataoffsets, below.databytecounts, strict=True)]
    with pytest.raises(SlideError, match="truncated"):
        check(content[: max(ends) - 1])


def test_random_bytes_are_refused_or_silent():
    """Whatever a directory says, it ends in an answer; most of it is nonsense."""
    content = written(tile=(128, 128), resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        start = tiff.pages.first.offset
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(2000):
        mutated = bytearray(content)
        for at in rng.integers(start, min(start + 250, len(content)), size=3):
            mutated[at] = rng.integers(256)
        try:
            pictures = check(bytes(mutated))
        except SlideError as error:
            refused += 1
            assert str(error).startswith("a.tif: ")  # noqa: PT017 - what is raised is at random
        else:
            for picture in pictures:
                said = tags_statement(picture.resolution)
                assert said is None or said.xy is None or min(said.xy) > 0
    assert refused > 500
