"""Levels that show something else than level 0, which no tag tells."""

import numpy as np
import pytest
import tifffile

from tests.unit.slide.test_pyramid import reduced
from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.slide.slide import Slide

SIDE = 1024
"""Of the section."""


def write(path, *pictures):
    """Write pictures with the tags of each as they are given; the first is level 0."""
    with tifffile.TiffWriter(path) as tiff:
        for rgb, tags in pictures:
            tiff.write(
                rgb, tile=(64, 64), metadata=None,
                resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
                **{"photometric": "rgb", "compression": "deflate", "subfiletype": 1, **tags},
            )  # fmt: skip
    return path


def half(rgb):
    return reduced(rgb, 2, round, None)


@pytest.fixture(scope="module")
def sections(section):
    """Two of one size: one and its mirror image."""
    return section.rgb, np.ascontiguousarray(section.rgb[::-1])


LEVEL_0 = {"subfiletype": 0}


@pytest.mark.parametrize("backend", ["openslide", "tiffslide"])
def test_what_shows_something_else_is_no_level(tmp_path, sections, backend, caplog):
    one, other = sections
    thirds = reduced(one, 3, round, None)
    filled = np.full((SIDE // 2, SIDE // 2, 3), 255, np.uint8)
    filled[: len(thirds), : len(thirds)] = thirds
    glass = np.random.default_rng(0).normal(240, 1, (SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
    grey = half(one)[..., 1]
    for low, tags in (
        (half(other), {}),
        (np.ascontiguousarray(half(one)[20:480, 20:480]), {}),
        (filled, {}),
        (glass, {}),
        (grey, {"photometric": "minisblack"}),
    ):
        path = write(tmp_path / "a.tif", (one, LEVEL_0), (low, tags))
        with Slide.open(path, backend=backend) as slide:
            assert [level.downsample for level in slide.levels] == [1], (low.shape, low.mean())
            seen = slide.read(Box(0, 0, SIDE, SIDE), Size(SIDE // 2, SIDE // 2))
        assert np.abs(seen.astype(int) - half(one)).mean() < 1
    if backend == "openslide":
        assert caplog.text.count("shows something else than level 0, and is left out") == 4


@pytest.mark.parametrize("backend", ["openslide", "tiffslide"])
def test_levels_are_known_again_however_they_were_made(tmp_path, sections, backend):
    one, _ = sections
    decimated = np.ascontiguousarray(one[::2, ::2])
    white = half(one)
    white[:, SIDE // 4 :] = 255
    for low, tags in (
        (half(one), {}),
        (decimated, {"compression": "jpeg", "compressionargs": {"level": 30}}),
        ((255 * (half(one) / 255) ** 1.5).astype(np.uint8), {}),
        (white, {}),
        (np.zeros_like(white), {}),
    ):
        path = write(tmp_path / "a.tif", (one, LEVEL_0), (low, tags))
        with Slide.open(path, backend=backend) as slide:
            assert [level.downsample for level in slide.levels] == [1, 2]


def test_a_second_section_of_half_the_size_is_not_left_out_silently(tmp_path, sections):
    one, other = sections
    path = write(tmp_path / "a.tif", (one, LEVEL_0), (half(other), LEVEL_0))
    with pytest.raises(SlideError, match=r"512 × 512 px.*another section.*Export each"):
        Slide.open(path)
