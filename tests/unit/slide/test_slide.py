import shutil

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.helpers.made import damage
from wsi_pipeline.errors import MppError, SlideError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.pyramid import Level, best_level
from wsi_pipeline.slide.readers.openslide_reader import OpenSlideReader
from wsi_pipeline.slide.resample import resample
from wsi_pipeline.slide.slide import Slide

BACKENDS = ("openslide", "tiffslide")


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_at_level_0_are_the_files_own(make_slide, tissue_like, backend):
    rgb = tissue_like(700, 900)
    with Slide.open(make_slide(rgb), backend=backend) as slide:
        assert (slide.l0_size, slide.mpp, slide.backend) == (Size(900, 700), 0.5, backend)
        region = slide.read(Box(123, 45, 300, 200), Size(300, 200))
        np.testing.assert_array_equal(region, rgb[45:245, 123:423])


@pytest.mark.parametrize("backend", BACKENDS)
def test_outside_the_slide_is_white(make_slide, tissue_like, backend):
    rgb = tissue_like(300, 400)
    with Slide.open(make_slide(rgb), backend=backend) as slide:
        region = slide.read(Box(-100, 250, 600, 100), Size(600, 100))
        expected = np.full((100, 600, 3), 255, np.uint8)
        expected[:50, 100:500] = rgb[250:]
        np.testing.assert_array_equal(region, expected)
        assert (slide.read(Box(5000, 5000, 64, 64), Size(32, 32)) == 255).all()


@pytest.mark.parametrize("downsample", [2.0, 3.0, 2.03, 1.6, 1.978, 4.5, 0.73])
def test_resampling_agrees_with_pillow(make_slide, tissue_like, downsample):
    """Pillow's antialiased bicubic is the reference; 34 dB is no visible difference."""
    rgb = tissue_like(1400, 1400, seed=3)
    side = round(256 * downsample)
    with Slide.open(make_slide(rgb)) as slide:
        ours = slide.read(Box(101, 57, side, side), Size(256, 256))
    reference = Image.fromarray(rgb).resize(
        (256, 256), Image.Resampling.BICUBIC, box=(101, 57, 101 + side, 57 + side)
    )
    assert psnr(ours[4:-4, 4:-4], np.asarray(reference)[4:-4, 4:-4]) > 34


@pytest.mark.parametrize("scale", [2.0, 2.5, 1.9, 3.3])
def test_resampling_does_not_alias(scale):
    """Stripes finer than the target must turn grey, not into coarser stripes."""
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    side = int(600 / scale)
    small = resample(stripes, (0, 0, 600, 600), Size(side, side))
    assert small[:, 4:-4].std() < 0.25 * stripes.std()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l0_corner", [(512, 256), (513, 259), (700, 11)])
def test_a_lower_level_gives_what_level_0_gives(make_slide, tissue_like, backend, l0_corner):
    rgb = cv2.GaussianBlur(tissue_like(1600, 1600, seed=5), (0, 0), 3)
    path = make_slide(rgb, downsamples=(2, 4))
    box = Box(*l0_corner, 800, 800)
    with Slide.open(path, backend=backend) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        ours = slide.read(box, Size(200, 200))
    direct = rgb[box.y : box.bottom, box.x : box.right]
    expected = cv2.resize(direct, (200, 200), interpolation=cv2.INTER_AREA)
    assert psnr(ours[2:-2, 2:-2], expected[2:-2, 2:-2]) > 38


def test_the_coarsest_sufficient_level_is_read():
    levels = tuple(Level(Size(1, 1), downsample) for downsample in (1.0, 4.0, 16.0))
    assert best_level(levels, 1) == 0
    assert best_level(levels, 3.7) == 0
    assert best_level(levels, 3.9) == 1
    assert best_level(levels, 100) == 2
    assert best_level(levels, 0.5) == 0


def test_odd_sides_do_not_shift_lower_levels(make_slide, tissue_like):
    """4443 pixels halve to 2221: the factor is 2, not 2.0005."""
    with Slide.open(make_slide(tissue_like(1111, 1235), downsamples=(2, 4))) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]


@pytest.mark.parametrize("block_px", [64, 2048])
def test_thumbnails_are_the_same_in_pieces(make_slide, tissue_like, monkeypatch, block_px):
    rgb = cv2.GaussianBlur(tissue_like(901, 1203), (0, 0), 4)
    monkeypatch.setattr("wsi_pipeline.slide.slide.BLOCK_PX", block_px)
    with Slide.open(make_slide(rgb)) as slide:
        thumbnail = slide.thumbnail(Mpp(4.0))
    assert thumbnail.shape == (113, 150, 3)
    expected = cv2.resize(rgb, (150, 113), interpolation=cv2.INTER_AREA)
    assert psnr(thumbnail, expected) > 33


def test_no_such_file(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        Slide.open(tmp_path / "missing.svs")


def test_empty(tmp_path):
    path = tmp_path / "empty.svs"
    path.touch()
    with pytest.raises(SlideError, match="empty"):
        Slide.open(path)


def test_a_folder(tmp_path):
    with pytest.raises(SlideError, match="folder"):
        Slide.open(tmp_path)


def test_not_a_slide(tmp_path):
    path = tmp_path / "letter.svs"
    path.write_text("Dear colleague," * 100)
    with pytest.raises(SlideError, match="not a slide"):
        Slide.open(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(make_slide, tissue_like, share):
    path = make_slide(tissue_like(600, 600), downsamples=(2,))
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    with pytest.raises(SlideError, match="truncated"):
        Slide.open(path)


def test_no_mpp_and_its_remedy(make_slide, tissue_like):
    path = make_slide(tissue_like(300, 300), mpp=None)
    with pytest.raises(MppError, match=r"slide\.tif.*--mpp"):
        Slide.open(path)
    with Slide.open(path, mpp=Mpp(0.25)) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "override")


def test_sixteen_bit_pixels_are_refused(tmp_path):
    path = tmp_path / "deep.ome.tif"
    tifffile.imwrite(
        path, np.zeros((300, 300), np.uint16), tile=(256, 256), resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    with pytest.raises(SlideError, match="8-bit RGB"):
        Slide.open(path, backend="tiffslide")


def test_urls_are_read_through_fsspec(make_slide, tissue_like):
    rgb = tissue_like(300, 400)
    path = make_slide(rgb)
    import fsspec

    with fsspec.open("memory://slides/remote.tif", "wb") as file:
        file.write(path.read_bytes())
    with Slide.open("memory://slides/remote.tif") as slide, Slide.open(path) as local:
        assert (slide.name, slide.backend, slide.mpp) == ("remote.tif", "tiffslide", 0.5)
        box = Box(30, 20, 200, 100)
        np.testing.assert_array_equal(
            slide.read(box, Size(200, 100)), local.read(box, Size(200, 100))
        )
        assert slide.digest() == local.digest()
    with pytest.raises(SlideError, match="no such file"):
        Slide.open("memory://slides/other.tif")


@pytest.mark.parametrize("name", ["Schnitt Ä 1.tif", "a::b[1]*.tif", "x" * 240 + ".tif"])
def test_odd_names(make_slide, tissue_like, name):
    rgb = tissue_like(300, 300)
    for backend in BACKENDS:
        with Slide.open(make_slide(rgb, name=name), backend=backend) as slide:
            assert slide.name == name
            np.testing.assert_array_equal(
                slide.read(Box(0, 0, 50, 50), Size(50, 50)), rgb[:50, :50]
            )
            assert len(slide.digest()) == 32
            assert slide.size_bytes > 0


def test_the_digest_is_of_the_content(make_slide, tissue_like, tmp_path):
    path = make_slide(tissue_like(300, 400))
    copy = tmp_path / "renamed.tif"
    shutil.copy(path, copy)
    other = make_slide(tissue_like(300, 400, seed=1), name="other.tif")
    digests = []
    for each in (path, copy, other):
        with Slide.open(each) as slide:
            digests.append(slide.digest())
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def damaged(make_slide, tissue_like):
    """A slide whose second JPEG tile is zeroed."""
    path = make_slide(tissue_like(512, 768), compression="jpeg")
    damage(path, 1)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_damaged_tile_costs_only_itself(damaged, backend):
    with Slide.open(damaged, backend=backend) as slide:
        before = slide.read(Box(0, 0, 256, 256), Size(256, 256))
        with pytest.raises(SlideError, match=r"slide\.tif.*cannot be decoded"):
            slide.read(Box(256, 0, 256, 256), Size(256, 256))
        after = slide.read(Box(0, 0, 256, 256), Size(256, 256))
        np.testing.assert_array_equal(before, after)


def test_a_thumbnail_shows_all_but_the_damage(damaged):
    with Slide.open(damaged) as slide:
        thumbnail = slide.thumbnail(Mpp(2.0))
        assert slide.unreadable
        for box in slide.unreadable:
            assert box.intersection(Box(256, 0, 256, 256)).width
        white = (thumbnail == 255).all(axis=2)
        assert white[:64, 64:128].all()
        # Pieces of at most 64 px of level 0, 16 px here, straddle the damage's border.
        white[: 64 + 16, 64 - 16 : 128 + 16] = False
        assert not white.any()


def test_the_other_reader_is_asked_where_one_fails(make_slide, tissue_like, monkeypatch):
    rgb = tissue_like(400, 400)

    def cannot(reader, level, box):
        raise ValueError("this reader cannot")

    monkeypatch.setattr(OpenSlideReader, "read_level", cannot)
    with Slide.open(make_slide(rgb), backend="openslide") as slide:
        region = slide.read(Box(10, 20, 100, 100), Size(100, 100))
        np.testing.assert_array_equal(region, rgb[20:120, 10:110])
        assert slide.repaired_reads == 1
