"""Tiles of tissue that a model is calibrated on."""

import numpy as np
import pytest

from tests.helpers.made import damage, write_slide
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.sample import MIN_TILES, sample_tiles


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return ModelBundle.load(tiny_bundle)


@pytest.fixture
def slides(section, tmp_path):
    rgb = section.rgb
    return [
        str(write_slide(tmp_path / f"{name}.tif", picture, downsamples=(4,)))
        for name, picture in (("a", rgb[200:840, 200:840]), ("b", rgb[::-1][200:840, 200:840]))
    ]


def test_tiles_are_sampled_from_all_slides_alike(bundle, slides):
    config = ScoreConfig()
    tiles = sample_tiles(slides, bundle.card, config, count=40, seed=1)
    assert tiles.shape == (40, 64, 64, 3)
    assert len({tile.tobytes() for tile in tiles}) == 40
    again = sample_tiles(slides, bundle.card, config, count=40, seed=1)
    np.testing.assert_array_equal(tiles, again)
    first = sample_tiles(slides[:1], bundle.card, config, count=1000, seed=0)
    assert len({tile.tobytes() for tile in (*first, *tiles)}) == len(first) + 20
    with pytest.raises(ConfigError, match="Give more slides"):
        sample_tiles(slides, bundle.card, config, count=8, seed=0)


def test_damaged_tiles_are_not_sampled(bundle, section, tmp_path):
    path = write_slide(tmp_path / "a.tif", section.rgb[200:840, 200:840], compression="jpeg")
    sound = sample_tiles([str(path)], bundle.card, ScoreConfig(), count=1000, seed=0)
    damage(path, 4)
    left = sample_tiles([str(path)], bundle.card, ScoreConfig(), count=1000, seed=0)
    assert MIN_TILES <= len(left) < len(sound)
    assert {tile.tobytes() for tile in left} < {tile.tobytes() for tile in sound}
