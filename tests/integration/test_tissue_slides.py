"""The tissue masks and the quality flags on real slides, against reference masks.

The references are about 1250 pixels on their long side, with the holes in the tissue filled.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.tissue import (
    BLURRED_ABOVE,
    INKED_ABOVE,
    TissueConfig,
    blur_score,
    pen_fraction,
    tissue_mask,
)

pytestmark = pytest.mark.slides

SLIDES = {
    "her2st-b4": "her2st-b4.tif",
    "her2st-c3": "her2st-c3.tif",
    "tcga-cr-7395-01a-01-ts1": "tcga-cr-7395-01a-01-ts1.svs",
    "cmu-1-small-region": "cmu-1-small-region.svs",
}
WITHOUT_MPP = {"tcga-cr-7395-01a-01-ts1": Mpp(0.5)}
MPP = Mpp(8.0)

Rgb = NDArray[np.uint8]
Thumbnail = Callable[[str, float], Rgb]


def clipped(picture: NDArray[np.floating]) -> Rgb:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def jpeg(picture: Rgb, quality: int) -> Rgb:
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def thumbnail(slides_dir: Path) -> Thumbnail:
    made: dict[tuple[str, float], Rgb] = {}

    def of(name: str, mpp: float) -> Rgb:
        if (name, mpp) not in made:
            with Slide.open(slides_dir / SLIDES[name], mpp=WITHOUT_MPP.get(name)) as slide:
                made[name, mpp] = slide.thumbnail(Mpp(mpp))
        return made[name, mpp]

    return of


@pytest.fixture(scope="module")
def dice(masks_dir: Path) -> Callable[[str, NDArray[np.bool_]], float]:
    """Overlap with the reference, at the reference's resolution."""

    def of(name: str, mask: NDArray[np.bool_]) -> float:
        picture = cv2.imread(str(masks_dir / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        reference = picture > 0
        size = reference.shape[1], reference.shape[0]
        ours = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        common = np.count_nonzero(ours & reference)
        return 2 * common / (np.count_nonzero(ours) + np.count_nonzero(reference))

    return of


@pytest.mark.parametrize("name", SLIDES)
@pytest.mark.parametrize("mpp", [4, 6.5, 8, 11, 16])
def test_masks_agree_with_the_references(name, mpp, thumbnail, dice):
    assert dice(name, tissue_mask(thumbnail(name, mpp), Mpp(mpp))) > 0.96


@pytest.mark.parametrize("name", SLIDES)
@pytest.mark.parametrize("field", TissueConfig.model_fields)
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_no_parameter_is_a_fine_balance(name, field, factor, thumbnail, dice):
    config = TissueConfig(**{field: getattr(TissueConfig(), field) * factor})
    assert dice(name, tissue_mask(thumbnail(name, MPP), MPP, config)) > 0.955


SCANNERS = {
    "dim lamp": lambda rgb: clipped(rgb * 0.6),
    "bright lamp": lambda rgb: clipped(rgb * 1.1),
    "black level": lambda rgb: clipped(rgb - 25.0),
    "vignetting": lambda rgb: clipped(rgb * np.linspace(0.8, 1, rgb.shape[1])[None, :, None]),
    "warm": lambda rgb: clipped(rgb * [1.05, 0.95, 0.75]),
    "cold": lambda rgb: clipped(rgb * [0.85, 0.95, 1.05]),
    "pale stain": lambda rgb: clipped(255 * (rgb / 255) ** 0.6),
    "strong stain": lambda rgb: clipped(255 * (rgb / 255) ** 1.5),
    "JPEG": lambda rgb: jpeg(rgb, 30),
    "noise": lambda rgb: clipped(rgb + np.random.default_rng(0).normal(0, 6, rgb.shape)),
    "slightly soft": lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 1),
}


@pytest.mark.parametrize("name", SLIDES)
@pytest.mark.parametrize("scanner", SCANNERS.values(), ids=SCANNERS.keys())
def test_masks_do_not_depend_on_the_scanner(name, scanner, thumbnail, dice):
    assert dice(name, tissue_mask(scanner(thumbnail(name, MPP)), MPP)) > 0.955


@pytest.mark.parametrize("ink", [(30, 60, 160), (20, 120, 60), (25, 25, 28), (200, 25, 30)])
def test_pen_does_not_move_the_mask(ink, thumbnail, dice):
    picture = thumbnail("her2st-b4", MPP)
    height, width = picture.shape[:2]
    stroke = np.zeros((height, width), np.uint8)
    around = [(0.03, 0.1), (0.9, 0.12), (0.95, 0.95), (0.05, 0.95), (0.03, 0.1)]
    across = [(0.3, 0.5), (0.6, 0.75)]
    for points in (around, across):
        pixels = np.array([(x * width, y * height) for x, y in points], np.int32)
        cv2.polylines(stroke, [pixels], False, 255, 50, cv2.LINE_AA)
    cover = cv2.GaussianBlur(stroke / 255, (0, 0), 0.8)[..., None]
    inked = clipped(picture * ((np.array(ink) + 1) / 256) ** cover)
    assert dice("her2st-b4", tissue_mask(inked, MPP)) > 0.97


def test_a_slide_without_glass_is_kept_whole(slides_dir):
    with Slide.open(slides_dir / "monusac-a9k0-1.svs") as slide:
        for mpp in (2, 4, 8, 16):
            assert tissue_mask(slide.thumbnail(Mpp(mpp)), Mpp(mpp)).mean() > 0.98


@pytest.fixture(scope="module")
def tiles(slides_dir: Path, thumbnail: Thumbnail) -> list[Rgb]:
    """Every fourth tile of 256 µm that is at least a third tissue."""
    found = []
    for name, file in SLIDES.items():
        mask = tissue_mask(thumbnail(name, MPP), MPP)
        with Slide.open(slides_dir / file, mpp=WITHOUT_MPP.get(name)) as slide:
            side = round(256 / slide.mpp)
            cells = 256 // 8
            rows, columns = (length // cells for length in mask.shape)
            kept = [
                (row, column)
                for row in range(rows)
                for column in range(columns)
                if mask[row * cells :, column * cells :][:cells, :cells].mean() > 1 / 3
            ]
            for row, column in kept[::4]:
                box = Box(column * side, row * side, side, side)
                found.append(slide.read(box, Size(512, 512)))
    return found


def test_tiles_in_focus_are_not_called_blurred_and_blurred_ones_are(tiles):
    assert len(tiles) > 60
    assert np.mean([blur_score(tile) > BLURRED_ABOVE for tile in tiles]) < 0.02
    blurred = [cv2.GaussianBlur(tile, (0, 0), 4) for tile in tiles]
    assert np.mean([blur_score(tile) > BLURRED_ABOVE for tile in blurred]) > 0.95
    assert np.mean([blur_score(jpeg(tile, 80)) > BLURRED_ABOVE for tile in blurred]) > 0.95


def test_clean_tiles_are_not_called_inked(tiles):
    """The green specks on the margin of one of the slides are indeed ink, but too few to matter."""
    assert np.mean([pen_fraction(tile) > INKED_ABOVE for tile in tiles]) < 0.01
