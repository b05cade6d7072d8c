"""`slides.csv`, as people and their spreadsheets write it."""

import re

import pytest

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.night.inbox_table import SlideRow, SlideTable, find_table, parse_table
from wsi_pipeline.night.remedies import at_night, in_flow
from wsi_pipeline.slide.mpp import MppSources, referee_mpp
from wsi_pipeline.tiles.grid import GridConfig, require_resolution

SLIDES = ("a.svs", "below/b.svs", "below/c.1.svs", "other/b.svs")


def said(text: str, encoding: str = "utf-8") -> dict[str, SlideRow | str]:
    table = parse_table(text.encode(encoding))
    assert not table.fault
    return table.assign(SLIDES)[0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("slide,mpp,allow_upsampling,Fall,bed\na.svs,0.2525,yes,Müller,2\n", "utf-8"),
        ("\nslide,MPP,Allow Upsampling,Fall,bed\r\na.svs,0.2525,TRUE,Müller,2\r\n\r\n", "utf-8"),
        (
            "slide;mpp;allow_upsampling;Fall;bed\r\na.svs;0,2525;ja;Müller;2\r\n;;;;\r\n",
            "utf-8-sig",
        ),
        ("slide;mpp;allow_upsampling;Fall;bed\r\na.svs;0,2525;WAHR;Müller;2\r\n", "cp1252"),
        ("slide\tmpp\tallow_upsampling\tFall\tbed\r\na.svs\t0,2525\tx\tMüller\t2", "utf-16"),
        ('sep=;\nslide;mpp;allow_upsampling;Fall;bed\nA.SVS;"0,2525";1;"Müller";2\n', "utf-8"),
        ('slide,mpp,allow_upsampling,Fall,bed\na,"0,2525",y,"Müller",2\n', "utf-8"),
    ],
)
def test_what_spreadsheets_write(text, encoding):
    text = text.removeprefix("\n")
    row = SlideRow(0.2525, True, {"fall": "Müller", "bed": "2"})
    assert said(text, encoding) == {"a.svs": row}


def test_slides_go_by_path_name_or_stem():
    table = parse_table(b"slide,n\na,1\nbelow\\b.svs,2\nc.1,3\nother/b.svs,4\nz.svs,5\n,6\n")
    by_slide, nobodys = table.assign(SLIDES)
    assert {slide: row.labels["n"] for slide, row in by_slide.items()} == dict(
        zip(SLIDES, "1234", strict=True)
    )
    assert nobodys == [6, 7]
    assert by_slide["a.svs"] == SlideRow(labels={"n": "1"})
    assert SlideTable().assign(SLIDES) == ({}, [])


@pytest.mark.parametrize(
    ("rows", "slides", "problem"),
    [
        ("a.svs,a quarter,", ["a.svs"], "line 2: 'a quarter' is no mpp. Give the µm per pixel"),
        ("a.svs,250,", ["a.svs"], "line 2: '250' is no mpp"),
        ("a.svs,-0.25,", ["a.svs"], "is no mpp"),
        ("a.svs,0,25,yes", ["a.svs"], "line 2: it has more cells than the first line has columns"),
        ("a.svs,,perhaps", ["a.svs"], "'perhaps' is neither yes nor no"),
        ("a.svs,0.5,\na.svs,0.5,", ["a.svs"], "line 2: line 3 names the same slide. Keep one"),
        ("a.svs,0.5,\na,0.25,", ["a.svs"], "line 2: line 3 names the same slide"),
        ("b.svs,0.5,", ["below/b.svs", "other/b.svs"], "it names more than one slide"),
        ("a.svs,\x1b[31m,", ["a.svs"], "is no mpp"),
    ],
)
def test_a_row_that_cannot_be_used_costs_its_slides(rows, slides, problem):
    found = said(f"slide,mpp,allow_upsampling\n{rows}\nbelow/c.1.svs,0.5,\n")
    assert found.pop("below/c.1.svs") == SlideRow(mpp=0.5)
    assert sorted(found) == slides
    for fault in found.values():
        assert problem in fault
        assert "\x1b" not in fault


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "its first line has no column 'slide'"),
        (b"file,mpp\na.svs,0.5\n", "its first line has no column 'slide'"),
        (b"slide,mmp\na.svs,0.5\n", "there is no setting 'mmp'.* write 'mpp'"),
        (b"slide,allow_upscaling\na.svs,1\n", "there is no setting .* write 'allow_upsampling'"),
        (b"slide,mpp um\na.svs,1\n", "there is no setting 'mpp_um'"),
        (b"slide,case,Case\na.svs,1,2\n", "two columns are called 'case'"),
        (b'slide,case\na.svs,"1\n', "this is no table"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no column 'slide'|no table"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(content, problem):
    table = parse_table(content)
    assert table.fault.startswith("slides.csv")
    assert re.search(problem, table.fault)


def test_where_it_is_looked_for(tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    assert find_table(str(inbox)) == SlideTable()
    (tmp_path / "slides.csv").write_text("slide,mpp\na,0.5\n")
    assert find_table(f"{inbox}/").rows == {2: {"slide": "a", "mpp": "0.5"}}
    (inbox / "slides.csv").write_text("slide,mpp\na,0.25\n")
    assert find_table(str(inbox)).rows == {2: {"slide": "a", "mpp": "0.25"}}
    (inbox / "slides.csv").unlink()
    (inbox / "slides.csv").mkdir()
    assert "is no file" in find_table(str(inbox)).fault


def test_a_message_names_what_is_at_hand_where_it_is_read():
    errors = []
    for call in (
        lambda: referee_mpp(MppSources(), None, "a.svs"),
        lambda: require_resolution(Mpp(1.0), GridConfig(), "a.svs"),
    ):
        with pytest.raises(MppError) as caught:
            call()
        errors.append(str(caught.value))
    for error, option, column in zip(
        errors, ("--mpp", "--allow-upsampling"), ("mpp", "allow_upsampling"), strict=True
    ):
        assert option in error
        assert "--" not in at_night(error)
        row = rf"Add a row for it to slides\.csv in the inbox, with .*{column}"
        assert re.search(row, at_night(error))
        assert "--" not in in_flow(error)
        assert f"the parameter {column}" in in_flow(error)
