"""Views of samples: against averages and scikit-image's stains by hand."""

import numpy as np
import pytest
import torch
from skimage.color import hed_from_rgb, rgb_from_hed
from torchvision.transforms.v2 import functional as colour

from training.augment import AugmentConfig, random_colour, random_stain, shrunk
from training.data.picture import Picture, pack
from training.data.views import Views, validation_batches


@pytest.mark.parametrize("by", [2, 4, 8])
def test_colours_are_averaged_and_truth_is_picked(section, by):
    sample = pack(section.window(256, 256, 320))
    small = shrunk(sample, by)
    side = 320 // by
    blocks = sample.reshape(side, by, side, by, 4)
    means = blocks[..., :3].mean((1, 3), dtype=np.float64)
    np.testing.assert_allclose(small[..., :3], means, atol=0.5)
    np.testing.assert_array_equal(small[..., 3], blocks[:, by // 2, :, by // 2, 3])


def test_views_keep_the_cellularity_of_all_pixels(section):
    picture = Picture("section", "section", pack(section.window(256, 256, 256)))
    whole, small = (Views([picture], AugmentConfig(crop=128), 3, shrink) for shrink in (1, 4))
    for view in range(5):
        (pixels, mask, score), (small_pixels, small_mask, same) = whole[view], small[view]
        assert same == score
        assert small_pixels.shape == (32, 32, 3)
        np.testing.assert_array_equal(small_mask, mask[2::4, 2::4])
        np.testing.assert_allclose(
            small_pixels, pixels.reshape(32, 4, 32, 4, 3).double().mean((1, 3)), atol=0.5
        )


def test_whole_pictures_are_padded_to_what_the_network_takes(section):
    picture = Picture("section", "section", pack(section.window(256, 256, 200)))
    ((pixels, mask, _),) = validation_batches([picture], 2)
    assert pixels.shape == (1, 128, 128, 3)
    assert (mask[0, 100:] == 255).all()
    assert (mask[0, :100, :100] != 255).any()


def test_a_random_stain_is_scikit_images_with_other_amounts(section):
    sample = pack(section.window(256, 256, 64))
    rng = np.random.default_rng(3)
    stained = random_stain(rng, sample, 0.2)
    rng = np.random.default_rng(3)
    factors, tint = rng.uniform(0.8, 1.2, 3), rng.uniform(-0.2, 0.2, 3) * 0.15
    density = -np.log((sample[..., :3].astype(float) + 1) / 256)
    dyes = density @ hed_from_rgb * factors + tint
    expected = 256 * np.exp(-dyes @ rgb_from_hed) - 1
    np.testing.assert_allclose(stained[..., :3], expected.clip(0, 255), atol=0.51)
    np.testing.assert_array_equal(stained[..., 3], sample[..., 3])
    assert np.abs(stained[..., :3].astype(int) - sample[..., :3]).mean() > 1


def test_stains_and_unsure_edges_are_part_of_a_view(section):
    picture = Picture("section", "section", pack(section.window(256, 256, 128)))
    plain, view = (
        Views([picture], AugmentConfig(crop=64, **settings), 3)
        for settings in ({}, {"stain": 0.1, "unsure_edges": True})
    )
    (pixels, mask, score), (other, unsure, same) = plain[5], view[5]
    assert same == score
    assert not torch.equal(pixels, other)
    at_edge = unsure != mask
    assert 0.01 < at_edge.float().mean() < 0.5
    assert (unsure[at_edge] >= 16).all()


@pytest.mark.parametrize("seed", range(4))
def test_colours_are_shifted_as_torchvision_shifts_them(section, seed):
    sample = pack(section.window(256, 256, 96))
    config = AugmentConfig(brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)
    ours = random_colour(np.random.default_rng(seed), sample, config)[..., :3]
    rng = np.random.default_rng(seed)
    theirs = torch.from_numpy(sample[..., :3].transpose(2, 0, 1).copy())
    theirs = colour.adjust_brightness(theirs, 1 + rng.uniform(-1, 1) * 0.2)
    theirs = colour.adjust_contrast(theirs, 1 + rng.uniform(-1, 1) * 0.3)
    theirs = colour.adjust_saturation(theirs, 1 + rng.uniform(-1, 1) * 0.4)
    theirs = colour.adjust_hue(theirs, rng.uniform(-1, 1) * 0.1).numpy().transpose(1, 2, 0)
    assert np.abs(ours.astype(int) - sample[..., :3]).mean() > 3
    np.testing.assert_allclose(ours.astype(int), theirs, atol=4)
    assert np.abs(ours.astype(int) - theirs).mean() < 0.7
