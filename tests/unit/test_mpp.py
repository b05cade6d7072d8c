import logging

import pytest

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.mpp import MppSources, isotropic, referee_mpp, tiff_tag_mpp


def test_the_override_settles_everything():
    contradictory = MppSources(reader=0.25, tiff_tags=0.5, objective_power=10)
    assert referee_mpp(contradictory, Mpp(0.3), "a.svs") == (0.3, "override")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (MppSources(reader=0.25, tiff_tags=0.26, objective_power=40), (0.25, "reader")),
        (MppSources(tiff_tags=0.5, objective_power=20), (0.5, "TIFF resolution tags")),
        (MppSources(objective_power=40), (0.25, "objective power")),
        (MppSources(objective_power=20), (0.5, "objective power")),
        # Real: an Aperio scan sold as 40x.
        (MppSources(reader=0.19448, objective_power=40), (0.19448, "reader")),
    ],
)
def test_sources_are_asked_in_order(sources, expected):
    assert referee_mpp(sources, None, "a.svs") == expected


def test_a_nominal_value_is_taken_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        referee_mpp(MppSources(objective_power=40), None, "a.svs")
    assert "a.svs" in caplog.text
    assert "--mpp" in caplog.text


@pytest.mark.parametrize(
    ("sources", "word"),
    [
        (MppSources(), "does not say"),
        (MppSources(reader=0.25, tiff_tags=0.5), "contradict"),
        (MppSources(reader=0.5, objective_power=40), "contradict"),
        (MppSources(reader=352.8), "implausible"),
        (MppSources(tiff_tags=0.01), "implausible"),
        (MppSources(objective_power=1), "implausible"),
    ],
)
def test_refusals_show_every_source_and_the_remedy(sources, word):
    with pytest.raises(MppError, match=word) as error:
        referee_mpp(sources, None, "a.svs")
    message = str(error.value)
    assert message.startswith("a.svs")
    assert "--mpp" in message
    for source in ("reader", "TIFF resolution tags", "objective power"):
        assert source in message


@pytest.mark.parametrize("override", [0.0, -0.5, 500, float("nan")])
def test_an_absurd_override_is_refused(override):
    with pytest.raises(MppError, match="override"):
        referee_mpp(MppSources(reader=0.25), Mpp(override), "a.svs")


def test_screen_resolutions_say_nothing_of_a_slide():
    assert tiff_tag_mpp(72, 25_400) is None
    assert tiff_tag_mpp(96 / 2.54, 10_000) is None
    assert tiff_tag_mpp(0, 10_000) is None
    assert tiff_tag_mpp(20_000, 10_000) == pytest.approx(0.5)
    assert tiff_tag_mpp(50_800, 25_400) == pytest.approx(0.5)


def test_pixels_must_be_about_square():
    assert isotropic(0.25, 0.2502, "a.svs") == pytest.approx(0.2501, abs=1e-5)
    with pytest.raises(MppError, match="not square"):
        isotropic(0.25, 0.5, "a.svs")
