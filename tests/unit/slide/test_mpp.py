import logging

import pytest

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.mpp import MppSources, referee_mpp
from wsi_pipeline.slide.stated_mpp import Statement


def test_the_override_settles_everything():
    contradictory = MppSources(reader=0.25, tiff_tags=0.5, objective_power=10)
    assert referee_mpp(contradictory, Mpp(0.3), "a.svs") == (0.3, "override")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (MppSources(reader=0.25, tiff_tags=0.26, objective_power=40), (0.25, "reader")),
        (MppSources(tiff_tags=0.5, objective_power=20), (0.5, "TIFF resolution tags")),
        (MppSources(tiff_tags=0.25, ome_xml=0.251), (0.251, "OME-XML")),
        (MppSources(tiff_tags=0.25, description=0.251), (0.251, "image description")),
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
        (MppSources(ome_xml=0.499, tiff_tags=0.25), "contradict"),
        (MppSources.of({"tiff_tags": Statement("a", (84.7, 84.7))}, None), "84.7.*implausible"),
        (MppSources.of({"ome_xml": Statement("1 parsec", understood=False)}, None), "parsec"),
        (MppSources.of({"ome_xml": Statement("a", (0.25, 0.5))}, None), "not square"),
        (MppSources.of({}, Statement("Plan Apo", understood=False)), "Plan Apo"),
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
    for source in ("reader", "OME-XML", "description", "TIFF resolution tags", "objective power"):
        assert source in message


@pytest.mark.parametrize("override", [0.0, -0.5, 500, float("nan")])
def test_an_absurd_override_is_refused(override):
    with pytest.raises(MppError, match="override"):
        referee_mpp(MppSources(reader=0.25), Mpp(override), "a.svs")


def test_what_is_not_understood_is_never_taken_for_silence():
    said = {
        "reader": Statement("0.25 furlongs", understood=False),
        "tiff_tags": Statement("", (0.5,) * 2),
    }
    sources = MppSources.of(said, Statement("20", (20, 20)))
    with pytest.raises(MppError, match=r"reader says '0.25 furlongs'.*not understood.*tags: 0.5"):
        referee_mpp(sources, None, "a.svs")
    assert referee_mpp(sources, Mpp(0.4), "a.svs") == (0.4, "override")
    # A measured size does without the objective's name.
    sources = MppSources.of({"tiff_tags": said["tiff_tags"]}, Statement("Plan", understood=False))
    assert referee_mpp(sources, None, "a.svs") == (0.5, "TIFF resolution tags")
    assert "objective power: 'Plan'" in sources.describe()
