"""Views that are drawn where the network is."""

import numpy as np
import pytest
import torch

from training.augment import AugmentConfig
from training.data.picture import Picture, of_nuclei
from training.data.resident import ResidentViews, batches, middles_of, resident_batches
from training.data.views import EpochOrder
from training.seg import SegConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

CPU = torch.device("cpu")
MALIGNANT = CLASSES.index("malignant")


def picture(seed: int = 0, side: int = 96, name: str = "a") -> Picture:
    """Tissue with a square of malignant nuclei in its upper left quarter."""
    rgb = np.random.default_rng(seed).integers(60, 180, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[8:24, 8:24] = MALIGNANT
    return Picture(name=name, group=name, sample=of_nuclei(rgb, mask))


def views(config: AugmentConfig, count: int = 4, **about) -> ResidentViews:
    pictures = [picture(i, **about) for i in range(count)]
    order = EpochOrder(count, 0, batch=count)
    return ResidentViews(pictures, config, order, batch=count, seed=0, device=CPU)


def test_a_view_that_changes_nothing_is_the_picture():
    """In the order of the epoch, pixel by pixel, with its truth and its cellularity."""
    drawn = views(AugmentConfig(crop=96))
    pixels, mask, score, _ = next(iter(drawn))
    for view, i in enumerate(EpochOrder(4, 0, batch=4)):
        sample = picture(i % 4).sample
        np.testing.assert_array_equal(pixels[view].numpy(), sample[..., :3])
        np.testing.assert_array_equal(mask[view].numpy() == MALIGNANT, mask[0].numpy() == MALIGNANT)
        assert float(score[view]) == pytest.approx(picture(i % 4).cellularity, abs=1e-6)


def test_views_are_the_same_whenever_they_are_drawn():
    config = AugmentConfig(crop=64, turns="any", scale=(0.8, 1.2), stain=0.3, focus=0.5, glass=0.5)
    one, other = (next(iter(views(config))) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second) or torch.isnan(first).any()


def test_glass_is_no_tissue_and_hides_what_lies_under_it():
    config = AugmentConfig(crop=96, glass=1.0)
    pixels, mask, score, _ = next(iter(views(config, count=64)))
    bare = (pixels >= 215).all(dim=-1)
    share = bare.float().mean(dim=(1, 2))
    assert float(share.min()) > 0.05
    assert float(share.max()) < 0.95
    assert not mask[bare].any()
    assert ((score >= 0) & (score <= 1)).all()
    whole = picture().cellularity
    assert float(score.max()) > 1.1 * whole  # the same cells over less tissue
    assert float(score.min()) < 0.5 * whole  # cells are gone too


def test_no_glass_where_none_is_asked_for():
    pixels = next(iter(views(AugmentConfig(crop=96), count=8)))[0]
    assert not (pixels >= 215).all(dim=-1).any()


@pytest.mark.parametrize("wrong", [{"crop": None}, {"crop": 64, "hue": 0.1}])
def test_views_that_cannot_be_drawn_so_are_refused(wrong):
    with pytest.raises(ConfigError):
        views(AugmentConfig(**wrong))


def test_glass_needs_views_on_the_device():
    config = SegConfig(augment=AugmentConfig(crop=64, glass=0.2))
    with pytest.raises(ConfigError, match="resident: true"):
        batches([picture()], [picture()], config, CPU)


def test_middles_are_known_only_where_they_are_marked():
    plain = picture()
    assert (middles_of(plain) == 255).all()
    marked = Picture(name="a", group="a", sample=plain.sample, points=np.array([[30.0, 12.0]]))
    hill = middles_of(marked)
    assert hill[12, 30] == hill.max() == 254
    assert hill[60, 60] == 0


def test_each_batch_of_an_epoch_comes_once():
    pictures = [picture(i) for i in range(5)]
    drawn, order = resident_batches(
        pictures, AugmentConfig(crop=64), batch=2, seed=0, workers=0, device=CPU
    )
    assert order.count == 5
    assert [len(batch[0]) for batch in drawn] == [2, 2, 1] or len(list(drawn)) == len(drawn)
