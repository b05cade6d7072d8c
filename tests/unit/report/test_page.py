"""The page as text: what others wrote is text on it, and the same result gives the same bytes."""

import html
import json
import re

import numpy as np
import pytest

import wsi_pipeline as wsi
from tests.helpers.mapped import maps_of
from tests.helpers.real_slides import SAMPLE
from wsi_pipeline.report.page import page
from wsi_pipeline.report.shown import Shown

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202ex"


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None).summary


@pytest.fixture
def shown():
    rng = np.random.default_rng(0)
    maps = maps_of(rng.uniform(0, 1, (24, 32)))
    rgb = rng.integers(0, 256, (96, 128, 3), np.uint8)
    return Shown(rgb, maps, np.ones((12, 16), bool), None, np.array([[0, 0, 512, 512]]))


def named(summary, name):
    slide = summary.provenance.slide.model_copy(update={"name": name})
    provenance = summary.provenance.model_copy(update={"slide": slide})
    return summary.model_copy(update={"provenance": provenance})


def test_a_hostile_name_is_text_everywhere(summary, shown):
    plain, hostile = page(summary, shown), page(named(summary, HOSTILE), shown)
    for mark in ("<script", "</script", "<img"):
        assert hostile.lower().count(mark) == plain.lower().count(mark), mark
    (about,) = re.findall(r'id="about">(.*?)</script>', hostile, re.DOTALL)
    assert json.loads(about)["slide"]["slide"] == HOSTILE
    (title,) = re.findall(r"<title>(.*?)</title>", hostile)
    assert "\u202e" not in title
    assert "alert(1)" in html.unescape(title)


def test_the_same_result_gives_the_same_bytes(summary, shown):
    assert page(summary, shown) == page(summary, shown)


def test_a_refused_slide_has_its_reason_and_no_figure(summary, shown):
    refused = summary.model_copy(
        update={"status": "refused", "reason": "It is of glass.", "cellularity": None, "bed": None}
    )
    text = page(refused, shown)
    assert "It is of glass." in text
    assert "Refused" in text
    assert "90&nbsp;% interval" not in text


def test_the_network_is_forbidden_to_the_page(summary, shown):
    text = page(summary, shown)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy  # and so none
    assert "http" not in policy
    own = text.replace(re.search(r"<script>\n/\* BEGIN bokeh.*?END bokeh", text, re.DOTALL)[0], "")
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]+"', own)
