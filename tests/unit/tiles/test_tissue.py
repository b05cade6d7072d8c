import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.helpers.made import damage
from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.tissue import (
    BLURRED_ABOVE,
    INKED_ABOVE,
    TissueConfig,
    blur_score,
    outline_picture,
    pen_fraction,
    thumbnail_mpp,
    tissue_mask,
    tissue_of,
)

MPP = Mpp(8.0)
WHITE = (255, 255, 255)
PINKISH = (225, 205, 225)
GREYISH = (243, 240, 242)
INKS = {
    "blue": (30, 60, 160),
    "deep blue": (10, 10, 220),
    "green": (20, 120, 60),
    "black": (25, 25, 28),
    "red": (200, 25, 30),
}
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.12, 0.95, 0.35])

Rgb = NDArray[np.uint8]


def to_rgb(picture: NDArray[np.floating], noise: float, seed: int = 0) -> Rgb:
    grain = np.random.default_rng(seed).normal(0, noise, picture.shape)
    return np.clip(np.round(picture + grain), 0, 255).astype(np.uint8)


def ellipse(height: int = 300, width: int = 400, axes: tuple[int, int] = (110, 70)) -> NDArray:
    canvas = np.zeros((height, width), np.uint8)
    return cv2.ellipse(canvas, (width // 2, height // 2), axes, 20, 0, 360, 1, -1) > 0


def slide(
    colour: tuple[int, int, int], where: NDArray[np.bool_], strength: float = 1.0, seed: int = 1
) -> NDArray[np.float64]:
    """Glass of a colour with tissue on it: stains whose amounts vary from cell to cell."""
    rng = np.random.default_rng(seed)
    amounts = []
    for scale in (1.0, 2.5):
        field = cv2.GaussianBlur(rng.normal(size=where.shape), (0, 0), scale)
        amounts.append(0.3 * np.exp(0.7 * field / field.std()))
    density = strength * (amounts[0][..., None] * HAEMATOXYLIN + amounts[1][..., None] * EOSIN)
    return np.asarray(colour) * 10.0 ** -(density * where[..., None])


def draw(picture: NDArray[np.float64], ink: tuple[int, int, int], width: int, *points) -> tuple:
    stroke = np.zeros(picture.shape[:2], np.uint8)
    cv2.polylines(stroke, [np.array(points, np.int32)], False, 255, width, cv2.LINE_AA)
    cover = cv2.GaussianBlur(stroke / 255.0, (0, 0), 0.8)[..., None]
    return picture * ((np.asarray(ink) + 1) / 256) ** cover, stroke > 0


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("colour", [WHITE, GREYISH, PINKISH, (200, 180, 205)])
@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_tissue_is_found_on_glass_of_any_colour(colour, strength):
    where = ellipse()
    mask = tissue_mask(to_rgb(slide(colour, where, strength), 2), MPP)
    assert dice(mask, where) > 0.96


def test_a_cloud_of_bled_stain_is_glass():
    where = ellipse()
    bled = cv2.GaussianBlur(where.astype(float), (0, 0), 25)[..., None]
    cloudy = slide(PINKISH, where) * 10.0 ** -(bled * [0.0, 0.07, 0.02])
    mask = tissue_mask(to_rgb(cloudy, 2), MPP)
    assert dice(mask, where) > 0.96


def test_smooth_stained_tissue_is_kept():
    where = ellipse()
    picture = np.where(where[..., None], (190.0, 120.0, 180.0), PINKISH)
    assert dice(tissue_mask(to_rgb(picture, 2), MPP), where) > 0.96


def test_fat_is_tissue():
    """A net of thin membranes, the cells as clear as the glass around."""
    where = ellipse()
    rows, columns = np.mgrid[: where.shape[0], : where.shape[1]]
    membranes = ((rows % 9 == 0) | (columns % 9 == 0)) & where
    picture = np.where(membranes[..., None], (185.0, 135.0, 180.0), PINKISH)
    mask = tissue_mask(to_rgb(picture, 2), MPP)
    assert mask[where].mean() > 0.95
    assert dice(mask, where) > 0.94


def test_lumina_are_filled_but_not_wide_glass():
    outer, lumen = ellipse(axes=(140, 130)), ellipse(axes=(20, 15))
    mask = tissue_mask(to_rgb(slide(GREYISH, outer & ~lumen), 2), MPP)
    assert mask[lumen].all()
    wide = ellipse(axes=(90, 80))  # 1.4 mm²
    mask = tissue_mask(to_rgb(slide(GREYISH, outer & ~wide), 2), MPP)
    assert mask[wide].mean() < 0.1


@pytest.mark.parametrize("colour", [WHITE, GREYISH, PINKISH])
@pytest.mark.parametrize("noise", [0, 2, 8])
def test_an_empty_slide_has_no_tissue(colour, noise):
    rng = np.random.default_rng(3)
    picture = to_rgb(np.full((300, 400, 3), colour, float), noise)
    assert not tissue_mask(picture, MPP).any()
    for _ in range(60):  # dust, and the edge of the coverslip
        x, y = int(rng.integers(400)), int(rng.integers(300))
        cv2.circle(picture, (x, y), int(rng.integers(3)), (90, 80, 85), -1)
    cv2.line(picture, (370, 0), (380, 299), (190, 185, 190), 2, cv2.LINE_AA)
    assert not tissue_mask(picture, MPP).any()


@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_single_colour_is_never_tissue(colour, height, width):
    assert not tissue_mask(np.full((height, width, 3), colour, np.uint8), MPP).any()


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    st.sampled_from([0.5, 4.0, 8.0, 11.0, 64.0, 500.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_mask_has_the_shape_of_the_picture(picture, mpp):
    mask = tissue_mask(picture, Mpp(mpp))
    assert mask.dtype == np.bool_
    assert mask.shape == picture.shape[:2]


@given(st.integers(0, 50), st.booleans(), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_turning_the_slide_turns_the_mask(seed, flip, quarters):
    where = ellipse(120, 160, (50, 35))
    picture = to_rgb(slide(PINKISH, where, seed=seed), 2, seed)

    def turned(a: NDArray) -> NDArray:
        return np.ascontiguousarray(np.rot90(a[::-1] if flip else a, quarters))

    assert np.mean(tissue_mask(turned(picture), MPP) == turned(tissue_mask(picture, MPP))) > 0.999


def test_a_picture_that_is_all_tissue_is_kept():
    for shape in ((20, 30), (200, 200)):
        picture = to_rgb(slide(WHITE, np.ones(shape, bool)), 2)
        assert tissue_mask(picture, MPP).mean() > 0.99


@pytest.mark.parametrize(("side_um", "kept"), [(200, True), (120, True), (40, False)])
def test_small_pieces_survive_and_dust_does_not(side_um, kept):
    where = np.zeros((100, 100), bool)
    half = round(side_um / MPP / 2)
    where[50 - half : 50 + half, 50 - half : 50 + half] = True
    assert tissue_mask(to_rgb(slide(GREYISH, where), 1), MPP).any() == kept


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS.keys())
@pytest.mark.parametrize("colour", [WHITE, GREYISH, PINKISH])
def test_pen_on_glass_is_not_tissue_and_pen_on_tissue_hides_none(ink, colour):
    where = ellipse()
    without = tissue_mask(to_rgb(slide(colour, where), 2), MPP)
    picture, beside = draw(slide(colour, where), ink, 25, (10, 20), (380, 25), (385, 280))
    picture, across = draw(picture, ink, 25, (200, 40), (200, 260))
    mask = tissue_mask(to_rgb(picture, 2), MPP)
    assert mask[beside & ~without].mean() < 0.02
    assert mask[across & without].mean() > 0.9
    assert dice(mask, without) > 0.96


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS.keys())
def test_pen_on_an_empty_slide_is_not_tissue(ink):
    empty = np.full((300, 400, 3), PINKISH, float)
    picture, _ = draw(empty, ink, 25, (50, 50), (350, 50), (350, 250), (50, 250), (50, 50))
    assert not tissue_mask(to_rgb(picture, 2), MPP).any()


@pytest.mark.parametrize("fill", [0, 255])
def test_filling_around_the_scan_is_not_tissue(fill):
    where = ellipse()
    scan = to_rgb(slide(PINKISH, where), 2)
    filled = cv2.copyMakeBorder(scan, 70, 70, 70, 70, cv2.BORDER_CONSTANT, value=(fill,) * 3)
    mask = tissue_mask(filled, MPP)
    assert dice(mask[70:-70, 70:-70], where) > 0.96
    assert np.count_nonzero(mask) == np.count_nonzero(mask[70:-70, 70:-70])


def test_glass_that_the_codec_left_flat_is_no_tissue_in_a_bay_of_it(tissue_like):
    rgb = tissue_like(200, 200)
    rgb[:30] = rgb[:, :40] = rgb[80:150] = 241
    mask = tissue_mask(rgb, MPP)
    assert not mask[90:140, 60:].any()
    assert mask[40:70, 60:].mean() > 0.99


def test_the_configuration_is_checked():
    with pytest.raises(ValidationError):
        TissueConfig(window_um=0)
    with pytest.raises(ValidationError):
        TissueConfig(threshold=3)  # type: ignore[call-arg]


def test_the_outline_is_drawn_on_a_copy():
    where = ellipse()
    picture = to_rgb(slide(PINKISH, where), 0)
    before = picture.copy()
    outlined = outline_picture(picture, where)
    assert np.array_equal(picture, before)
    changed = (outlined != picture).any(axis=2)
    band = cv2.dilate(where.astype(np.uint8), np.ones((7, 7))) > cv2.erode(
        where.astype(np.uint8), np.ones((7, 7))
    )
    assert changed.any()
    assert not changed[~band].any()
    assert np.array_equal(outline_picture(picture, np.zeros_like(where)), picture)


def tile(seed: int = 0) -> Rgb:
    """Nuclei with sharp rims on stroma."""
    rng = np.random.default_rng(seed)
    picture = np.full((512, 512, 3), (228, 170, 205), np.uint8)
    for _ in range(400):
        x, y = (int(v) for v in rng.integers(0, 512, 2))
        axes = tuple(int(v) for v in rng.integers(5, 11, 2))
        colour = tuple(int(v) for v in rng.integers((70, 40, 120), (110, 80, 160)))
        cv2.ellipse(picture, (x, y), axes, int(rng.integers(180)), 0, 360, colour, -1, cv2.LINE_AA)
    return picture


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_blur_is_seen_whatever_the_contrast(strength):
    sharp = (255 * (tile() / 255.0) ** strength).astype(np.uint8)
    scores = [blur_score(sharp)]
    scores += [blur_score(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (1, 2, 4)]
    assert scores == sorted(scores)
    assert scores[0] < 0.6
    assert scores[-1] > BLURRED_ABOVE


@pytest.mark.parametrize("shape", [(512, 512), (1, 1), (7, 30), (13, 9)])
def test_a_tile_that_shows_nothing_is_not_blurred(shape):
    assert blur_score(np.full((*shape, 3), 230, np.uint8)) == 0
    assert pen_fraction(np.full((*shape, 3), 230, np.uint8)) == 0


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS.keys())
def test_pen_covers_the_share_of_the_tile_that_it_was_drawn_on(ink):
    clean = tile()
    clean[:, :192] = GREYISH
    assert pen_fraction(clean) == 0
    inked = clean.astype(float)
    inked[:, 32:160] *= (np.asarray(ink) + 1) / 256
    assert pen_fraction(np.round(inked).astype(np.uint8)) == pytest.approx(0.25, abs=0.01)
    assert INKED_ABOVE < 0.25


def test_what_cannot_be_decoded_counts_as_tissue(make_slide, tissue_like):
    """Nobody knows whether a corner of what was glass still is."""
    rgb = np.full((1024, 1024, 3), 243, np.uint8)
    rgb[512:] = tissue_like(512, 1024)
    path = make_slide(rgb, compression="jpeg", tile=512)
    config = TissueConfig(mpp=Mpp(4.0))
    with Slide.open(path) as sound:
        expected = tissue_of(sound, config)
    assert not expected[:48].any()
    damage(path, 0)
    with Slide.open(path) as damaged:
        mask = tissue_of(damaged, config)
    assert mask[:64, :64].all()
    assert not mask[:48, 80:].any()
    np.testing.assert_array_equal(mask[80:], expected[80:])


@pytest.mark.parametrize(
    ("side_px", "expected"), [(4_000, 8), (60_000, 8), (100_000, 16), (400_000, 64)]
)
def test_huge_slides_are_searched_at_a_coarser_resolution(side_px, expected):
    bounds = Box(0, 0, side_px, side_px)
    mpp = thumbnail_mpp(bounds, Mpp(0.25), TissueConfig())
    assert mpp == expected
    assert (side_px * 0.25 / mpp) ** 2 <= 4_000_000
