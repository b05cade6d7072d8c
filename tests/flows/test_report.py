"""The page and the picture of a slide, without Prefect."""

import base64
import io
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flows import night_page
from flows.night_page import MAX_PICTURES_CHARS, MAX_ROWS, counted, headline, night_name, table
from flows.report import MAX_URI_CHARS, artifact_key, markdown, picture_uri
from tests.helpers.made import settings_of
from wsi_pipeline.engine.execution import Execution
from wsi_pipeline.facts import BundleFacts, SlideFacts
from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.outputs.estimate import Estimate
from wsi_pipeline.outputs.interval import Interval
from wsi_pipeline.outputs.provenance import Provenance
from wsi_pipeline.outputs.summary import Cellularity, Histogram, Quality, SlideSummary, TileCounts

SUMMARY = SlideSummary(
    status="scored",
    reason=None,
    tissue_area_mm2=12.345,
    tiles=TileCounts(grid=2000, tissue=1234, scored=1230, unreadable=4, padded=3),
    coverage=0.9968,
    cellularity=Cellularity(
        mean=0.2345,
        mean_95_interval=Interval(low=0.2, high=0.271, method="blocks"),
        median=0.19,
        quantiles={},
        area_fraction_at_least={"0.1": 0.6, "0.3": 0.25, "0.7": 0.0625},
        histogram=Histogram(edges=(0, 1), fractions=(1,)),
    ),
    quality=Quality(
        blurred_fraction=0.125, pen_fraction=0.01, upsampled=False, flags=("out of focus",)
    ),
    provenance=Provenance(
        slide=SlideFacts(
            name="a|b.svs",
            size_bytes=1,
            digest="d1" * 16,
            vendor="aperio",
            backend="openslide",
            width_px=10000,
            height_px=8000,
            mpp=0.2525,
            mpp_source="slide's vendor",
        ),
        bundle=BundleFacts(name="ours", version="1", digest="d2" * 32, demonstration=False),
        config=settings_of(),
        config_digest="d3" * 32,
        tiling_digest="ab" * 32,
        scoring_digest="cd" * 32,
        execution=Execution(device="cpu", runtime="torch", precision="float32"),
        software={"torch": "2.11"},
    ),
)


@given(st.text(max_size=60))
def test_every_name_gives_a_key_that_prefect_takes(name: str) -> None:
    assert re.fullmatch(r"overlay(-[a-z0-9]+)+", artifact_key("overlay", name) + "-x")


@pytest.mark.parametrize(
    ("one", "other"), [("case 1", "case_1"), ("切片", "組織"), ("a-", "a"), ("a--b", "a-b")]
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert artifact_key("overlay", one) != artifact_key("overlay", other)


def test_plain_names_stay_readable() -> None:
    assert artifact_key("overlay", "TCGA-CR-7395-01A") == "overlay-tcga-cr-7395-01a"


@pytest.mark.parametrize("kind", ["noise", "flat"])
def test_pictures_of_any_content_fit(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    shape = (1600, 1200, 3)
    rgb = rng.integers(0, 256, shape) if kind == "noise" else np.full(shape, 200)
    Image.fromarray(rgb.astype(np.uint8)).save(tmp_path / "overlay.png")

    uri = picture_uri(tmp_path / "overlay.png")

    assert len(uri) <= MAX_URI_CHARS
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as shown:
        assert shown.height / shown.width == pytest.approx(4 / 3, rel=0.01)
        assert kind == "noise" or shown.height == 1024


def test_the_page_tells_every_figure_and_where_the_files_are(tmp_path: Path) -> None:
    (tmp_path / "overlay.tif").touch()

    page = markdown(SUMMARY, tmp_path)

    for line in (
        r"> Cellularity of all tissue 23\.4 % (1,230 tiles, 12\.3 mm²)",
        "| 95 % interval of the mean | 20.0 % to 27.1 % (blocks) |",
        "| Area at or above 10 % | 60.0 % |",
        "| Area at or above 30 % | 25.0 % |",
        "| Area at or above 70 % | 6.2 % |",
        "| Quality flags | out of focus |",
        r"| Slide | a\|b\.svs, 10,000 × 8,000 px, read with openslide |",
    ):
        assert line in page.splitlines()
    assert "not the average over the tumour bed" in page
    assert all(f"`{digest}`" in page for digest in ("d1" * 16, "d2" * 32, "d3" * 32))
    assert "| overlay.tif | the slide" in page
    assert str(tmp_path) in page.replace("\\", "")
    linked = markdown(SUMMARY, tmp_path, "https://results.example/wsi/")
    assert f"[overlay.tif](https://results.example/wsi/{tmp_path.name}/overlay.tif)" in linked
    assert "tiles.parquet" not in page, "it is not there"


def test_the_page_of_a_refused_slide_gives_the_reason_and_no_figure(tmp_path: Path) -> None:
    refused = SUMMARY.model_copy(
        update={"status": "refused", "reason": "There is no tissue.", "cellularity": None}
    )
    page = markdown(refused, tmp_path)
    assert r"> Not scored\. There is no tissue\." in page
    assert "Mean cellularity" not in page


def test_a_demonstration_says_so(tmp_path: Path) -> None:
    bundle = SUMMARY.provenance.bundle.model_copy(update={"demonstration": True})
    provenance = SUMMARY.provenance.model_copy(update={"bundle": bundle})
    page = markdown(SUMMARY.model_copy(update={"provenance": provenance}), tmp_path)
    assert "> The model is a demonstration" in page


EVENING = datetime(2026, 11, 26, 23, 30).astimezone()


def outcome(name: str, **others: Any) -> Outcome:
    return Outcome(**{"name": name, "folder": Path(name).stem, "status": "scored"} | others)


def night(*outcomes: Outcome, is_whole: bool = True) -> NightReport:
    return NightReport(
        started=EVENING, ended=EVENING, inbox="in|box", outcomes=outcomes, is_whole=is_whole
    )


def test_a_nights_name_has_the_date_of_the_place_and_what_came_of_it() -> None:
    refused = outcome("b", status="refused", reason="There is no tissue.")
    done = outcome("c", status="left", kind="done")
    went = night(outcome("a", summary=SUMMARY), refused, done)
    assert night_name(EVENING, counted(went)) == "night 2026-11-26: 1 scored, 1 refused"
    assert counted(night(done)) == "nothing new"
    assert counted(night(refused, is_whole=False)) == "1 refused, ended early"


def test_an_estimate_is_told_as_one() -> None:
    estimate = Estimate(
        of="tissue",
        mean=0.3,
        mean_is="a mean",
        low=0.28,
        high=0.32,
        precision=0.02,
        scored=158,
        tiles=1076,
        method="drawn",
        provenance=SUMMARY.provenance,
    )
    drawn = outcome("e.svs", status="estimated", estimate=estimate, reason="158 of 1076 tiles.")
    went = night(drawn, outcome("a.svs", summary=SUMMARY))
    assert counted(went) == "1 scored, 1 estimated"
    assert headline(went) == "1 slides scored, 1 estimated, 0 refused, 0 failed, 0 left alone."
    assert headline(night()) == "0 slides scored, 0 refused, 0 failed, 0 left alone."
    rows = {row["slide"]: row for row in table(went)}
    assert rows["e.svs"]["cellularity of all tissue"] == "28.0 to 32.0 %, estimated"
    assert rows["e.svs"]["outcome"] == "estimated"


def test_a_nights_page_has_figures_and_pictures_within_bounds(tmp_path: Path) -> None:
    slides = [outcome(f"{number:03}.svs", summary=SUMMARY) for number in range(250)]
    failed = outcome("![](http://evil)|.svs", status="failed", reason="<b>Gone</b>.")
    picture = "data:image/jpeg;base64," + "A" * 20_000
    report = tmp_path / "nights" / "2026-11-26T2230Z" / "index.html"

    page = night_page.page(
        night(*slides, failed), tmp_path, report, None, lambda _out, _outcome: picture
    )

    assert len(page) < 400_000
    assert page.count(picture) == MAX_PICTURES_CHARS // len(picture)
    rows = [line for line in page.splitlines() if line.startswith("| ![]") or "svs" in line]
    assert "failed" in rows[0], "what needs a person comes first"
    assert "<b>" not in page
    assert "![](http" not in page
    assert "| scored | 23.4 % (20.0 to 27.1) | 12.3 mm² | 100 % |" in rows[1]
    assert len(rows) == MAX_ROWS
    assert "And 51 more." in page
    assert str(report) in page.replace("\\", "")
