"""The real slides, through both readers."""

import numpy as np
import pytest

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.slide import Slide

pytestmark = pytest.mark.slides

SLIDES = {
    "cmu-1-small-region.svs": None,
    "her2st-b4.tif": None,
    "her2st-c3.tif": None,
    "monusac-a9k0-1.svs": None,
    "tcga-cr-7395-01a-01-ts1.svs": Mpp(0.5),
}


@pytest.mark.parametrize("name", SLIDES)
def test_both_readers_give_the_same_pixels(slides_dir, name):
    """Equal where level 0 is read; within a few grey levels where anything lower is.

    There OpenSlide interpolates by up to half a level-0 pixel, since a level's downsample is
    rarely a whole number (4443 / 2221), and tiffslide does not; or JPEG tiles are shrunk in the
    decoder, whose pixels lie half a pixel off an odd corner.
    """
    mpp = SLIDES[name]
    with (
        Slide.open(slides_dir / name, backend="openslide", mpp=mpp) as a,
        Slide.open(slides_dir / name, backend="tiffslide", mpp=mpp) as b,
    ):
        assert (a.l0_size, a.levels, a.mpp, a.vendor) == (b.l0_size, b.levels, b.mpp, b.vendor)
        rng = np.random.default_rng(0)
        for downsample, tolerance in ((1.0, 0), (0.73, 0), (1.9, 0), (2.0, 8), (4.3, 8), (9, 8)):
            for _ in range(3):
                side = int(150 * downsample)
                x, y = rng.integers(0, (a.l0_size.width - 150, a.l0_size.height - 150))
                box = Box(int(x), int(y), side, side)
                one, other = (s.read(box, Size(150, 150)).astype(int) for s in (a, b))
                of_level_0 = (a.view_for(downsample).downsample, b.view_for(downsample).downsample)
                assert np.abs(one - other).mean() <= (0 if of_level_0 == (1, 1) else tolerance)


def test_what_the_headers_say(slides_dir):
    expected = {
        "cmu-1-small-region.svs": (Size(2220, 2967), 0.499, "aperio"),
        "her2st-b4.tif": (Size(9272, 9923), 0.688, "generic-tiff"),
        "her2st-c3.tif": (Size(9270, 9936), 0.688, "generic-tiff"),
        "monusac-a9k0-1.svs": (Size(1307, 1153), 0.19448, "aperio"),
    }
    for name, (size, mpp, vendor) in expected.items():
        with Slide.open(slides_dir / name) as slide:
            assert (slide.l0_size, slide.vendor) == (size, vendor)
            assert slide.mpp == pytest.approx(mpp)
            by_tags = vendor == "generic-tiff"
            assert slide.mpp_source == ("TIFF resolution tags" if by_tags else "reader")


def test_a_slide_without_mpp_is_refused_until_it_is_told(slides_dir):
    path = slides_dir / "tcga-cr-7395-01a-01-ts1.svs"
    with pytest.raises(MppError, match=r"tcga-cr.*does not say how large.*--mpp"):
        Slide.open(path)
    with Slide.open(path, mpp=Mpp(0.5)) as slide:
        assert slide.mpp_source == "override"
        assert slide.read(Box(1000, 1000, 512, 512), Size(512, 512)).std() > 10


def test_whole_slides_fit_the_memory_of_their_thumbnail(slides_dir):
    with Slide.open(slides_dir / "her2st-b4.tif") as slide:
        thumbnail = slide.thumbnail(Mpp(8))
        assert thumbnail.shape == (853, 797, 3)
