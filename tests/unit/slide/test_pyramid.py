"""Levels rounded and filled up in every way: what is read there is what lies there on level 0."""

from math import ceil, floor

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.pyramid import Described, is_copy_of, place_levels
from wsi_pipeline.slide.slide import Slide

TILE = 64
ROUNDINGS = {"floor": floor, "ceil": ceil, "round": round}
FILLS = {"black": (0, 0), "white": (255, 255), "edge": None}


def ramps(size):
    """Red tells the column and green the row, modulo 256."""
    rgb = np.zeros((size.height, size.width, 3), np.uint8)
    rgb[..., 0] = np.arange(size.width) % 256
    rgb[..., 1] = np.arange(size.height)[:, None] % 256
    return rgb


def reduced(rgb, whole, rounding, fill):
    """Area means of blocks; the last row and column are cut, kept, or filled up to whole tiles."""
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % whole), (0, -width % whole), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // whole, whole, -1, whole, 3).mean((1, 3)).round()
    rows, columns = (rounding(side / whole) for side in (height, width))
    level = blocks[:rows, :columns].astype(np.uint8)
    if fill is None:
        return level
    missing = ((0, -rows % TILE), (0, -columns % TILE), (0, 0))
    colour = FILLS[fill]
    if colour is None:
        return np.pad(level, missing, mode="edge")
    return np.pad(level, missing, constant_values=colour[0])


def write(path, rgb, wholes, *, rounding=floor, fill=None, tags="own", pad_0=False):
    with tifffile.TiffWriter(path) as tiff:
        for whole in (1, *wholes):
            pixels = reduced(rgb, whole, rounding, fill if whole > 1 or pad_0 else None)
            mpp = 0.5 * (whole if tags == "own" else 1)
            said = tags == "own" or tags == "copied" or whole == 1
            tiff.write(
                pixels,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="deflate",
                metadata=None,
                subfiletype=int(whole > 1),
                resolution=(1e4 / mpp, 1e4 / mpp) if said else None,
                resolutionunit="CENTIMETER" if said else "NONE",
            )
    return path


def offset(slide, level, l0_size, rgb):
    """How far what is read of a level lies from where it should, in pixels of the level.

    Judged at the corner opposite to the origin, where a wrong scale is worst.
    """
    downsample = level.downsample
    side = 12
    l0_side = round(side * downsample)
    l0_box = Box(l0_size.width - l0_side, l0_size.height - l0_side, l0_side, l0_side)
    assert slide.view_for(downsample).downsample == downsample
    seen = slide.read(l0_box, Size(side, side)).astype(float)
    errors = []
    for axis, start, channel in ((1, l0_box.x, 0), (0, l0_box.y, 1)):
        centres = start + (np.arange(side) + 0.5) * l0_side / side - 0.5
        profile = np.median(seen[..., channel], axis=1 - axis)
        away = (profile - centres + 128) % 256 - 128
        errors.append(abs(np.median(away)) / downsample)
    return max(errors)


SIZES = [Size(555, 742), Size(653, 577), Size(800, 800), Size(750, 750), Size(769, 641)]


@pytest.mark.parametrize("backend", ["openslide", "tiffslide"])
@pytest.mark.parametrize("fill", [None, *FILLS])
def test_levels_are_read_where_they_lie_or_not_at_all(tmp_path, backend, fill):
    kept = left_out = 0
    rng = np.random.default_rng(0)
    for number, l0_size in enumerate(SIZES):
        rgb = ramps(l0_size)
        for tags in ("own", "copied", "none"):
            rounding = list(ROUNDINGS.values())[int(rng.integers(3))]
            wholes = [(2, 4, 8), (4, 16), (3, 9), (2, 4)][int(rng.integers(4))]
            path = write(
                tmp_path / f"{number}-{tags}.tif", rgb, wholes,
                rounding=rounding, fill=fill, tags=tags,
            )  # fmt: skip
            with Slide.open(path, backend=backend) as slide:
                assert slide.l0_size == l0_size
                for level in slide.levels[1:]:
                    assert offset(slide, level, l0_size, rgb) < 1, (l0_size, tags, wholes, level)
                kept += len(slide.levels) - 1
                left_out += len(wholes) + 1 - len(slide.levels)
                # What is stated is enough, but tifffile itself leaves out what is filled up.
                if fill is None or (tags == "own" and backend == "openslide"):
                    assert len(slide.levels) == len(wholes) + 1, (l0_size, tags, wholes)
    assert kept > left_out or backend == "tiffslide"


def test_whole_pixels_of_filled_levels_are_their_own(tmp_path):
    """And what they were filled up with is outside the slide: white."""
    l0_size = Size(1500, 900)
    rgb = ramps(l0_size)
    path = write(tmp_path / "a.tif", rgb, (2, 4), fill="black")
    with Slide.open(path, backend="openslide") as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        seen = slide.read(Box(0, 0, 1536, 1024), Size(384, 256))
        assert (seen[225:] == 255).all()
        assert (seen[:, 375:] == 255).all()
        np.testing.assert_array_equal(seen[:225, :375], reduced(rgb, 4, floor, None))
        assert slide.thumbnail(Mpp(2)).shape == (225, 375, 3)


L0 = Size(100_000, 80_000)


@pytest.mark.parametrize(
    ("size", "tile", "stated", "expected"),
    [
        # Sizes alone.
        (Size(25_000, 20_000), None, None, 4),
        (Size(24_999, 20_001), None, None, None),
        (Size(40_000, 32_000), None, None, 2.5),
        (Size(25_088, 20_224), Size(256, 256), None, 4),
        (Size(25_088, 20_224), None, None, None),
        (Size(512, 512), Size(512, 512), None, None),  # any scale from 196 on
        # What is stated decides, in few digits too, and where it is the same for all it does not.
        (Size(512, 512), Size(512, 512), 256, 256),
        (Size(512, 512), Size(512, 512), 1, None),
        (Size(25_088, 20_224), Size(256, 256), 4.04, 4),
        (Size(25_000, 20_000), None, 1, 4),
        (Size(40_000, 32_000), None, 2.5, 2.5),
        (Size(25_000, 20_000), None, 8, None),
        (Size(25_200, 20_100), Size(256, 256), 4, 4),
        (Size(25_200, 20_100), Size(256, 256), 4.04, None),
        (Size(25_200, 20_400), Size(256, 256), 4, None),
    ],
)
def test_scales(size, tile, stated, expected):
    described = [Described(L0, tile, 0.25), Described(size, tile, stated and 0.25 * stated)]
    _, level = place_levels([L0, size], [None, None], described, "a.tif")
    assert (level and level.downsample) == expected


def test_squares_filled_up_are_told_from_other_scales():
    """5000 → 1280 is 3.906, or 1250 filled up to tiles of 256: only what is stated can tell."""
    l0_size, size, tile = Size(5000, 5000), Size(1280, 1280), Size(256, 256)
    for scale, expected in ((None, None), (1.0, 4), (0.25 * 5000 / 1280, 5000 / 1280)):
        described = [Described(l0_size, tile, 0.25), Described(size, tile, scale)]
        _, level = place_levels([l0_size, size], [None, None], described, "a.tif")
        assert (level and level.downsample) == expected
    # A format's own word is taken.
    _, level = place_levels([l0_size, size], [None, 4.0], [], "a.mrxs")
    assert level.downsample == 4


def test_another_shape_is_no_level():
    with pytest.raises(SlideError, match=r"a\.tif: level 1.*not the shape of level 0"):
        place_levels([L0, Size(20_000, 20_000)], [None, None], [], "a.tif")
    assert not is_copy_of(L0, Size(20_000, 20_000), None)
    assert is_copy_of(L0, Size(25_088, 20_224), Size(256, 256))
