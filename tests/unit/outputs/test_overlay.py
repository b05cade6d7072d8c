import logging
from types import SimpleNamespace

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide
from PIL import Image

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.outputs.colours import SHOWN_FROM, colourise
from wsi_pipeline.outputs.overlay import (
    Drawn,
    OverlayConfig,
    draw_over,
    l0_per_pixel,
    write_overlay,
)
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.outputs.thumbnails import picture_mpp, write_thumbnail
from wsi_pipeline.slide.pyramid import Level
from wsi_pipeline.slide.slide import Slide

YELLOW = (253, 231, 37)  # viridis at 100 %, as published
FAINTEST = tuple(colourise(SHOWN_FROM).tolist())


def score_map(cellularity, l0_origin=(0.0, 0.0), l0_cell=100.0, mpp=0.5) -> ScoreMap:
    return ScoreMap(np.array(cellularity, np.float32), l0_origin, l0_cell, Mpp(mpp))


def test_drawing_changes_scored_cells_only_and_by_the_opacity():
    rgb = np.full((40, 60, 3), 200, np.uint8)
    cells = score_map([[1.0, np.nan, 0.049], [SHOWN_FROM, 1.0, 0.0]])
    drawn = draw_over(rgb, Box(0, 0, 300, 200), cells, 0.25)
    expected = rgb.astype(float)
    for rows, columns, colour in [
        (slice(0, 20), slice(0, 20), YELLOW),
        (slice(20, 40), slice(0, 20), FAINTEST),
        (slice(20, 40), slice(20, 40), YELLOW),
    ]:
        expected[rows, columns] = 0.75 * 200 + 0.25 * np.array(colour)
    np.testing.assert_array_equal(drawn, np.rint(expected))
    assert (rgb == 200).all()


def test_tissue_under_colour_and_beside_it_keeps_its_stain():
    eosin, haematoxylin = (255, 100, 180), (100, 160, 240)
    rgb = np.array([[eosin, haematoxylin]], np.uint8)
    drawn = draw_over(rgb, Box(0, 0, 100, 50), score_map([[0.5, np.nan]], l0_cell=50), 0.5)
    np.testing.assert_array_equal(drawn[0, 1], haematoxylin)
    expected = 0.5 * np.array(eosin) + 0.5 * colourise(np.float32(0.5))
    np.testing.assert_allclose(drawn[0, 0], expected, atol=1)


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_takes_the_cell_under_its_centre(seed):
    rng = np.random.default_rng(seed)
    cells = rng.random((4, 5), dtype=np.float32)
    cells[rng.random(cells.shape) < 0.3] = np.nan
    the_map = score_map(cells, l0_origin=(17.0, -30.0), l0_cell=rng.uniform(30, 90))
    l0_box = Box(int(rng.integers(-200, 100)), int(rng.integers(-200, 100)), 350, 280)
    rgb = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    drawn = draw_over(rgb, l0_box, the_map, 1.0)
    for row, column in np.ndindex(37, 53):
        x = l0_box.x + (column + 0.5) * 350 / 53 - 17.0
        y = l0_box.y + (row + 0.5) * 280 / 37 + 30.0
        m_column, m_row = int(x // the_map.l0_cell), int(y // the_map.l0_cell)
        on_map = 0 <= m_column < 5 and 0 <= m_row < 4
        if on_map and cells[m_row, m_column] >= SHOWN_FROM:
            expected = colourise(cells[m_row, m_column])
        else:
            expected = rgb[row, column]
        np.testing.assert_array_equal(drawn[row, column], expected)


@pytest.mark.parametrize(
    ("width", "mpp", "expected"),
    [
        (100_000, 0.25, 8),
        (9923, 0.688, 3),
        (2967, 0.499, 1),
        (1307, 0.194, 1),
        (10_000, 0.25, 5),
        (50_000, 3.0, 1),
    ],
)
def test_overlay_pixels_are_whole_and_never_finer_than_the_slide(width, mpp, expected):
    l0_px = l0_per_pixel(Box(0, 0, width, width // 2), Mpp(mpp), OverlayConfig())
    assert l0_px == expected
    assert width / l0_px >= 2000 or l0_px == 1


@pytest.fixture
def slide(tmp_path):
    """White at 0.5 µm/px, 3000 × 2300 px, with a black upper left corner of 300 × 200 px."""
    pixels = np.full((2300, 3000, 3), 255, np.uint8)
    pixels[:200, :300] = 0
    tifffile.imwrite(
        tmp_path / "slide.tif",
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    with Slide.open(tmp_path / "slide.tif") as opened:
        yield opened


FULL = score_map([[1.0, np.nan, SHOWN_FROM], [np.nan, 1.0, np.nan]], (0.0, 0.0), 1000.0)


@pytest.fixture
def overlay(slide, tmp_path):
    config = OverlayConfig(opacity=1, jpeg_quality=95, contours=False)
    write_overlay(tmp_path / "overlay.tif", slide, Drawn.of(FULL, config))
    return tmp_path / "overlay.tif"


def test_openslide_reads_the_pyramid_its_mpp_and_the_known_colours(overlay):
    with openslide.OpenSlide(overlay) as read:
        assert read.properties["openslide.vendor"] == "generic-tiff"
        assert read.level_dimensions == ((3000, 2300), (1500, 1150), (750, 575))
        for name in ("openslide.mpp-x", "openslide.mpp-y"):
            assert float(read.properties[name]) == pytest.approx(0.5)
        for level, downsample in enumerate(read.level_downsamples):
            for l0_corner, colour in [
                ((500, 500), YELLOW),  # red 253 and blue 37: swapped channels would show
                ((2500, 500), FAINTEST),
                ((1500, 1500), YELLOW),
                ((1500, 500), (255, 255, 255)),
                ((500, 1500), (255, 255, 255)),
            ]:
                patch = read.read_region(l0_corner, level, (16, 16)).convert("RGB")
                assert np.abs(np.asarray(patch, int) - colour).max() <= 4, (level, downsample)


def test_tiffslide_and_tifffile_read_the_same_pyramid(overlay):
    with tiffslide.TiffSlide(overlay) as read:
        assert read.level_dimensions == ((3000, 2300), (1500, 1150), (750, 575))
        assert read.properties["tiffslide.mpp-x"] == pytest.approx(0.5)
        patch = np.asarray(read.read_region((500, 500), 0, (16, 16)), int)[..., :3]
        assert np.abs(patch - YELLOW).max() <= 4
    with tifffile.TiffFile(overlay) as tiff:
        (series,) = tiff.series
        assert [level.shape for level in series.levels] == [
            (2300, 3000, 3),
            (1150, 1500, 3),
            (575, 750, 3),
        ]
        assert all(page.is_tiled and page.compression == 7 for page in tiff.pages)
        for reduction, page in enumerate(tiff.pages):
            numerator, denominator = page.tags["XResolution"].value
            assert 1e4 * denominator / numerator == pytest.approx(0.5 * 2**reduction)


def test_slide_shows_through_at_the_default_opacity(slide, tmp_path):
    write_overlay(tmp_path / "overlay.tif", slide, Drawn.of(FULL))
    with openslide.OpenSlide(tmp_path / "overlay.tif") as read:
        for l0_corner, behind in [((100, 100), 0), ((500, 500), 255)]:
            patch = np.asarray(read.read_region(l0_corner, 0, (32, 32)).convert("RGB"), float)
            expected = 0.55 * behind + 0.45 * np.array(YELLOW)
            np.testing.assert_allclose(patch.mean((0, 1)), expected, atol=3)


def test_same_slide_same_bytes(slide, tmp_path):
    for name in ("one.tif", "two.tif"):
        write_overlay(tmp_path / name, slide, Drawn.of(FULL))
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


class BoundedSlide(SimpleNamespace):
    """A slide whose scanned part starts at (700, 400) and half of which cannot be decoded."""

    name = "bounded.mrxs"
    mpp = Mpp(0.5)
    l0_bounds = Box(700, 400, 1024, 512)
    levels = (Level(Size(2000, 1000), 1.0),)

    def read(self, l0_box: Box, size: Size):
        if l0_box.x >= 1212:
            raise SlideError("bounded.mrxs: damaged there")
        return np.full((size.height, size.width, 3), 255, np.uint8)


def test_overlay_starts_at_the_bounds_and_greys_what_cannot_be_read(tmp_path, caplog):
    the_map = score_map([[1.0, np.nan, np.nan, np.nan]], (700.0, 400.0), 256.0)
    with caplog.at_level(logging.WARNING):
        drawn = Drawn.of(the_map, OverlayConfig(opacity=1, contours=False))
        write_overlay(tmp_path / "o.tif", BoundedSlide(), drawn)
    assert "bounded.mrxs: 1 tiles of the overlay cannot be read" in caplog.text
    pixels = tifffile.imread(tmp_path / "o.tif").astype(int)
    assert pixels.shape == (512, 1024, 3)
    assert np.abs(pixels[20:230, 20:230] - YELLOW).max() <= 8
    assert (pixels[20:490, 280:500] == 255).all()
    assert np.abs(pixels[:, 530:] - 190).max() <= 2


def test_a_picture_of_the_whole_slide(slide, tmp_path):
    mpp = picture_mpp(slide)
    assert mpp == pytest.approx(0.5 * 3000 / 1600)
    rgb = slide.thumbnail(mpp)
    write_thumbnail(tmp_path / "thumbnail.png", rgb)
    with Image.open(tmp_path / "thumbnail.png") as thumbnail:
        assert thumbnail.size == (1600, 1227)
        np.testing.assert_array_equal(np.asarray(thumbnail), rgb)


class FlatSlide(SimpleNamespace):
    """A large slide with a single level, red in its upper left quarter; it keeps what it read."""

    name = "flat.tif"
    mpp = Mpp(0.25)
    l0_bounds = Box(0, 0, 32_768, 16_384)
    levels = (Level(Size(32_768, 16_384), 1.0),)

    def read(self, l0_box: Box, size: Size):
        self.reads.append(l0_box)
        pixels = np.full((size.height, size.width, 3), 255, np.uint8)
        if l0_box.right <= 16_384 and l0_box.bottom <= 8_192:
            pixels[...] = (255, 0, 0)
        return pixels


def test_a_slide_without_low_resolutions_is_read_piece_by_piece(tmp_path):
    slide = FlatSlide(reads=[])
    write_overlay(tmp_path / "o.tif", slide, Drawn.of(score_map([[np.nan]], l0_cell=1e6)))
    assert max(box.width for box in slide.reads) <= 4096
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        assert len(tiff.series[0].levels) == 3
        # Each part of the slide is read once for each level.
        assert len(slide.reads) == len(tiff.series[0].levels) * 8 * 4
        for level in tiff.series[0].levels:
            pixels = level.asarray().astype(int)
            rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
            assert np.abs(pixels[: rows - 8, : columns - 8] - (255, 0, 0)).max() <= 4
            assert (pixels[rows + 8 :] >= 250).all()
            assert (pixels[:, columns + 8 :] >= 250).all()
