"""What is told of a slide before a run, against what the run then finds."""

import pytest

from tests.helpers.made import damage
from wsi_pipeline.errors import SlideError
from wsi_pipeline.scoring.inspection import expect
from wsi_pipeline.scoring.pipeline import tile_slide
from wsi_pipeline.scoring.sample import SAMPLED_TILES
from wsi_pipeline.slide.slide import Slide


def test_the_tiles_are_those_of_the_run(make_slide, section, tmp_path, tiny_config):
    path = make_slide(section.rgb, downsamples=(4,))
    with Slide.open(path) as slide:
        expected = expect(slide, tiny_config, engine=None)
    store = tile_slide(path, tmp_path / "out", tiny_config)
    assert (expected.n_tiles, expected.n_candidates) == (len(store), store.grid.n_candidates)
    assert expected.read_s > 0
    assert expected.total_s == expected.read_s


def test_damaged_tiles_are_read_around(make_slide, section, tmp_path, tiny_config, caplog):
    """A run goes on without them too."""
    path = make_slide(section.rgb, compression="jpeg")
    damage(path, 9, 10)
    with Slide.open(path) as slide:
        expected = expect(slide, tiny_config, engine=None)
    assert "A tile is left out" in caplog.text
    store = tile_slide(path, tmp_path / "out", tiny_config)
    assert 0 < store.n_unreadable < len(store) == expected.n_tiles


def test_a_slide_whose_tiles_are_all_damaged(make_slide, section, tiny_config, monkeypatch):
    path = make_slide(section.rgb)
    monkeypatch.setattr("wsi_pipeline.scoring.sample.read_tile", lambda *_args: None)
    with (
        Slide.open(path) as slide,
        pytest.raises(SlideError, match=rf"slide\.tif: none of {SAMPLED_TILES} tiles .* copy or"),
    ):
        expect(slide, tiny_config, engine=None)
