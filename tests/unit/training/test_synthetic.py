from typing import get_args

import cv2
import numpy as np
import pytest

from training.data.generated import GeneratedData, generated_sample
from training.data.picture import pack, unpack
from training.synthetic import (
    PATTERN_WEIGHTS,
    Pattern,
    SyntheticConfig,
    generate_patch,
    generate_region,
)
from training.synthetic.__main__ import main
from training.synthetic.nuclei import draw_malignant
from training.synthetic.patch import BACKGROUND, LYMPHOCYTE, MALIGNANT, NORMAL
from wsi_pipeline.model.architecture import CLASSES

SMALL = SyntheticConfig(size=256)


def make(pattern, seed=0, config=SMALL):
    return generate_patch(np.random.default_rng(seed), config, pattern)


def test_class_ids_follow_the_network():
    ids = {"background": BACKGROUND, "lymphocyte": LYMPHOCYTE}
    ids |= {"normal": NORMAL, "malignant": MALIGNANT}
    assert tuple(sorted(ids, key=ids.__getitem__)) == CLASSES


@pytest.mark.parametrize("pattern", get_args(Pattern))
def test_every_pattern_has_a_consistent_truth(pattern):
    patch = make(pattern)
    assert patch.rgb.shape == (256, 256, 3)
    assert patch.rgb.dtype == patch.mask.dtype == np.uint8
    assert patch.mask.max() < len(CLASSES)
    # Malignant nuclei are part of malignant cells, and other nuclei are not.
    assert patch.tumour[patch.mask == MALIGNANT].all()
    assert not patch.tumour[(patch.mask == LYMPHOCYTE) | (patch.mask == NORMAL)].any()
    assert 0 <= patch.cellularity <= 1


BENIGN = ["glass", "fat", "stroma", "lymphocytes", "ducts", "squamous", "blood", "lymph node"]
BENIGN += ["lobules", "sclerosing glands", "septate fat", "skin"]


@pytest.mark.parametrize("pattern", BENIGN)
def test_benign_tissue_has_no_cellularity(pattern):
    assert all(make(pattern, seed).cellularity == 0 for seed in range(3))


def share_of(patch, class_id):
    return (patch.mask == class_id).mean()


def test_blood_and_debris_have_few_nuclei_and_lymph_nodes_many():
    nodes = [share_of(make("lymph node", s), LYMPHOCYTE) for s in range(6)]
    assert np.mean(nodes) > 0.2
    for pattern in ("blood", "necrosis"):
        patches = [make(pattern, s) for s in range(6)]
        assert np.mean([share_of(p, LYMPHOCYTE) + share_of(p, NORMAL) for p in patches]) < 0.15


@pytest.mark.parametrize("pattern", ["lobules", "sclerosing glands", "skin"])
def test_benign_epithelium_is_normal(pattern):
    patches = [make(pattern, s) for s in range(6)]
    assert np.mean([share_of(p, NORMAL) for p in patches]) > 0.05


def test_ink_hides_the_nuclei_below_it():
    inked = [make("artefacts", s) for s in range(30)]
    dark = [p.rgb.mean(2) < 25 for p in inked]
    hidden = [(p.mask[d] == BACKGROUND).mean() for p, d in zip(inked, dark, strict=True) if d.any()]
    assert len(hidden) > 3
    assert np.median(hidden) > 0.8


def test_patterns_that_came_later_leave_earlier_seeds_as_they_were():
    assert "blood" not in PATTERN_WEIGHTS
    # Drawn before there was any later pattern; the margin is for another OpenCV.
    pixels = np.bincount(make("mixture", 7).mask.ravel(), minlength=len(CLASSES))
    np.testing.assert_allclose(pixels, [37233, 0, 7856, 20447], atol=60)


def test_malignant_tissue_spans_the_scale():
    solid = [make("solid", seed).cellularity for seed in range(6)]
    strewn = [make("single cells", seed).cellularity for seed in range(6)]
    assert max(solid) > 0.75
    assert np.mean(solid) > 0.5 > 0.3 > np.mean(strewn) > 0


def test_cellularity_is_the_area_of_malignant_cells_over_that_of_tissue():
    patch = next(p for s in range(50) if not (p := make("nests", s)).tissue.all())
    expected = np.count_nonzero(patch.tumour) / np.count_nonzero(patch.tissue)
    assert patch.cellularity == pytest.approx(expected)


def test_empty_glass_scores_nothing():
    patch = next(p for s in range(50) if not (p := make("glass", s)).tissue.any())
    assert patch.cellularity == 0


def test_nuclei_are_darker_than_what_surrounds_them():
    for seed in range(5):
        patch = make("nests", seed)
        grey = patch.rgb.mean(2)
        assert grey[patch.mask > 0].mean() < grey[patch.mask == BACKGROUND].mean() - 10


def test_lymphocytes_have_the_size_of_lymphocytes():
    patch = make("lymphocytes", 3, SyntheticConfig(size=512))
    count, _, stats, _ = cv2.connectedComponentsWithStats(
        (patch.mask == LYMPHOCYTE).astype(np.uint8)
    )
    assert count > 30
    # Touching nuclei make the larger components; the usual single one is 6 to 9 µm across.
    single = np.percentile(stats[1:, cv2.CC_STAT_AREA], 25)
    assert 5 <= 2 * np.sqrt(single / np.pi) * 0.5 <= 10


def round_nuclei_um(patch, class_id):
    """Diameters, µm, of the nuclei of a class that touch no other."""
    marked = (patch.mask == class_id).astype(np.uint8)
    contours, _ = cv2.findContours(marked, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = np.array([[cv2.contourArea(c), cv2.contourArea(cv2.convexHull(c))] for c in contours])
    areas = areas[areas[:, 0] > 40]
    return 0.5 * 2 * np.sqrt(areas[areas[:, 0] > 0.93 * areas[:, 1], 0] / np.pi)


def test_malignant_nuclei_are_larger_than_lymphocytes():
    lymphocytes = [round_nuclei_um(make("lymphocytes", s), LYMPHOCYTE) for s in range(8)]
    dark = [round_nuclei_um(make("dark sheets", s), MALIGNANT) for s in range(8)]
    squamous = [round_nuclei_um(make("squamous carcinoma", s), MALIGNANT) for s in range(8)]
    assert 4.5 < np.median(np.concatenate(lymphocytes)) < 7.5
    assert 6.5 < np.median(np.concatenate(dark)) < 12
    assert 6.5 < np.median(np.concatenate(squamous)) < 13


@pytest.mark.parametrize("kind", ["any", "dark", "squamous"])
def test_no_malignant_look_has_the_size_of_a_lymphocyte(kind):
    rng = np.random.default_rng(0)
    looks = [draw_malignant(rng, kind, scale=1.0, crisp=0.5).nucleus for _ in range(200)]
    longest_lymphocyte_px = 13.8
    assert min(look.length for look in looks) > 1.05 * longest_lymphocyte_px
    assert max(look.length for look in looks) < 16 / 0.5
    densities = [look.density for look in looks]
    assert min(densities) < 0.95 < 1.2 < max(densities)  # lymphocytes have 0.9 to 1.4


@pytest.mark.parametrize("pattern", ["dark sheets", "squamous carcinoma"])
def test_sheets_are_tumour_from_cell_to_cell(pattern):
    patches = [make(pattern, seed) for seed in range(6)]
    for patch in patches:
        assert patch.cellularity == np.sum(patch.tumour) / np.sum(patch.tissue)
        # Malignant cells hold most, not just the nuclei, of what lies between the nuclei.
        nuclei = (patch.mask == MALIGNANT).astype(np.uint8)
        between = cv2.morphologyEx(nuclei, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
        between &= patch.mask == BACKGROUND
        assert patch.tumour[between].mean() > 0.7
    assert max(patch.cellularity for patch in patches) > 0.6


def test_cellularities_are_spread_as_those_of_breastpathq():
    rng = np.random.default_rng(0)
    scores = np.array(
        [generate_patch(rng, SyntheticConfig(size=128)).cellularity for _ in range(150)]
    )
    assert 0.22 < scores.mean() < 0.40  # 0.31 in the challenge's training set
    assert 0.2 < (scores < 0.02).mean() < 0.45  # 0.28
    assert 0.03 < (scores > 0.9).mean() < 0.2  # 0.10


def test_the_same_seed_gives_the_same_patch():
    first, second = make("mixture", 7), make("mixture", 7)
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.tumour, second.tumour)
    assert not np.array_equal(first.rgb, make("mixture", 8).rgb)


def test_shifted_stains_change_the_colours_and_not_the_tissue():
    usual = make("ducts", 1)
    shifted = make("ducts", 1, SyntheticConfig(size=256, stain="shifted"))
    np.testing.assert_array_equal(usual.mask, shifted.mask)
    assert np.abs(usual.rgb.mean((0, 1)) - shifted.rgb.mean((0, 1))).max() > 2


def test_a_window_keeps_its_exact_truth():
    patch = make("nests", 2)
    window = patch.window(30, 50, 100)
    np.testing.assert_array_equal(window.rgb, patch.rgb[50:150, 30:130])
    assert window.cellularity == pytest.approx(
        patch.tumour[50:150, 30:130].sum() / patch.tissue[50:150, 30:130].sum()
    )


def test_a_region_has_its_tissues_in_its_quarters():
    region = generate_region(0, 768)
    half = 384
    top_left = region.window(100, 100, half - 100)
    top_right = region.window(half + 60, 100, half - 160)
    bottom_left = region.window(100, half + 60, half - 160)
    bottom_right = region.window(half + 60, half + 60, half - 160)
    assert not region.tissue[:10].any()
    assert top_left.cellularity > 0.4
    for benign in (top_right, bottom_left, bottom_right):
        assert benign.cellularity < 0.15
    assert (bottom_right.mask == LYMPHOCYTE).mean() > 3 * (bottom_left.mask == LYMPHOCYTE).mean()


def test_packing_a_patch_loses_nothing():
    patch = make("mixture", 4)
    again = unpack(pack(patch))
    for name in ("rgb", "mask", "tumour", "tissue"):
        np.testing.assert_array_equal(getattr(again, name), getattr(patch, name))


def test_patch_i_of_a_seed_is_always_the_same_and_validation_is_another_stream():
    sample = generated_sample("train", 5, 64, 3)
    np.testing.assert_array_equal(sample, generated_sample("train", 5, 64, 3))
    assert not np.array_equal(sample, generated_sample("train", 5, 64, 4))
    assert not np.array_equal(sample, generated_sample("validation", 5, 64, 3))


def test_patterns_are_drawn_by_weight(tmp_path):
    usual, glass = (
        GeneratedData(train=4, size=64, cache=tmp_path, weights=weights).nuclei("train")
        for weights in (None, {"glass": 1.0})
    )
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert max(picture.cellularity for picture in usual) > 0
    assert all(picture.cellularity == 0 for picture in glass)
    np.testing.assert_array_equal(usual[1].sample, generated_sample("train", 0, 64, 1))


def test_the_command_writes_patches_and_a_contact_sheet(tmp_path):
    main(["--out", str(tmp_path), "--each", "1", "--size", "64"])
    assert len(list(tmp_path.glob("*.png"))) == len(get_args(Pattern)) + 1
    assert cv2.imread(str(tmp_path / "contact-sheet.png")).shape[1] == 512
