"""A result's card in a notebook: whole, escaped, and without a network."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

import wsi_pipeline as wsi
from wsi_pipeline.api.html import card, warnings

HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">\u202e.svs"
)

VOID = {"img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and all text on one line; raises where tags do not match."""

    def __init__(self, html):
        super().__init__()
        self.tags, self._text, self._open = [], [], []
        self.feed(html)
        self.close()
        assert self._open == []

    @property
    def text(self):
        return " ".join(" ".join(self._text).replace("\xa0", " ").split())

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self._text.append(data)


def changed(summary, **places):
    """The summary with other values at places such as `provenance__slide__name`."""
    content = summary.model_dump(mode="json")
    for place, value in places.items():
        *parents, last = place.split("__")
        at = content
        for parent in parents:
            at = at[parent]
        at[last] = value
    return type(summary).model_validate_json(json.dumps(content))


@pytest.fixture
def summary(finished):
    return wsi.open_result(finished).summary


def test_the_card_says_what_the_figure_is_a_mean_of(finished, summary):
    page = Page(wsi.open_result(finished)._repr_html_())
    text = page.text
    stored = json.loads((finished / "summary.json").read_text())
    figure = stored["cellularity"]
    assert f"{100 * figure['mean']:.1f} % mean cellularity: {figure['mean_is']}" in text
    assert "not the average over the tumour bed that pathologists report" in text
    assert f"{100 * figure['median']:.1f} %" in text
    assert f"At 10 % or more {100 * figure['area_fraction_at_least']['0.1']:.1f} % of the" in text
    tiles = stored["tiles"]
    assert f"{tiles['scored']} of {tiles['tissue']} tiles scored" in text
    assert "block.tif" in text
    assert f"Model tiny 1 ({stored['provenance']['bundle']['digest'][:12]})" in text
    assert f"wsi-pipeline {wsi.__version__}" in text
    assert "Pixel size 0.5 µm (TIFF resolution tags)" in text
    assert "Research use only; not a medical device." in text


def test_the_picture_is_small_and_in_the_page(finished):
    html = wsi.open_result(finished)._repr_html_()
    (image,) = Page(html).of("img")
    kind, _, encoded = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert 300 < picture.width <= 520
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert len(colours) > 1000  # a slide, and no blank
    assert image["alt"] == "Cellularity drawn over block.tif"
    assert len(html) < 200_000


def test_nothing_is_loaded_or_run(finished):
    page = Page(wsi.open_result(finished)._repr_html_())
    assert {tag for tag, _ in page.tags} <= {
        "div", "img", "table", "tr", "th", "td", "ul", "li", "strong"
    }  # fmt: skip
    for tag, attributes in page.tags:
        assert set(attributes) <= {"style", "scope"} | ({"src", "alt"} if tag == "img" else set())
        assert "url(" not in attributes.get("style", "")


@pytest.mark.parametrize(
    "place",
    [
        "provenance__slide__name",
        "provenance__slide__mpp_source",
        "provenance__bundle__name",
        "provenance__bundle__version",
        "cellularity__mean_is",
        "quality__flags",
        "provenance__software",
        "cellularity__area_fraction_at_least",
    ],
)
def test_hostile_texts_are_shown_as_they_are(summary, place):
    value = {
        "quality__flags": [HOSTILE],
        "provenance__software": {"wsi-pipeline": HOSTILE},
        "cellularity__area_fraction_at_least": {HOSTILE: 0.5},
    }.get(place, HOSTILE)
    plain, hostile = Page(card(summary, None)), Page(card(changed(summary, **{place: value}), None))
    # A list of one warning more; three rows of the table become one.
    more = {"cellularity__area_fraction_at_least": -6}.get(place, 0)
    assert len(hostile.tags) - len(plain.tags) == more
    assert hostile.of("script") == []
    assert hostile.of("img") == []
    assert "\u202e" not in hostile.text
    if not place.endswith("least"):  # a number there, or nothing
        assert HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}") in hostile.text


def test_why_a_slide_was_refused_is_shown_with_its_tissue(refused):
    result = wsi.open_result(refused)
    page = Page(result._repr_html_())
    assert "Refused: no figure" in page.text
    assert " ".join(result.summary.reason.split()) in page.text
    assert "mean" not in page.text
    (image,) = page.of("img")
    assert image["alt"] == "Tissue found on block.tif"


def test_a_picture_that_is_gone_costs_the_picture_alone(own):
    result = wsi.open_result(own)
    (own / "thumbnail.png").unlink()
    page = Page(result._repr_html_())
    assert page.of("img") == []
    assert f"No picture. {own}/thumbnail.png: cannot be read" in page.text
    assert "mean cellularity" in page.text


def test_each_flag_is_a_sentence_with_its_figure(summary):
    flags = {
        "out of focus": "23.4 % of the tissue is out of focus.",
        "pen marks": "12.0 % of the tissue lies under pen ink.",
        "enlarged to the model's resolution": "The slide (0.688 µm/px) is coarser than",
        "pixel size assumed from the objective": "(0.688 µm/px) was assumed from the objective",
        "not all tissue scored": "Only 95.0 % of the tissue could be read and scored: 9 of 10",
        "demonstration model": "tiny 1 is a demonstration model: its scores show that the",
        "a flag of a later version": "a flag of a later version",
    }
    flagged = changed(
        summary,
        quality__flags=list(flags),
        quality__blurred_fraction=0.234,
        quality__pen_fraction=0.12,
        provenance__slide__mpp=0.688,
        coverage=0.95,
        tiles__scored=9,
        tiles__tissue=10,
    )
    said = [sentence.replace("\xa0", " ") for sentence in warnings(flagged)]
    assert said[0].startswith(flags["demonstration model"])
    for sentence in flags.values():
        assert any(sentence in each for each in said), sentence
    shown = Page(card(flagged, None)).text
    assert all(" ".join(each.split()) in shown for each in said)


def test_every_flag_that_a_summary_can_raise_has_its_sentence(summary):
    from wsi_pipeline.outputs import summary as module

    source = open(module.__file__).read()  # noqa: PTH123, SIM115
    (block,) = re.findall(r"    flags = \{\n(.*?)    \}\n", source, re.DOTALL)
    raised = re.findall(r'^        "([^"]+)": ', block, re.MULTILINE)
    assert len(raised) >= 6
    said = warnings(changed(summary, quality__flags=raised))
    assert not set(said) & set(raised)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium (Debian's package)")
def test_a_browser_shows_it_and_runs_nothing(finished, summary, tmp_path):
    picture = Page(wsi.open_result(finished)._repr_html_()).of("img")[0]["src"]
    hostile = changed(summary, provenance__slide__name=HOSTILE, quality__flags=[HOSTILE])
    page = tmp_path / "page.html"
    loaded = "<script>document.body.dataset.width = document.images[0].naturalWidth</script>"
    head = "<!doctype html><meta charset=utf-8><title>still</title><body>"
    page.write_text(head + card(hostile, picture) + loaded)
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "<title>still</title>" in done.stdout
    (width,) = re.findall(r'data-width="(\d+)"', done.stdout)
    assert 300 < int(width) <= 520
