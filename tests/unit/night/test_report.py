"""The page and the tables of a night, parsed as a browser and a spreadsheet would."""

import csv
import io
import re
import tracemalloc
import unicodedata
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.made import settings_of
from wsi_pipeline.engine.execution import Execution
from wsi_pipeline.facts import BundleFacts, SlideFacts
from wsi_pipeline.night import report_page, report_table
from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.night.report import ORDER, NightReport
from wsi_pipeline.night.report_folder import write_report
from wsi_pipeline.outputs.estimate import Estimate
from wsi_pipeline.outputs.interval import Interval
from wsi_pipeline.outputs.provenance import Provenance
from wsi_pipeline.outputs.summary import (
    BedFigures,
    Cellularity,
    Histogram,
    Quality,
    SlideSummary,
    TileCounts,
)
from wsi_pipeline.shown import spreadsheet_cell

STARTED = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
NASTY = "<script>alert(\"1\")</script> & 'Söhne' {{ 7 * 7 }}.svs"


def summary(*, mean: float | None = 0.342, demonstration: bool = False, flags=()) -> SlideSummary:
    return SlideSummary(
        status="refused" if mean is None else "scored",
        reason=None if mean is not None else "Only 3 % of the tissue could be read.",
        tissue_area_mm2=27.4,
        tiles=TileCounts(grid=900, tissue=412, scored=400, unreadable=12, padded=3),
        coverage=0.97,
        cellularity=None
        if mean is None
        else Cellularity(
            mean=mean,
            mean_95_interval=Interval(low=0.28, high=0.41, method="bootstrap"),
            median=0.3,
            quantiles={},
            area_fraction_at_least={},
            histogram=Histogram(edges=(0, 1), fractions=(1,)),
        ),
        quality=Quality(blurred_fraction=0.2, pen_fraction=0.0, upsampled=False, flags=flags),
        provenance=Provenance(
            slide=SlideFacts(
                name="s",
                size_bytes=1,
                digest="ab" * 16,
                vendor="aperio",
                backend="tiffslide",
                width_px=1,
                height_px=1,
                mpp=0.25,
                mpp_source="reader",
            ),
            bundle=BundleFacts(
                name="model", version="2", digest="cd" * 32, demonstration=demonstration
            ),
            config=settings_of(),
            config_digest="ef" * 32,
            tiling_digest="ab" * 32,
            scoring_digest="cd" * 32,
            execution=Execution(device="cpu", runtime="torch", precision="float32"),
            software={},
        ),
    )


def outcome(name: str, status: str = "scored", **about) -> Outcome:
    if status == "scored":
        about.setdefault("summary", summary())
    return Outcome(name=name, folder=Path(name).stem, status=status, **about)


def night(*outcomes: Outcome) -> NightReport:
    return NightReport(STARTED, STARTED + timedelta(hours=3, minutes=12), "/mnt/inbox", outcomes)


class Page(HTMLParser):
    """What a reader of the page finds."""

    VOID = frozenset({"meta", "img", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr" and "tbody" in self.open:
            self.rows.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "tbody" in self.open and self.rows:
            self.rows[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def read(page: Path) -> Page:
    return Page(page.read_text("utf-8"))


@pytest.fixture
def mixed(tmp_path):
    """A night with one of each, and the outputs of those that have any."""
    rng = np.random.default_rng(0)
    outcomes = [
        outcome("done.svs", "left", kind="done", reason="Scored before.", summary=summary()),
        outcome("b.svs", seconds=312, model_from=10.0, model_until=20.0),
        outcome("late.mrxs", "left", kind="copying", reason="It is still being copied."),
        outcome("old.svs", "left", kind="failed before", reason="As before: it is empty."),
        outcome(
            "broken.svs",
            "failed",
            kind="RuntimeError",
            reason="RuntimeError: <b>",
            traceback="Traceback\n  <i>line</i>",
            retry="another night",
        ),
        outcome("pale.svs", "refused", kind="TissueError", reason="No tissue.", seconds=0.2),
        outcome("A.svs", summary=summary(mean=0.051, flags=("pen marks",)), seconds=95),
    ]
    for name in ("b", "A"):
        (tmp_path / name).mkdir()
        noise = rng.integers(0, 255, (600, 800, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name / "overlay.png", compress_level=1)
        (tmp_path / name / "cellularity.ome.tiff").touch()
    (tmp_path / "pale").mkdir()
    Image.new("RGBA", (30, 2000)).save(tmp_path / "pale" / "tissue-outline.png")
    (tmp_path / "broken").mkdir()
    return tmp_path, outcomes


def test_what_needs_a_person_comes_first(mixed):
    out, outcomes = mixed
    path = write_report(out, night(*outcomes))
    assert path == out / "nights" / "2026-11-23T0200Z" / "index.html"
    page = read(path)
    assert (
        "Of 7 slides, 2 were scored, 1 refused and 1 failed; 3 were left alone. "
        "2 need attention. 1 from an earlier night still does."
    ) in page.words
    assert "Slides of the night of 23 November 2026" in page.words
    assert "2026-11-23 02:00 to 05:12 UTC (3 h 12 min)" in page.words.replace("\xa0", " ")
    shown = ["broken", "pale", "A.svs", "b.svs", "old", "late", "done"]
    assert len(page.rows) == len(shown)
    for name, row in zip(shown, page.rows, strict=True):
        assert name in row
    assert "Traceback" in page.rows[0]
    assert "Tried again on the next night" in page.rows[0]
    assert "Not tried again until the file" in page.rows[1]
    figures = page.rows[2].replace("\xa0", " ")
    for words in ("5.1 %", "28.0 % to 41.0 %", "27.4 mm²", "400 of 412", "pen marks", "2 min"):
        assert words in figures
    assert "research use only" in page.words.lower()


def test_the_page_needs_nothing_from_elsewhere(mixed):
    out, outcomes = mixed
    path = write_report(out, night(*outcomes))
    page = read(path)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "http" not in re.sub(r'http-equiv="', "", path.read_text("utf-8"))
    assert "url(" not in path.read_text("utf-8")
    policy = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for link in page.all("a"):
        target = link["href"]
        if target.startswith("#"):
            assert any(attrs.get("id") == target[1:] for _, attrs in page.tags)
        else:
            assert (path.parent / unquote(target)).exists()
    assert {unquote(link["href"]) for link in page.all("a")} >= {
        "../../A/",
        "../../A/overlay.png",
        "../../A/cellularity.ome.tiff",
        "../../broken/",
        "slides.csv",
        "slides.parquet",
    }
    moved = out.with_name("moved")
    out.rename(moved)
    assert (moved / "nights" / "2026-11-23T0200Z" / "../../A/overlay.png").exists()


def test_the_page_can_be_heard_and_read_without_colours(mixed):
    out, outcomes = mixed
    html = (path := write_report(out, night(*outcomes))).read_text("utf-8")
    page = read(path)
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]
    assert [name for name, _ in page.tags if name in ("h1", "h2")] == ["h1", *["h2"] * 4]
    colours = set(re.findall(r"(?:color|--\w+): (#[0-9a-f]{6})", html)) - {"#d8dee4"}
    assert len(colours) >= 5
    for colour in colours:
        assert contrast(colour, "#ffffff") >= 4.5, colour
        assert contrast(colour, "#f6f8fa") >= 4.5, colour


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2."""

    def luminance(colour: str) -> float:
        shares = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_thumbnails_are_small_and_of_the_right_picture(mixed):
    out, outcomes = mixed
    page = read(write_report(out, night(*outcomes)))
    sources = [image["src"] for image in page.all("img")]
    assert [image["alt"] for image in page.all("img")] == [
        "Tissue found on pale.svs",
        "Cellularity drawn over A.svs",
        "Cellularity drawn over b.svs",
    ]
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/jpeg;base64"
        assert len(b64decode(data)) <= report_page.THUMBNAIL_BYTES
        with Image.open(io.BytesIO(b64decode(data))) as image:
            assert max(image.size) == report_page.THUMBNAIL_PX


def test_pictures_that_cannot_be_shown_are_left_out(tmp_path, monkeypatch, caplog):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "overlay.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    Image.new("RGB", (100, 100)).save(tmp_path / "a" / "tissue-outline.png")
    assert len(read(write_report(tmp_path, night(outcome("a.svs")))).all("img")) == 1
    assert "overlay.png" in caplog.text
    monkeypatch.setattr(report_page, "LARGEST_PICTURE_PX", 99 * 100)
    assert not read(write_report(tmp_path, night(outcome("a.svs")))).all("img")


def test_names_cannot_become_markup(tmp_path):
    folder = tmp_path / Path(NASTY).stem.replace("/", "_")
    folder.mkdir()
    nasty = outcome(NASTY).model_copy(update={"folder": folder.name})
    page = read(write_report(tmp_path, night(nasty)))
    assert NASTY in page.words
    assert not page.all("script")
    links = [unquote(link["href"]) for link in page.all("a")]
    assert f"../../{folder.name}/" in links


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=25, deadline=None)
@given(name=_text, reason=_text, trace=_text, status=st.sampled_from(ORDER))
def test_any_text_leaves_page_and_tables_whole(tmp_path_factory, name, reason, trace, status):
    out = tmp_path_factory.mktemp("night")
    odd = Outcome(name=name, folder="", status=status, reason=reason, traceback=trace)
    plain = odd.model_copy(update={"name": "x", "reason": "x", "traceback": trace and "x"})
    path, like = (write_report(out, night(each)) for each in (odd, plain))
    assert [tag for tag, _ in read(path).tags] == [tag for tag, _ in read(like).tags]

    with (path.parent / "slides.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [row["slide"] for row in csv.DictReader(file)]
    table = pq.read_table(path.parent / "slides.parquet").to_pylist()
    assert [row["slide"] for row in table] == [name]
    assert cells == [spreadsheet_cell(name)]
    for text in (path.read_text("utf-8"), *cells):
        kinds = {unicodedata.category(letter) for letter in text if letter != "\n"}
        assert not kinds & {"Cc", "Cf", "Zl", "Zp"}


def test_a_bed_that_a_person_outlined_is_on_the_page_and_in_the_tables(tmp_path):
    interval = Interval(low=0.3, high=0.5, level=0.9, method="m")
    bed = BedFigures(
        source="drawn", parts=1, area_mm2=120.0, longest_mm=14.0, across_mm=11.0,
        cellularity=0.41, interval=interval, coverage=1.0,
    )  # fmt: skip
    pages = {}
    for source in ("drawn", "proposed"):
        of = summary().model_copy(update={"bed": bed.model_copy(update={"source": source})})
        path = write_report(tmp_path / source, night(outcome("a.svs", summary=of)))
        pages[source] = read(path).words.replace("\xa0", " ")
        (row,) = pq.read_table(path.parent / "slides.parquet").to_pylist()
        assert (row["bed_source"], row["bed_cellularity"], row["bed_low"]) == (source, 0.41, 0.3)
    assert "tumour bed 41.0 %" in pages["drawn"]
    assert "tumour bed 41.0 %" not in pages["proposed"]


def test_the_tables_hold_all_figures(mixed):
    out, outcomes = mixed
    folder = write_report(out, night(*outcomes)).parent
    table = pq.read_table(folder / "slides.parquet")
    rows = table.to_pylist()
    assert [row["slide"] for row in rows] == [
        "broken.svs",
        "pale.svs",
        "A.svs",
        "b.svs",
        "old.svs",
        "late.mrxs",
        "done.svs",
    ]
    assert rows[2] == {
        "slide": "A.svs",
        "folder": "A",
        "status": "scored",
        "kind": None,
        "reason": None,
        "retry": "never",
        "cellularity_mean": 0.051,
        "cellularity_low": 0.28,
        "cellularity_high": 0.41,
        "cellularity_90_low": None,
        "cellularity_90_high": None,
        "cellularity_median": 0.3,
        "estimate_mean": None,
        "estimate_low": None,
        "estimate_high": None,
        "bed_source": None,
        "bed_cellularity": None,
        "bed_low": None,
        "bed_high": None,
        "bed_mm2": None,
        "bed_longest_mm": None,
        "bed_across_mm": None,
        "tissue_mm2": 27.4,
        "coverage": 0.97,
        "tiles_tissue": 412,
        "tiles_scored": 400,
        "tiles_unreadable": 12,
        "blurred_fraction": 0.2,
        "pen_fraction": 0.0,
        "flags": "pen marks",
        "mpp": 0.25,
        "vendor": "aperio",
        "seconds": 95.0,
        "model_s": 0.0,
        "slide_digest": "ab" * 16,
        "bundle": "model 2",
        "bundle_digest": "cd" * 32,
        "config_digest": "ef" * 32,
    }
    assert rows[0]["cellularity_mean"] is None
    with (folder / "slides.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ] == cells
    documented = re.findall(r"^``(\w+)`` +(\w+)", report_table.__doc__, re.MULTILINE)
    types = {"string": "string", "double": "float64", "int64": "int64"}
    assert documented == [(field.name, types[str(field.type)]) for field in table.schema]


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@sum"])
def test_cells_cannot_become_formulas(tmp_path, name):
    folder = write_report(
        tmp_path, night(outcome("a.svs").model_copy(update={"name": name}))
    ).parent
    raw = (folder / "slides.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    (row,) = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
    assert row["slide"] == f"'{name}"
    assert pq.read_table(folder / "slides.parquet")["slide"].to_pylist() == [name]


def test_one_slide_no_slide_and_no_trouble(tmp_path):
    page = read(write_report(tmp_path, night(outcome("a.svs"))))
    assert (
        "Of 1 slide, 1 was scored, 0 refused and 0 failed; 0 were left alone. "
        "Nothing new needs attention."
    ) in page.words
    page = read(write_report(tmp_path, night()))
    assert "There were no slides in the inbox." in page.words
    assert not page.all("table")


def test_a_demonstration_model_is_named_once(tmp_path):
    flagged = summary(demonstration=True, flags=("demonstration model", "out of focus"))
    page = read(write_report(tmp_path, night(*(outcome(n, summary=flagged) for n in "ab"))))
    assert page.words.count("demonstration model") == 1
    assert page.words.count("out of focus") == 2


def test_a_second_night_of_the_same_minute_is_another_one(tmp_path):
    zone = timezone(timedelta(hours=2))
    local = NightReport(
        STARTED.astimezone(zone), STARTED.astimezone(zone), "in", [outcome("a.svs")]
    )
    pages = [write_report(tmp_path, each) for each in (night(), local, local)]
    assert [page.parent.name for page in pages] == [
        "2026-11-23T0200Z",
        "2026-11-23T0200Z-2",
        "2026-11-23T0200Z-3",
    ]
    assert pages[1].read_bytes() == pages[2].read_bytes()
    with ThreadPoolExecutor(8) as threads:  # several at once
        at_once = list(threads.map(lambda _: write_report(tmp_path, local), range(8)))
    assert len({*pages, *at_once}) == 11


def test_files_in_the_way_of_the_page(tmp_path):
    (tmp_path / "nights").write_text("no folder")
    (tmp_path / "nights-2").symlink_to("nights-2")
    page = write_report(tmp_path, night(outcome("a.svs")))
    assert page.relative_to(tmp_path).parts[0] == "nights-3"


def test_idle_time_is_between_the_slides():
    spans = [(10.0, 20.0), (22.0, 30.0), (25.0, 28.0), (30.0, 35.0), (None, None)]
    outcomes = [
        outcome(f"{start}.svs", model_from=start, model_until=end) for start, end in reversed(spans)
    ]
    assert night(*outcomes).model_idle_share() == pytest.approx(2 / 25)
    assert night(*outcomes[:2]).model_idle_share() is None
    assert night().model_idle_share() is None


def test_the_page_is_written_last_or_not_at_all(tmp_path, monkeypatch):
    def fail(_path):
        raise RuntimeError

    monkeypatch.setattr(report_page, "_small_picture", fail)
    with pytest.raises(RuntimeError):
        write_report(tmp_path, night(outcome("a.svs")))
    (folder,) = (tmp_path / "nights").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["slides.csv", "slides.parquet"]


def test_pictures_are_not_gathered_in_memory(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(report_page, "_small_picture", lambda path: f"{path} {'A' * 26_000}")
    slides = [outcome(f"{i}.svs").model_copy(update={"folder": "a"}) for i in range(300)]
    write_report(tmp_path, night(*slides[:1]))
    tracemalloc.start()
    page = write_report(tmp_path, night(*slides))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert page.stat().st_size > 7.8e6
    assert peak < 3e6


def test_estimates_are_shown_as_such(tmp_path):
    estimate = Estimate(
        of="tissue",
        mean=0.3,
        mean_is="a mean",
        low=0.281,
        high=0.319,
        precision=0.02,
        scored=158,
        tiles=1076,
        method="drawn",
        provenance=summary().provenance,
    )
    drawn = outcome("e.svs", "estimated", reason="158 of 1076 tiles are scored.", estimate=estimate)
    path = write_report(tmp_path, night(outcome("s.svs", summary=summary()), drawn))
    page = read(path)
    assert "Of 2 slides, 1 was scored, 1 estimated, 0 refused and 0 failed" in page.words
    row = page.rows[1].replace("\xa0", " ")
    for words in ("e.svs", "28.1 % to 31.9 %", "about 30.0 %", "158 of 1076"):
        assert words in row
    assert "the model's own error is not in it" in page.words
    rows = pq.read_table(path.parent / "slides.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["scored", "estimated"]
    known = rows[1]["estimate_mean"], rows[1]["estimate_low"], rows[1]["estimate_high"]
    assert known == (0.3, 0.281, 0.319)
    assert rows[1]["cellularity_mean"] is None
    assert rows[1]["bundle"] == "model 2"
    assert rows[0]["estimate_mean"] is None


def test_a_night_without_estimates_has_no_word_of_them(mixed):
    out, outcomes = mixed
    assert "stimated" not in read(write_report(out, night(*outcomes))).words
