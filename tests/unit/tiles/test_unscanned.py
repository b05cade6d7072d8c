"""Frames and holes that were filled in, and light on a dark field: neither is tissue."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers.made import write_slide
from wsi_pipeline.errors import ColourError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.fill import read_shard
from wsi_pipeline.tiles.grid import GridConfig, tile_grid
from wsi_pipeline.tiles.tissue import TissueConfig, pen_fraction, tissue_mask, tissue_of
from wsi_pipeline.tiles.unscanned import black_fraction, is_dark_field

SIDE, FRAME = 1200, 400
"""At 2 µm/px, the resolution of the codec's ringing here; masks are of a quarter of it."""

Rgb = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scan(tissue_like) -> Rgb:
    """A section that reaches over the lower border of its scan, on glass that is not all alike."""
    where = cv2.ellipse(np.zeros((SIDE, SIDE), np.uint8), (600, 1000), (380, 420), 0, 0, 360, 1, -1)
    light = np.linspace(-4, 4, SIDE)[None, :, None]
    glass = np.random.default_rng(0).normal(240, 2, (SIDE, SIDE, 3)) + light
    return np.where(where[..., None] > 0, tissue_like(SIDE, SIDE), glass).astype(np.uint8)


def framed(scan: Rgb, colour: tuple[int, int, int], noise: float, quality: int) -> Rgb:
    side = SIDE + 2 * FRAME
    filled = np.random.default_rng(1).normal(colour, noise, (side, side, 3))
    picture = np.clip(np.round(filled), 0, 255).astype(np.uint8)
    picture[FRAME:-FRAME, FRAME:-FRAME] = scan
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def mask_of(picture: Rgb) -> NDArray[np.bool_]:
    return tissue_mask(cv2.resize(picture, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA),
                       Mpp(8.0))  # fmt: skip


@pytest.mark.parametrize(
    ("colour", "noise", "quality"),
    [
        ((0, 0, 0), 0, 50), ((12, 12, 12), 2, 90), ((3, 2, 8), 1, 75), ((30, 30, 30), 4, 75),
        ((52, 39, 46), 2, 80), ((90, 90, 90), 2, 80), ((128, 128, 128), 2, 80),
        ((200, 200, 200), 0, 95),
    ],
)  # fmt: skip
def test_a_frame_of_any_colour_is_no_tissue(scan, colour, noise, quality):
    alone, whole = mask_of(scan), mask_of(framed(scan, colour, noise, quality))
    margin = FRAME // 4
    inside = whole[margin:-margin, margin:-margin]
    assert 2 * (alone & inside).sum() / (alone.sum() + inside.sum()) > 0.985
    assert whole.sum() - inside.sum() < 0.005 * alone.sum()


def test_a_black_hole_in_tissue_counts_as_tissue_and_one_beside_it_does_not(scan):
    alone = mask_of(scan)
    holed = scan.copy()
    holed[850:1050, 500:700] = 14
    holed[100:300, 100:300] = 14
    mask = mask_of(holed)
    assert mask[214:260, 128:172].all()
    assert not mask[20:80, 20:80].any()
    assert np.mean(mask == alone) > 0.99


def test_black_pen_is_ink_and_filling_is_not(tissue_like):
    tile = tissue_like(512, 512)
    for colour, ink, black in (((28, 24, 26), 0.25, 0), ((20, 20, 20), 0, 0.25)):
        covered = tile.copy()
        covered[:, :128] = colour
        assert pen_fraction(covered) == pytest.approx(ink, abs=0.02)
        assert black_fraction(covered) == pytest.approx(black, abs=0.02)


def test_tiles_that_are_black_where_tissue_is_are_left_out(tmp_path, tissue_like):
    """At a frame, what is black is not tissue, and the tile stays."""
    rgb = tissue_like(1024, 1536)
    rgb[:, 1200:] = 9  # beyond the scan
    rgb[300:500, 300:500] = 9  # in the midst of the section
    path = write_slide(tmp_path / "slide.tif", rgb, mpp=0.5)
    with Slide.open(path) as slide:
        mask = tissue_of(slide, TissueConfig(mpp=Mpp(4.0)))
        config = GridConfig(tile_px=256, stride_px=256)
        grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config, slide.name)
        shard = read_shard(slide, grid, slice(0, len(grid)), 256)
    corners = {tuple(int(at) for at in corner) for corner in grid.l0_xy}
    assert corners == {(x, y) for x in range(0, 1200, 256) for y in range(0, 1024, 256)}
    left_out = {tuple(int(at) for at in corner) for corner in grid.l0_xy[~shard.measures.readable]}
    assert left_out == {(256, 256)}
    assert np.nanmax(shard.measures.pen) < 0.02


DARK_FIELDS = {
    "blue": lambda light: np.dstack([0 * light, 0 * light, light]),
    "blue on 12": lambda light: np.dstack([12 + 0 * light, 12 + 0 * light, 12 + light]),
    "three colours": lambda light: np.dstack([np.roll(light, 37) * 0.3, light.T, light]),
}


@pytest.mark.parametrize("kind", DARK_FIELDS)
def test_light_on_a_dark_field_is_refused(tmp_path, kind):
    rng = np.random.default_rng(0)
    spots = cv2.GaussianBlur((rng.random((1024, 1024)) > 0.995).astype(np.float32), (0, 0), 4)
    picture = DARK_FIELDS[kind](spots / spots.max() * 230) + rng.normal(0, 2, (1024, 1024, 3))
    path = write_slide(tmp_path / "slide.tif", picture.clip(0, 255).astype(np.uint8), mpp=0.5)
    with (
        Slide.open(path) as slide,
        pytest.raises(ColourError, match=r"slide\.tif: .*not a brightfield slide"),
    ):
        tissue_of(slide, TissueConfig())


def test_stained_tissue_is_no_dark_field(scan, tissue_like):
    for picture in (scan, framed(scan, (5, 5, 5), 1, 80), tissue_like(600, 600)):
        strong = (255 * (picture / 255.0) ** 1.7).astype(np.uint8)
        for each in (picture, strong):
            assert not is_dark_field(cv2.resize(each, None, fx=0.25, fy=0.25, interpolation=3))
